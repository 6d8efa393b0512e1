"""Fashion-MNIST (Xiao et al., 2017): 60,000 and 10,000 images of 28 x 28 in ten classes.

The files come with Debian's package dataset-fashion-mnist (`apt-get install dataset-fashion-mnist`);
HARDY_FASHION_MNIST names another folder that holds them.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

FOLDER = Path("/usr/share/datasets/fashion-mnist")
MEAN, DEVIATION = 0.2860, 0.3530
IMAGES, LABELS = 0x803, 0x801


@dataclass(frozen=True)
class Images:
    """Normalized images [n, 1, 28, 28] in f32 and their classes [n] in i64."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)

    def part(self, start: int, stop: int) -> Images:
        return Images(self.x[start:stop], self.y[start:stop])


def load(split: str) -> Images:
    """The images of "train" or "t10k"; FileNotFoundError says how to get them."""
    folder = Path(os.environ.get("HARDY_FASHION_MNIST", FOLDER))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Fashion-MNIST is not at {folder}: "
            "apt-get install dataset-fashion-mnist, or set HARDY_FASHION_MNIST"
        )
    pixels = _read(folder / f"{split}-images-idx3-ubyte.gz", IMAGES)
    labels = _read(folder / f"{split}-labels-idx1-ubyte.gz", LABELS)
    x = (torch.from_numpy(pixels).float()[:, None] / 255 - MEAN) / DEVIATION
    return Images(x, torch.from_numpy(labels).long())


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A batch shifted by up to two pixels, half of it mirrored."""
    dy, dx = torch.randint(0, 5, (2,), generator=generator).tolist()
    low = float(x.min())
    x = F.pad(x, (2, 2, 2, 2), value=low)[:, :, dy : dy + 28, dx : dx + 28]
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)


def _read(path: Path, magic: int) -> np.ndarray:
    """An IDX file: magic number, sizes of the axes, all big-endian, and bytes."""
    with gzip.open(path) as file:
        data = file.read()
    head = np.frombuffer(data, ">i4", 1 + (magic & 0xFF))
    if head[0] != magic:
        raise ValueError(f"{path} is not an IDX file of this kind: magic number {head[0]:#x}")
    return np.frombuffer(data, np.uint8, offset=head.nbytes).reshape(head[1:]).copy()
