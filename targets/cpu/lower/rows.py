"""Lowers softmax and normalizations over the last axes with kernels that go over each row a few times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from hardy.compiler.ir import Node
from hardy.compiler.ops.activation import Softmax
from hardy.compiler.ops.norm import LayerNorm, RmsNorm
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels.emit import Expr
from hardy.targets.cpu.kernels.kernel import Epilogue, EpilogueOperand, Kernel
from hardy.targets.cpu.kernels.reduce import layer_norm, rms_norm, softmax
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.kernel_call import lower_kernel
from hardy.targets.cpu.select import Selector
from hardy.targets.target import YES, Support, no


def takes(node: Node) -> Support:
    """f32 over the last axis (normalizations: the last axes)."""
    op, t = node.op, node.type
    if t.dtype is not DType.f32:
        return no(f"{op.name} of {t.dtype} is decomposed")
    if isinstance(op, Softmax) and t.rank and op.axis != t.rank - 1:
        return no("softmax over an axis that is not the last is decomposed")
    return YES if t.size else no("empty")


def lower_rows(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    op, (x, *vectors) = anchor.op, anchor.operands
    if x.node in set(cluster.nodes):
        return False
    shape = anchor.type.shape
    axis = len(shape) - 1 if isinstance(op, Softmax) else op.axis  # type: ignore[attr-defined]
    n = math.prod(shape[axis:]) if shape else 1
    rows = anchor.type.size // n
    isa, threads = selector.isa, selector.threads
    if axis != len(shape) - 1 and len(cluster.nodes) > 1:
        # Vectors along the last axis do not run along the row.
        return False

    def build(e: Epilogue) -> Kernel:
        if isinstance(op, Softmax):
            return softmax(rows, n, isa, epilogue=e, threads=threads)
        e = _affine(e, len(vectors))
        if isinstance(op, LayerNorm):
            return layer_norm(rows, n, isa, eps=op.epsilon, epilogue=e, threads=threads)
        assert isinstance(op, RmsNorm)
        return rms_norm(rows, n, isa, eps=op.epsilon, epilogue=e, threads=threads)

    return lower_kernel(selector, cluster, anchor, "rows", build, anchor.operands)


def _affine(e: Epilogue, count: int) -> Epilogue:
    """Scale, and shift, before the rest of the epilogue."""
    inner = e.apply

    def apply(acc: Expr, operands: Sequence[Expr]) -> Expr:
        if count:
            acc = acc * operands[0]
        if count == 2:
            acc = acc + operands[1]
        return inner(acc, operands[count:])

    own = (EpilogueOperand("float32", "channel"),) * count
    return replace(e, operands=(*own, *e.operands), apply=apply)
