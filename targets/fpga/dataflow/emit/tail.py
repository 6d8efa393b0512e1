"""C++ of the steps that finish a layer's sums."""

from __future__ import annotations

import numpy as np

from hardy.targets.fpga.dataflow.folding import Fold
from hardy.targets.fpga.dataflow.layers import Layer
from hardy.targets.fpga.dataflow.ranges import Integers, Range
from hardy.targets.fpga.dataflow.steps import Affine, Join, Limit, RoundShift, Step, Threshold


class Tail:
    """The lines of a tail: memories of constants, then one statement a step."""

    def __init__(self, layer: Layer, fold: Fold) -> None:
        self.layer = layer
        self.fold = fold
        self.tables: list[str] = []
        self.statements: list[str] = []
        self.names: set[str] = set()
        self.value = "sums.lane[pe]"
        for step, after, before in zip(layer.steps, layer.widths[1:], layer.widths, strict=False):
            self._step(step, before, after)

    def _unique(self, name: str) -> str:
        base, i = name, 2
        while name in self.names:
            name, i = f"{base}{i}", i + 1
        self.names.add(name)
        return name

    def _constant(self, name: str, values: Integers) -> str:
        """A number, or its place in a memory with a row for each fold."""
        if values.size == 1:
            return str(int(values[0]))
        name = self._unique(name)
        type = Range(int(values.min()), int(values.max())).cpp
        rows = braces(values.reshape(-1, self.fold.pe))
        self.tables += [
            f"static const {type} {name}[{values.size // self.fold.pe}][PE] = {rows};",
            f"#pragma HLS array_partition variable={name} dim=2 complete",
        ]
        return f"{name}[fold][pe]"

    def _let(self, name: str, type: str, expression: str) -> None:
        """A statement that computes the next value."""
        self.value = self._unique(name)
        self.statements.append(f"const {type} {self.value} = {expression};")

    def _step(self, step: Step, before: Range, after: Range) -> None:
        x = self.value
        if isinstance(step, Affine):
            name = "scaled" if (step.scale != 1).any() else "biased"
            self._let(name, after.cpp, self._affine(x, step.scale, step.offset))
        elif isinstance(step, Join):
            addend = self._affine("second.lane[pe]", step.scale, step.offset)
            self._let("joined", after.cpp, f"{x} + ({addend})")
        elif isinstance(step, RoundShift):
            half, shift = self._constant("half", step.half), self._constant("shift", step.shift)
            shift = shift if step.shift.size == 1 else f"int({shift})"
            self._let("shifted", after.cpp, f"({x} + {half}) >> {shift}")
        elif isinstance(step, Limit):
            self._limit(step, before)
        else:
            assert isinstance(step, Threshold)
            self._let("bit", after.cpp, f"{x} >= {self._constant('least', step.least)} ? 1 : 0")

    def _affine(self, x: str, scale: Integers, offset: Integers) -> str:
        factor, addend = self._constant("scale", scale), self._constant("bias", offset)
        product = x if factor == "1" else f"{x} * {factor}"
        if addend == "0":
            return product
        return f"{product} - {addend[1:]}" if addend.startswith("-") else f"{product} + {addend}"

    def _limit(self, step: Limit, before: Range) -> None:
        low, high = before.low, before.high
        if (step.least > low).any():
            # A bound that never acts need not fit the type; one that always does must.
            bound = np.maximum(step.least, low)
            high = max(high, int(bound.max()))
            self._bound("at_least", "<", bound, Range(low, high))
            low = int(bound.min())
        if (step.most < high).any():
            bound = np.minimum(step.most, high)
            self._bound("at_most", ">", bound, Range(min(low, int(bound.min())), high))

    def _bound(self, name: str, sign: str, bound: Integers, type: Range) -> None:
        limit, t = self._constant(name.removeprefix("at_"), bound), type.cpp
        self._let(name, t, f"{self.value} {sign} {t}({limit}) ? {t}({limit}) : {t}({self.value})")

    def function(self) -> list[str]:
        """`tail` as a member of the layer's struct."""
        fold = "int fold" if self.tables else "int"
        second = ""
        if self.layer.joined is not None:
            second = f", const Vec<{self.layer.joined.range.cpp}, PE>& second"
        return [
            f"static Vec<Out, PE> tail({fold}, const Vec<Acc, PE>& sums{second}) {{",
            *[line if line.startswith("#") else f"  {line}" for line in self.tables],
            "  Vec<Out, PE> result;",
            "  for (int pe = 0; pe < PE; ++pe) {",
            "#pragma HLS unroll",
            *[f"    {line}" for line in self.statements],
            f"    result.lane[pe] = {self.value};",
            "  }",
            "  return result;",
            "}",
        ]


def braces(values: Integers) -> str:
    """A C++ initializer of an array of any rank."""
    if values.ndim == 1:
        return "{" + ", ".join(map(str, values.tolist())) + "}"
    return "{" + ", ".join(braces(row) for row in values) + "}"
