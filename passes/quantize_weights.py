"""Quantizes weights alone: integers in storage, floats in the products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from typing import Literal as OneOf

import torch
from torch import Tensor

from hardy.compiler.calibration import Grid, Samples, SecondMoments, open_samples
from hardy.compiler.errors import UnsupportedError, UsageError
from hardy.compiler.interpret import run_node
from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.literal import Literal
from hardy.compiler.notes import note
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.ops.shape import Gather, Reshape
from hardy.compiler.pipeline import Pass, sqnr
from hardy.compiler.progress import tell
from hardy.compiler.types import DType
from hardy.passes.channel_scales import Edit, Factors, input_axis
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.layer_inputs import grouped_rows, moments_of_inputs
from hardy.passes.layers import Layer, layers, select
from hardy.passes.rounding.awq import search_scales
from hardy.passes.rounding.blocks import Blocks, output_errors
from hardy.passes.rounding.clipping import least_output_error
from hardy.passes.rounding.gptq import gptq

Method = OneOf["nearest", "gptq", "awq", "awq_gptq"]
ZERO_POINTS = ("none", "whole", "real")
METHODS = ("nearest", "gptq", "awq", "awq_gptq")
CLIPS = ("weights", "outputs")


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store weights as integers with a scale for each output channel or block of it.

    `weights` is i8, u8, i4 or u4. `block` input channels of an output channel share a scale, all of
    them for 0; convolutions have one for each output channel. `zero_points` are "none" (the default of
    signed types), "whole" (of unsigned ones), or "real", which need more memory and keep the most
    (Badri and Shaji, 2023, half-quadratic quantization); those of convolutions are whole.

    `clip` says by what error ranges of blocks are chosen where weights are rounded to nearest: that of the
    "weights", weighed by the mean squares of the inputs where a method learns them, or with "outputs" that
    of each block's share of the output, which is learned from `calibration` too. GPTQ chooses by the former,
    since it has no use for ranges that suit rounding to nearest.

    `method`: "nearest" rounds to nearest and needs no data; "gptq" (Frantar et al., 2022, with
    `damping`, and `by_activity` for its order by activity) lets the weights to come make up for the
    error of those that were rounded; "awq" (Lin et al., 2023) scales input channels by how large they
    are, folded into what computes them, or as a product at run time where it cannot be; "awq_gptq"
    does both. They learn the second moments of each layer's input from `calibration` (`samples` feeds,
    all by default), with the layers before quantized already, in as many sweeps over the data as are
    needed to hold no more than `memory` bytes of them.

    A weight that `gather` reads as well, such as that of an embedding, is stored once for both.
    Weights of fewer than `least` elements stay float. `only` and `skip` select layers.

    Raises UsageError for options that do not fit, InputError for data that does not, and
    UnsupportedError for weights that are not finite.
    """

    exact: ClassVar[bool] = False

    weights: DType = DType.i8
    block: int = 0
    method: Method = "nearest"
    zero_points: OneOf["none", "whole", "real"] | None = None
    clip: OneOf["weights", "outputs"] = "weights"
    calibration: Any = None
    samples: int | None = None
    damping: float = 0.01
    by_activity: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    least: int = 1 << 10
    memory: int = 1 << 28

    def run(self, graph: Graph) -> Graph:
        grid = self._grid()
        chosen, kept = self._choose(graph)
        note("kept_float", kept)
        if not chosen:
            return graph
        work = _Work(self, graph, grid, chosen)
        if self.method == "nearest" and self.clip == "weights":
            for number, layer in enumerate(chosen):
                tell("round weights", number, len(chosen))
                work.round([layer], None)
        else:
            if self.calibration is None:
                raise UsageError(
                    f"quantize_weights has no calibration data for {self.method}, clipped by {self.clip}",
                    hint="give some: calibration=... in Python, --calibration on the command line",
                )
            samples = open_samples(self.calibration, graph.input_types())
            work.sweep(samples if self.samples is None else samples.first(self.samples))
        note("layers", work.report)
        return work.finish()

    def _grid(self) -> Grid:
        if self.method not in METHODS:
            raise UsageError(f"there is no method {self.method!r}", hint=f"there are {', '.join(METHODS)}")
        if self.clip not in CLIPS:
            raise UsageError(f"nothing is clipped by {self.clip!r}", hint=f"there are {', '.join(CLIPS)}")
        if self.clip == "outputs" and self.method.endswith("gptq"):
            raise UsageError(
                f"{self.method} chooses ranges as it goes", hint="leave clip out, or use nearest or awq"
            )
        if self.block < 0:
            raise UsageError(f"a block has at least one element, got {self.block}", hint="0 is a whole row")
        if self.damping <= 0:
            raise UsageError(f"the damping must be positive, got {self.damping}")
        if self.zero_points not in (None, *ZERO_POINTS):
            raise UsageError(f"no zero points are {self.zero_points!r}", hint=f"use {', '.join(ZERO_POINTS)}")
        signed = self.weights.is_integer and self.weights.range[0] < 0
        kind = self.zero_points or ("none" if signed else "whole")
        return Grid(self.weights, symmetric=kind == "none", real_zero=kind == "real")

    def _choose(self, graph: Graph) -> tuple[list[Layer], list[dict[str, Any]]]:
        """The layers to quantize, and those that stay float with the reason."""
        chosen, kept = [], []
        for layer in select(layers(graph), self.only, self.skip):
            if layer.weight.type.dtype is not DType.f32:
                kept.append({"layer": layer.name, "why": f"its weight is {layer.weight.type.dtype}"})
            elif layer.weight.type.size < self.least:
                kept.append({"layer": layer.name, "why": f"fewer than {self.least} elements"})
            elif not bool(layer.data.isfinite().all()):
                raise UnsupportedError(
                    f"the weight of {layer.name} holds NaN or infinity", where=layer.node.source
                )
            else:
                chosen.append(layer)
        return chosen, kept


