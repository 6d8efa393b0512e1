"""Gradients through steps: what training computes in place of ops whose derivative is zero.

The straight-through estimator (Bengio et al., 2013, arXiv:1308.3432) takes a rounding for the
identity where the value is inside the range, and for a constant where it saturates. Narrow integers
stay floats with whole values here, so that gradients flow through them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from hardy.compiler.ir import Node, Op
from hardy.compiler.ops.binary import Binarize, Ternarize
from hardy.compiler.ops.elementwise import Round, Sign
from hardy.compiler.ops.linear import back_to, channels_first
from hardy.compiler.ops.pool import MaxPool
from hardy.compiler.ops.quant import Dequantize, Quantize, spread
from hardy.compiler.ops.reduce import limit

Surrogate = Callable[..., Tensor]


def rounded(x: Tensor) -> Tensor:
    """x rounded, halves to even, with the gradient of x."""
    return x + (x.round() - x).detach()


def _round(op: Op, x: Tensor) -> Tensor:
    return rounded(x)


def _sign(op: Op, x: Tensor) -> Tensor:
    """The sign, with the gradient of x where |x| <= 1 (Hubara et al., 2016, arXiv:1602.02830)."""
    return _clipped(x, x.sign())


def _clipped(x: Tensor, signs: Tensor) -> Tensor:
    inside = x.clamp(-1.0, 1.0)
    return inside + (signs - inside).detach()


def _binarize(op: Op, x: Tensor) -> Tensor:
    assert isinstance(op, Binarize)
    return _clipped(x, op.reference(x))


def _ternarize(op: Op, x: Tensor, threshold: Tensor) -> Tensor:
    """The gradient of x, below the threshold too (Li et al., 2016, arXiv:1605.04711, algorithm 1)."""
    assert isinstance(op, Ternarize)
    return x + (op.reference(x, threshold) - x).detach()


def _quantize(op: Op, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    assert isinstance(op, Quantize)
    scaled = x.float() / spread(scale.float(), x, op.axis, op.block)
    if op.dtype.is_float:
        exact = op.reference(x, scale).float()
        return scaled + (exact - scaled).detach()
    q = rounded(scaled)
    if zero_point is not None:
        q = q + spread(zero_point.float(), x, op.axis, op.block)
    return q.clamp(*op.dtype.range)


def _dequantize(op: Op, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    assert isinstance(op, Dequantize)
    q = x.float()
    if zero_point is not None:
        q = q - spread(zero_point.float(), x, op.axis, op.block)
    return (q * spread(scale.float(), x, op.axis, op.block)).to(scale.dtype)


def _max_pool(op: Op, x: Tensor) -> Tensor:
    """The same values from torch's own op, whose gradient costs a fraction: it goes to the first of equal
    elements, not to all of them."""
    assert isinstance(op, MaxPool)
    if not x.is_floating_point():
        return op.reference(x)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(op.kernel)]
    padded = op.padded(channels_first(x, op.layout), limit(x.dtype, lowest=True))
    y = pool(padded, op.kernel, op.strides, 0, op.dilations)
    return back_to(y, op.layout)


SURROGATES: dict[type[Op], Surrogate] = {
    Round: _round,
    Sign: _sign,
    Binarize: _binarize,
    Ternarize: _ternarize,
    Quantize: _quantize,
    Dequantize: _dequantize,
    MaxPool: _max_pool,
}


def compute(node: Node, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What training computes for a node: its surrogate, else its reference."""
    surrogate = SURROGATES.get(type(node.op))
    results = node.op.reference(*operands) if surrogate is None else surrogate(node.op, *operands)
    return results if isinstance(results, tuple) else (results,)
