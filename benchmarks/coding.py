"""How small coded weights are, and how fast they are read: `python -m benchmarks.coding [SIZE]`.

Matrices of SIZE x SIZE (2,048) normal weights, compressed in the usual ways. Rates are bytes of the
decoded tensor in a second of one core; "entropy" is the order-0 entropy of few values, which a Huffman
code cannot go below.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hardy.compiler import kmeans
from hardy.compiler.artifact.coding import decode, encode, read
from hardy.compiler.literal import Literal


def shared(w: Tensor, values: int) -> Tensor:
    """The nearest of so many values for each element that is not zero."""
    kept = w != 0
    inside = w[kept].numpy()
    codebook = kmeans.codebook(inside, values)
    result = w.clone()
    result[kept] = torch.from_numpy(codebook[kmeans.assign(inside, codebook)]).float()
    return result


def samples(size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(size, size, generator=generator)
    sparse = torch.where(w.abs() > w.abs().flatten().kthvalue(int(0.9 * w.numel())).values, w, 0.0)
    return {
        "f32": w,
        "bf16": w.bfloat16(),
        "int8": (w * 30).round().clamp(-127, 127).to(torch.int8),
        "16 values": shared(w, 16),
        "90 % pruned": sparse,
        "90 % pruned, 8 values": shared(sparse, 7),
    }


def entropy(w: Tensor) -> str:
    """Bytes of all elements at the order-0 entropy of their values; nothing where there are many."""
    _, counts = np.unique(w.float().numpy(), return_counts=True)
    if len(counts) > 256:
        return ""
    p = counts / counts.sum()
    return f"{-(p * np.log2(p)).sum() * w.numel() / 8:,.0f}"


def main() -> None:
    torch.set_num_threads(1)
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    table = Table("weights", "form", "bytes", "smaller", "entropy", "encode MB/s", "decode MB/s")
    for name, w in samples(size).items():
        literal = Literal(w)
        started = time.process_time()
        stream = encode(literal)
        encoded = time.process_time() - started
        times = []
        for _ in range(5):
            started = time.process_time()
            decode(stream, literal.digest)
            times.append(time.process_time() - started)
        rates = [f"{w.nbytes / 1e6 / s:.0f}" for s in (encoded, sorted(times)[2])]
        ratio = f"{w.nbytes / len(stream):.2f}x"
        table.add_row(name, read(stream).summary, f"{len(stream):,}", ratio, entropy(w), *rates)
    Console().print(table)


if __name__ == "__main__":
    main()
