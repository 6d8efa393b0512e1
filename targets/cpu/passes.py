"""The pipeline that brings a graph into the form that the CPU target lowers."""

from __future__ import annotations

from hardy.compiler.ir import Node
from hardy.compiler.ops import activation, binary, linear, norm, pool, quant, reduce
from hardy.compiler.pipeline import Pass
from hardy.passes.channels_last import ChannelsLast
from hardy.passes.decompose import Decompose
from hardy.passes.fold_constants import FoldConstants
from hardy.passes.fuse_dequantize import FuseDequantize
from hardy.passes.group import Anchor, FormGroups, GroupPolicy
from hardy.passes.lower_binary import LowerBinary
from hardy.passes.lower_quantization import LowerQuantization
from hardy.passes.pipelines import CLEANUP, DEFAULT
from hardy.passes.widen_convolutions import WidenConvolutions
from hardy.targets.cpu.lower.scalar import needs_library
from hardy.targets.cpu.lower.table import supports


def accept(anchor: Node, member: Node) -> bool:
    """Calls into the C library would turn a vector kernel into a scalar one: they stay outside."""
    return not needs_library(member) or needs_library(anchor)


POLICY = GroupPolicy(
    anchors={
        linear.Matmul: Anchor("matmul"),
        linear.Conv: Anchor("conv"),
        quant.DequantizeMatmul: Anchor("matmul"),
        quant.IntegerMatmul: Anchor("integer_matmul"),
        quant.IntegerConv: Anchor("integer_conv"),
        binary.BinaryMatmul: Anchor("binary_matmul", chain=frozenset({binary.PackBits})),
        binary.BinaryConv: Anchor("binary_conv", chain=frozenset({binary.PackBits})),
        binary.PackBits: Anchor("pack_bits", producers=True, consumers=False),
        pool.MaxPool: Anchor("pool"),
        pool.AvgPool: Anchor("pool"),
        activation.Softmax: Anchor("rows"),
        norm.LayerNorm: Anchor("rows"),
        norm.RmsNorm: Anchor("rows"),
        reduce.ReduceSum: Anchor("reduce", producers=True),
        reduce.ReduceProd: Anchor("reduce", producers=True),
        reduce.ReduceMax: Anchor("reduce", producers=True),
        reduce.ReduceMin: Anchor("reduce", producers=True),
    },
    widening=frozenset({quant.Dequantize}),
    shapes=frozenset({"same", "scalar", "last", "row"}),
    accept=accept,
)


def pipeline() -> tuple[Pass, ...]:
    """Compute products of signs with bits, clean up, find composites, compute quantized layers with integers,
    put channels last, expand what has no kernel, group.

    Weights that no integer op takes are unpacked after that.
    """
    return (
        LowerBinary(),
        *DEFAULT,
        LowerQuantization(),
        FuseDequantize(),
        FoldConstants(unpack=True),
        WidenConvolutions(),
        ChannelsLast(),
        Decompose(supports),
        *CLEANUP,
        FormGroups(POLICY),
    )
