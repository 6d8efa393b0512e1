"""How the passes' own time grows with the graph: `python -m benchmarks.scale [NODES [FACTOR]]`.

Runs the default pipeline and grouping on a synthetic graph of about NODES nodes (20,000) and on one
FACTOR (10) times as large, and prints the seconds of each pass and their ratio. Linear work gives a
ratio of about FACTOR.
"""

from __future__ import annotations

import sys
import time

import torch

from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.ops.activation import Relu
from hardy.compiler.ops.elementwise import Add, Mul, Neg
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.shape import Reshape, Slice, Transpose
from hardy.compiler.ops.transcendental import Exp, Tanh
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.types import DType, TensorType
from hardy.passes.group import Anchor, FormGroups, GroupPolicy
from hardy.passes.pipelines import DEFAULT

# Nodes that one block adds.
BLOCK = 25


def synthetic(nodes: int) -> Graph:
    """Blocks of what the passes look for: products, transpositions that cancel, repeated and dead
    work, constants to fold, residual edges, and now and then an edge over the whole graph."""
    rows = TensorType(DType.f32, (4, 8))
    b = Builder("scale")
    x = b.input("x", rows)
    weight = b.constant(torch.eye(8))
    first: Value = x
    for i in range(nodes // BLOCK):
        with b.at(f"block {i}"):
            start = x
            y = b(Matmul(), x, weight)
            y = b(Add(), y, b.constant(torch.full((8,), float(i % 5))))
            y = b(Relu(), y)
            y = b(Transpose((1, 0)), y)
            y = b(Tanh(), y)
            y = b(Transpose((1, 0)), y)
            y = b(Mul(), y, b.scalar(1, DType.f32))
            y = b(Reshape((32,)), y)
            y = b(Neg(), b(Neg(), y))
            y = b(Reshape((4, 8)), y)
            folded = b(Exp(), b(Neg(), b.constant(torch.zeros(8))))
            y = b(Mul(), y, folded)
            b(Exp(), y)
            same = b(Add(), b(Tanh(), start), b(Tanh(), start))
            y = b(Slice((0, 0), (4, 8), (1, 1)), y)
            x = b(Add(), b(Add(), y, same), first if i % 10 == 0 else start)
    return b.finish({"y": x})


def main() -> None:
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    factor = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    policy = GroupPolicy(anchors={Matmul: Anchor("matmul")})
    columns = []
    for size in (nodes, nodes * factor):
        started = time.perf_counter()
        graph = synthetic(size)
        built = time.perf_counter() - started
        started = time.perf_counter()
        result = Pipeline((*DEFAULT, FormGroups(policy))).run(graph)
        whole = time.perf_counter() - started
        rows = [(f"{r.index:02d} {r.name}", r.seconds) for r in result.records]
        columns.append([("build", built), *rows, ("whole pipeline, with checks", whole)])
        print(f"{len(graph.nodes)} nodes -> {len(result.graph.nodes)}", flush=True)
    for (name, small), (_, large) in zip(*columns, strict=True):
        print(f"{name:40} {small:9.3f} s {large:9.3f} s  x{large / max(small, 1e-9):6.1f}")


if __name__ == "__main__":
    main()