@dataclass(frozen=True)
class _Rounded:
    """A layer's integers and parameters as rows, and by what its input channels were multiplied.

    `later`: by what the output channels have been multiplied since, on behalf of the layers after it.
    """

    layer: Layer
    blocks: Blocks
    integers: Tensor
    scale: Tensor
    zero: Tensor
    factor: Tensor | None
    later: Tensor | None = None

    def effective(self) -> Tensor:
        """What the layer computes with, as a weight between the graph's own input and output."""
        rows = self.blocks.dequantize(self.integers.float(), self.scale, self.zero)
        if self.factor is not None:
            rows = rows / self.factor
        return self.layer.unrows(rows)

    def literals(self) -> list[Literal]:
        """Integers, scales, and zero points where there are any, of the layer's weight."""
        dtype, layer = self.blocks.grid.dtype, self.layer
        scale = self.scale if self.later is None else self.scale * self.later[:, None].float()
        parts = [Literal(layer.unrows(self.integers), dtype), Literal(self._placed(scale))]
        if bool(self.zero.any()):
            zero = self._placed(self.zero)
            whole = not self.blocks.grid.real_zero
            parts.append(Literal(zero.to(dtype.torch), dtype) if whole else Literal(zero))
        return parts

    def _placed(self, parameter: Tensor) -> Tensor:
        """[rows, blocks] as the op takes it."""
        if not self.blocks.size:
            return parameter[:, 0].contiguous()
        return (parameter if self.layer.out_axis == 0 else parameter.T).contiguous()

    @property
    def op(self) -> Dequantize:
        return (
            Dequantize(self.layer.in_axis, self.blocks.size)
            if self.blocks.size
            else Dequantize(self.layer.out_axis)
        )


