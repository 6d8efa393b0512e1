"""A new target in one file: programs are lists of NumPy calls. docs/new-target.md explains each part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import hardy
from hardy.compiler.ir import Constant, Graph, Input, Node
from hardy.compiler.ops.elementwise import Add, Div, Max, Mul, Neg, Sub
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.shape import Transpose
from hardy.compiler.ops.transcendental import Exp
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes.decompose import Decompose
from hardy.targets.target import YES, Device, Loaded, Package, Runner, Stage, Support, no

CALLS = {
    Add: "add", Sub: "subtract", Mul: "multiply", Div: "divide", Max: "maximum", Neg: "negative", Exp: "exp",
    Matmul: "matmul", Transpose: "transpose",
}  # fmt: skip


def supports(node: Node) -> Support:
    if any(t.dtype is not DType.f32 for t in node.types):
        return no("only f32 was tried")
    if isinstance(node.op, Input | Constant):
        return YES
    if isinstance(node.op, Matmul) and (node.op.transpose_a or node.op.transpose_b):
        return no("np.matmul does not transpose")
    return YES if type(node.op) in CALLS else no(f"there is no NumPy call for {node.op.name}")


def lower(graph: Graph) -> Package:
    """Number the values; write down which call makes which value from which."""
    numbers = {value: i for i, value in enumerate(v for node in graph.nodes for v in node.values)}
    calls, weights = [], {}
    for node in graph.nodes:
        result = numbers[node.values[0]]
        if isinstance(node.op, Constant):
            weights[str(result)] = node.op.literal.tensor
        elif not isinstance(node.op, Input):
            axes = [node.op.permutation] if isinstance(node.op, Transpose) else []
            calls.append([result, CALLS[type(node.op)], [numbers[v] for v in node.operands], *axes])
    ends = {"inputs": [numbers[v] for v in graph.inputs], "outputs": [numbers[v] for v in graph.outputs]}
    return Package({"calls.json": json.dumps(calls).encode()}, weights, ends)


@dataclass(frozen=True)
class NumpyRunner:
    calls: Sequence[Any]
    constants: dict[int, np.ndarray[Any, Any]]
    manifest: Any

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        given = zip(self.manifest["inputs"], inputs, strict=True)
        values = self.constants | {i: tensor.numpy() for i, tensor in given}
        for result, name, operands, *axes in self.calls:
            values[result] = getattr(np, name)(*(values[i] for i in operands), *axes)
        return tuple(torch.from_numpy(np.array(values[i])) for i in self.manifest["outputs"])


class NumpyTarget(hardy.Target):
    kind = "numpy"
    summary = "a list of NumPy calls"

    @classmethod
    def create(cls, argument: str) -> NumpyTarget:
        return cls()

    @property
    def name(self) -> str:
        return "numpy"

    def describe(self) -> Device:
        return Device("NumPy", "cpu")

    def supports(self, node: Node) -> Support:
        return supports(node)

    def passes(self) -> tuple[Pass, ...]:
        return (Decompose(supports),)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("lower", lower, lambda package: package.files),)

    def load(self, artifact: Loaded) -> Runner:
        constants = {int(i): t.numpy() for i, t in artifact.weights.items()}
        return NumpyRunner(
            json.loads((artifact.folder / "calls.json").read_text()), constants, artifact.manifest
        )


class Gate(torch.nn.Module):
    """silu(x a) * (x b): two matrix products and a composite that the target has never heard of."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.randn(8, 16))
        self.b = torch.nn.Parameter(torch.randn(8, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x @ self.a) * (x @ self.b)


def main() -> tuple[torch.Tensor, torch.Tensor]:
    """Compile for the new target and run; what PyTorch and the target compute."""
    torch.manual_seed(0)
    module, x = Gate().eval(), torch.randn(4, 8)
    artifact = hardy.compile(module, (x,), target=NumpyTarget())
    (y,) = artifact.run(x=x).values()
    expected = module(x).detach()
    print(artifact)
    print(f"largest difference from PyTorch: {(y - expected).abs().max():.2g}")
    try:
        hardy.compile(torch.nn.Conv1d(2, 3, 3).eval(), (torch.randn(1, 2, 9),), target=NumpyTarget())
    except hardy.UnsupportedError as error:
        print(f"a convolution is refused: {error}")
    return expected, y


if __name__ == "__main__":
    main()
