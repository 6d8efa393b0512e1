"""The structures that zeros in a weight may have, and the choice of zeros by score.

"element": anywhere. "N:M": of every M consecutive input channels N are kept (Mishra et al., 2021,
arXiv:2104.08378). "RxC": blocks of R output by C input channels. A convolution's kernel positions
are on their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hardy.compiler.errors import UsageError

CHANNELS = "channels"
_FORM = re.compile(r"([1-9][0-9]*)([:x])([1-9][0-9]*)\Z")


@dataclass(frozen=True)
class Structure:
    """Blocks of `rows` x `columns` weights that are zero together; with `of` > 0, `kept` of every `of`
    consecutive input channels are not zero."""

    rows: int = 1
    columns: int = 1
    kept: int = 0
    of: int = 0

    @property
    def sparsity(self) -> float | None:
        """The share of zeros where the structure gives it."""
        return 1 - self.kept / self.of if self.of else None

    def refuses(self, shape: tuple[int, int, int]) -> str:
        """Why a weight [out, in, positions] cannot have it, "" where it can."""
        if self.of and shape[1] % self.of:
            return f"its {shape[1]} input channels are no multiple of {self.of}"
        if shape[0] < self.rows or shape[1] < self.columns:
            return f"it is smaller than a block of {self.rows}x{self.columns}"
        return ""


def parse_structure(text: str) -> Structure:
    """A structure by its name; UsageError lists the forms."""
    if text == "element":
        return Structure()
    match = _FORM.match(text)
    if match is None or (match[2] == ":" and int(match[1]) > int(match[3])):
        raise UsageError(
            f"there is no structure {text!r}",
            hint="a structure is element, channels, N:M such as 2:4 (N <= M), or RxC such as 1x4",
        )
    first, second = int(match[1]), int(match[3])
    return Structure(kept=first, of=second) if match[2] == ":" else Structure(first, second)


def keep(scores: Sequence[Tensor], structure: Structure, sparsity: float) -> list[Tensor]:
    """Which weights to keep, for weights [out, in, positions] ranked together: those of the best scores.

    The zeros are at most the share `sparsity` of the units (elements or blocks, which count alike), the
    lower index first among equals. No weight loses all of its units unless all are asked for.
    """
    if structure.of:
        return [_keep_n_of_m(s, structure.kept, structure.of) for s in scores]
    blocks = [_blocks(s, structure) for s in scores]
    flat = torch.cat([b.reshape(-1) for b in blocks])
    if sparsity < 1:
        start = 0
        for b in blocks:
            flat[start + int(b.reshape(-1).argmax())] = torch.inf
            start += b.numel()
    most = len(flat) - (len(blocks) if sparsity < 1 else 0)
    count = min(int(sparsity * len(flat) + 1e-9), most)
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[flat.argsort(stable=True)[:count]] = False
    result, start = [], 0
    for s, b in zip(scores, blocks, strict=True):
        mask = kept[start : start + b.numel()].reshape(b.shape)
        mask = mask.repeat_interleave(structure.rows, 0).repeat_interleave(structure.columns, 1)
        result.append(mask[: s.shape[0], : s.shape[1]])
        start += b.numel()
    return result


def _keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    out, inside, positions = scores.shape
    runs = scores.reshape(out, inside // m, m, positions)
    order = runs.argsort(dim=2, descending=True, stable=True)
    kept = torch.zeros_like(runs, dtype=torch.bool).scatter(2, order[:, :, :n], True)
    return kept.reshape(scores.shape)


def _blocks(scores: Tensor, structure: Structure) -> Tensor:
    """The mean score of each block [out blocks, in blocks, positions]; blocks at the edge are smaller."""
    r, c = structure.rows, structure.columns
    if r == c == 1:
        return scores.clone()
    low = (0, 0, 0, -scores.shape[1] % c, 0, -scores.shape[0] % r)

    def total(x: Tensor) -> Tensor:
        out, inside, positions = (x := F.pad(x, low)).shape
        return x.reshape(out // r, r, inside // c, c, positions).sum((1, 3))

    return total(scores) / total(torch.ones_like(scores))