@dataclass
class _Work:
    """The state of one run: what has been rounded so far."""

    options: QuantizeWeights
    graph: Graph
    grid: Grid
    chosen: Sequence[Layer]
    rounded: dict[Node, _Rounded] = field(default_factory=dict)
    report: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.factors = Factors(self.graph)
        self.gathered = {
            v
            for v, users in self.factors.users.items()
            if v.literal is not None and any(isinstance(n.op, Gather) for n in users)
        }

    def blocks_of(self, layer: Layer) -> Blocks:
        k = layer.weight.type.size // layer.weight.type.shape[layer.out_axis]
        if isinstance(layer.node.op, Conv):
            return Blocks(replace(self.grid, real_zero=False))
        size = self.options.block if 0 < self.options.block < k else 0
        # Real zero points are those of blocks: a whole row is one.
        return Blocks(self.grid, size or (k if self.grid.real_zero else 0))

    def sweep(self, samples: Samples) -> None:
        """Round all layers in order."""
        memory = self.options.memory
        for group, inputs in moments_of_inputs(self.graph, samples, self.chosen, memory, self._compute):
            tell("round weights", len(self.rounded), len(self.chosen))
            self.round(group, inputs)

    def _compute(self, node: Node, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The reference with the rounded weights in place of the real ones."""
        found = self.rounded.get(node)
        if found is not None:
            operands = list(operands)
            operands[found.layer.place] = found.effective()
        return run_node(node, operands)

    def round(self, group: Sequence[Layer], inputs: SecondMoments | None) -> None:
        """Round the layers that read one input."""
        factor = None
        method = self.options.method
        weights = [grouped_rows(layer, layer.data) for layer in group]
        matrix = None if inputs is None else inputs.matrix
        if inputs is not None and method.startswith("awq"):
            factor = self._scale(group, weights, inputs)
        if factor is not None and matrix is not None:
            weights = [rows * factor for rows in weights]
            matrix = matrix / (factor[:, None] * factor)
        for layer, rows in zip(group, weights, strict=True):
            blocks = self.blocks_of(layer)
            if matrix is not None and method.endswith("gptq"):
                integers, scale, zero = gptq(
                    rows,
                    matrix,
                    blocks,
                    damping=self.options.damping,
                    by_activity=self.options.by_activity,
                )
            else:
                if matrix is not None and self.options.clip == "outputs":
                    scale, zero = least_output_error(rows, matrix, blocks)
                else:
                    importance = None if matrix is None else matrix.diagonal(dim1=-2, dim2=-1)[:, None]
                    scale, zero = blocks.parameters(rows, importance)
                integers = blocks.quantize(rows, scale, zero)
            self._keep(layer, blocks, rows, (integers, scale, zero), factor, matrix)

    def _scale(
        self, group: Sequence[Layer], weights: Sequence[Tensor], inputs: SecondMoments
    ) -> Tensor | None:
        """The factors of AWQ, divided out of the input; None where that is not for these layers."""
        first = group[0]
        shared = any(layer.weight in self.gathered for layer in group)
        if isinstance(first.node.op, Conv) or shared:
            return None
        axis = input_axis(first)
        factor = search_scales(weights, inputs, self.blocks_of(first))
        if bool((factor == 1).all()):
            return None
        readers = [layer.node for layer in group]
        edits = self.factors.source_of(first.x, axis, readers)
        if edits is not None:
            self._fold(edits, 1 / factor)
        else:
            shape = (-1,) if axis == first.x.type.rank - 1 else (-1, 1)
            self.factors.divide(first.x, readers, factor.reshape(shape))
        return factor

    def _keep(
        self,
        layer: Layer,
        blocks: Blocks,
        rows: Tensor,
        found: tuple[Tensor, Tensor, Tensor],
        factor: Tensor | None,
        matrix: Tensor | None,
    ) -> None:
        integers, scale, zero = (t.flatten(0, 1) for t in found)
        rounded = blocks.dequantize(integers, scale, zero)
        if matrix is None:
            db = sqnr(rows.flatten(0, 1), rounded)
        else:
            change = output_errors(rounded.reshape(rows.shape) - rows, matrix).sum()
            signal = output_errors(rows, matrix).sum()
            db = float(10 * torch.log10(signal / change)) if float(change) > 0 else float("inf")
        stored = integers.to(self.grid.dtype.torch)
        self.rounded[layer.node] = made = _Rounded(layer, blocks, stored, scale, zero, factor)
        self.report.append(
            {
                "layer": layer.name,
                "block": blocks.size or rows.shape[-1],
                "bytes": sum(literal.type.nbytes for literal in made.literals()),
                "weight_sqnr_db" if matrix is None else "output_sqnr_db": db,
            }
        )

    def _fold(self, edits: Sequence[Edit], factor: Tensor) -> None:
        """Multiply constants, and the scales of weights that are integers already."""
        for edit in edits:
            found = self.rounded.get(edit.node)
            if found is None or edit.place != found.layer.place:
                self.factors.multiply([edit], factor)
            else:
                later = factor if found.later is None else found.later * factor
                self.rounded[edit.node] = replace(found, later=later)

    def finish(self) -> Graph:
        """The graph with integers for weights."""
        tables = {
            r.layer.weight: r
            for r in self.rounded.values()
            if r.layer.weight in self.gathered and r.layer.out_axis == 0 and r.factor is r.later is None
        }
        made: dict[Node, list[Value]] = {}

        def parts(b: Builder, r: _Rounded) -> list[Value]:
            """The constants of a rounded weight, made where they are first needed."""
            node, found = r.layer.weight.node, made.get(r.layer.node)
            if found is None:
                names = (
                    node.name,
                    node.name and f"{node.name}.scale",
                    node.name and f"{node.name}.zero_point",
                )
                found = made[r.layer.node] = [
                    b.constant(literal, name=name, source=node.source)
                    for literal, name in zip(r.literals(), names, strict=False)
                ]
            return found

        def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            r = self.rounded.get(node)
            if isinstance(node.op, Gather) and node.op.axis == 0 and node.operands[0] in tables:
                return [_gather(b, node.op, parts(b, tables[node.operands[0]]), operands[1])]
            new = list(self.factors.operands(b, node, operands))
            if r is not None:
                new[r.layer.place] = b(r.op, *parts(b, r))
            return None if tuple(new) == operands else b.append(replace(node, operands=tuple(new)))

        return EliminateDeadCode().run(transform(self.graph, rewrite))


def _gather(b: Builder, op: Gather, parts: Sequence[Value], indices: Value) -> Value:
    """Rows of a quantized table: the integers and their parameters are gathered, then dequantized."""
    integers = b(op, parts[0], indices)
    rows, k = parts[0].type.shape
    blocks = [p if p.type.rank == 2 else b(Reshape((rows, 1)), p) for p in parts[1:]]
    size = math.ceil(k / blocks[0].type.shape[1])
    return b(Dequantize(integers.type.rank - 1, size), integers, *[b(op, p, indices) for p in blocks])
