"""Samples of torch's own operator tests, as small modules."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils import _pytree as pytree

from hardy.compiler.frontends.torch import trace
from hardy.compiler.interpret import run
from hardy.compiler.ops.attention import Attention
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import GroupNorm, LayerNorm, ReduceMean, RmsNorm
from hardy.compiler.ops.recurrent import Recurrent
from hardy.compiler.ops.reduce import CumSum, ReduceSum
from hardy.compiler.ops.resize import Resize
from hardy.compiler.tolerance import require_close

# Results of these are sums, whose rounding errors grow with their terms, not with what is left of them.
_SUMS = (
    Attention,
    Conv,
    CumSum,
    LayerNorm,
    GroupNorm,
    Matmul,
    ReduceMean,
    ReduceSum,
    Recurrent,
    Resize,
    RmsNorm,
)

ALL_ENTRIES: dict[str, OpInfo] = {op.full_name: op for op in op_db}
ENTRIES: dict[str, OpInfo] = {
    name: op for name, op in ALL_ENTRIES.items() if torch.float32 in op.supported_dtypes("cpu")
}


class Call(nn.Module):
    """One call of an operator: its tensors are the inputs, its other arguments are fixed."""

    def __init__(self, op: OpInfo, arguments: tuple[Any, tuple[Any, ...], dict[str, Any]]) -> None:
        super().__init__()
        leaves, self.spec = pytree.tree_flatten(arguments)
        self.op = op
        self.fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.tensors = tuple(leaves[i].detach() for i in self.places)

    def forward(self, *tensors: Tensor) -> Any:
        leaves = list(self.fixed)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        first, args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.op(first, *args, **kwargs)


@dataclass(frozen=True)
class Sample:
    """A call and where it stands in the entry's list."""

    number: int
    call: Call


# How many samples of an entry a thorough run takes; a few entries have more than a thousand.
MOST = 30


def samples(name: str, *, thorough: bool) -> list[Sample]:
    """Float32 samples of an entry: the first three, the middle and the last, or thirty evenly spread."""
    torch.manual_seed(zlib.crc32(name.encode()))
    op = ENTRIES[name]
    found = list(op.sample_inputs("cpu", torch.float32))
    last = len(found) - 1
    spread = range(min(MOST, len(found)))
    chosen = {0, 1, 2, len(found) // 2, last}
    if thorough:
        chosen |= {round(i * last / max(len(spread) - 1, 1)) for i in spread}
    return [
        Sample(i, Call(op, (found[i].input, found[i].args, found[i].kwargs)).eval())
        for i in sorted(chosen)
        if 0 <= i < len(found)
    ]


def check(sample: Sample) -> None:
    """Trace a sample, run the graph and compare it with torch."""
    call = sample.call
    with torch.no_grad():
        result = call(*[t.clone() for t in call.tensors])
    expected = [leaf for leaf in pytree.tree_leaves(result) if leaf is not None]
    graph = trace(call, call.tensors)
    actual = list(run(graph, dict(zip(graph.input_names, call.tensors, strict=True))).values())
    assert len(actual) == len(expected)
    scaled = any(isinstance(node.op, _SUMS) for node in graph.nodes)
    for number, (x, y) in enumerate(zip(expected, actual, strict=True)):
        tensor = x if isinstance(x, Tensor) else torch.tensor(x, dtype=y.dtype)
        require_close(f"output {number} of sample {sample.number}", tensor, y, scaled=scaled)
