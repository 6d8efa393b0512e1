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
        value = "sums.lane[pe]"
        for step, after, before in zip(layer.steps, layer.widths[1:], layer.widths, strict=False):
            for name, type, expression in self._step(step, value, before, after):
                name = self._unique(name)
                self.statements.append(f"const {type} {name} = {expression};")
                value = name
        self.value = value

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

    def _step(self, step: Step, x: str, before: Range, after: Range) -> list[tuple[str, str, str]]:
        """Name, type and expression of the values that a step computes."""
        if isinstance(step, Affine):
            name = "scaled" if (step.scale != 1).any() else "biased"
            return [(name, after.cpp, self._affine(x, step.scale, step.offset))]
        if isinstance(step, Join):
            addend = self._affine("second.lane[pe]", step.scale, step.offset)
            return [("joined", after.cpp, f"{x} + ({addend})")]
        if isinstance(step, RoundShift):
            half, shift = self._constant("half", step.half), self._constant("shift", step.shift)
            return [
                (
                    "shifted",
                    after.cpp,
                    f"({x} + {half}) >> {shift if step.shift.size == 1 else f'int({shift})'}",
                )
            ]
        if isinstance(step, Limit):
            return self._limit(step, x, before, after)
        assert isinstance(step, Threshold)
        return [("bit", after.cpp, f"{x} >= {self._constant('least', step.least)} ? 1 : 0")]

    def _affine(self, x: str, scale: Integers, offset: Integers) -> str:
        factor, addend = self._constant("scale", scale), self._constant("bias", offset)
        product = x if factor == "1" else f"{x} * {factor}"
        if addend == "0":
            return product
        return f"{product} - {addend[1:]}" if addend.startswith("-") else f"{product} + {addend}"

    def _limit(self, step: Limit, x: str, before: Range, after: Range) -> list[tuple[str, str, str]]:
        result = []
        low, high = before.low, before.high
        for name, bound, sign in (("at_least", step.least, "<"), ("at_most", step.most, ">")):
            if (bound <= low).all() if sign == "<" else (bound >= high).all():
                continue
            # Bounds that nothing reaches need not fit the type.
            bound = np.clip(bound, low, high)
            type = Range(low, high).cpp
            limit = self._constant(name.removeprefix("at_"), bound)
            result.append((name, type, f"{x} {sign} {type}({limit}) ? {type}({limit}) : {type}({x})"))
            low, high = (
                (max(low, int(bound.min())), high) if sign == "<" else (low, min(high, int(bound.max())))
            )
            x = self._next(name)
        return result

    def _next(self, name: str) -> str:
        """What `_unique` will make of a name."""
        base, i = name, 2
        while name in self.names:
            name, i = f"{base}{i}", i + 1
        return name

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
