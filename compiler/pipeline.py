"""Passes and the pipeline that runs them.

A pass is a frozen dataclass with `run(graph) -> Graph`; its fields are its options. A pipeline is a
tuple of passes. It verifies the graph after each one, times it and counts what changed; instruments
look on: `Dump` writes every stage to files, `Validate` compares outputs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import torch

from hardy.compiler.cost import Statistics, statistics
from hardy.compiler.errors import HardyError, MismatchError, UsageError
from hardy.compiler.interpret import run as run_reference
from hardy.compiler.ir import Graph
from hardy.compiler.ledger import Ledger, recording
from hardy.compiler.notes import taking_notes
from hardy.compiler.text import print_graph
from hardy.compiler.tolerance import compare
from hardy.compiler.types import DType, TensorType
from hardy.compiler.verify import verify


@dataclass(frozen=True)
class Pass(ABC):
    """A pure function from graphs to graphs. The first line of a subclass's docstring says what it
    does; its fields are its options. Unchanged means the same object back.

    A field `original` that is None is filled in by the pipeline: the graph before the first lossy pass.

    `exact` passes keep the outputs, to the bit for integers and within the type's tolerance for
    floats; the others say what they lose.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @abstractmethod
    def run(self, graph: Graph) -> Graph:
        """The graph after this pass."""


@dataclass(frozen=True)
class Record:
    """What one pass did. `rewrites` counts by rule; `notes` hold what the pass noted of itself
    (`hardy.compiler.notes`) and what instruments found."""

    index: int
    name: str
    options: dict[str, Any]
    before: Statistics
    after: Statistics
    seconds: float
    changed: bool
    rewrites: dict[str, int]
    notes: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Instrument:
    """Looks on while a pipeline runs; every method may be left as it is."""

    def start(self, graph: Graph) -> None:
        """Before the first pass."""

    def after(self, index: int, pass_: Pass, before: Graph, after: Graph) -> dict[str, Any]:
        """After a pass, verified; what it returns goes to the record's notes."""
        return {}

    def failed(self, index: int, pass_: Pass, before: Graph, after: Graph | None) -> str:
        """When a pass, the verifier or an instrument raised; returns where to look, or ""."""
        return ""

    def finish(self, graph: Graph, records: Sequence[Record]) -> None:
        """After the last pass."""


@dataclass(frozen=True)
class Result:
    """The graph that a pipeline gave, and what each pass did."""

    graph: Graph
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Pipeline:
    """Passes in order."""

    passes: tuple[Pass, ...]

    def run(
        self,
        graph: Graph,
        instruments: Sequence[Instrument] = (),
        stop_after: str | None = None,
        limit: int | None = None,
    ) -> Result:
        """Run the passes, up to and with the first called `stop_after`.

        `limit` stops all rewriting after so many rewrites, so that a wrong one can be found by
        bisection. Errors name the pass.
        """
        names = [p.name for p in self.passes]
        if stop_after is not None and stop_after not in names:
            raise UsageError(
                f"no pass {stop_after!r} in this pipeline", hint=f"it has {', '.join(dict.fromkeys(names))}"
            )
        passes = self.passes if stop_after is None else self.passes[: names.index(stop_after) + 1]
        for instrument in instruments:
            instrument.start(graph)
        verify(graph)
        records: list[Record] = []
        numbers = statistics(graph)
        left = limit
        original: Graph | None = None
        for index, pass_ in enumerate(passes, start=1):
            if original is None and not pass_.exact:
                original = graph
            book = Ledger(left)
            step = _Step(index, pass_, graph, instruments)
            with step:
                started = time.perf_counter()
                with recording(book), taking_notes() as notes:
                    after = _knowing(pass_, original).run(graph)
                seconds = time.perf_counter() - started
                changed = after is not graph
                if changed:
                    step.after = after
                    verify(after)
                for instrument in instruments:
                    notes |= instrument.after(index, pass_, graph, after)
            if left is not None:
                left -= book.total
            before, numbers = numbers, statistics(after) if changed else numbers
            options = changed_options(pass_)
            records.append(
                Record(index, pass_.name, options, before, numbers, seconds, changed, book.counts, notes)
            )
            graph = after
        for instrument in instruments:
            instrument.finish(graph, records)
        return Result(graph, tuple(records))


def _knowing(pass_: Pass, original: Graph | None) -> Pass:
    """The pass, with what lossy passes began with in its field `original` if it has one that is None."""
    if any(f.name == "original" for f in dataclasses.fields(pass_)) and vars(pass_)["original"] is None:
        return dataclasses.replace(pass_, original=original)  # type: ignore[call-arg]  # the field is there
    return pass_


def changed_options(pass_: Pass) -> dict[str, Any]:
    """The options that are not at their default, as plain values that do not change from run to run."""
    options = {}
    for f in dataclasses.fields(pass_):
        value = getattr(pass_, f.name)
        if f.default is dataclasses.MISSING or value is not f.default:
            options[f.name] = _plain(value)
    return options


def _plain(value: Any) -> Any:
    from hardy.targets.target import Target

    if isinstance(value, DType):
        return value.value
    if isinstance(value, Target):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, frozenset | set):
        return sorted(map(str, map(_plain, value)))
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if callable(getattr(value, "to_json", None)):
        return _plain(value.to_json())
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return type(value).__qualname__


class _Step:
    """Adds the pass's name to whatever is raised inside, and tells the instruments."""

    def __init__(self, index: int, pass_: Pass, before: Graph, instruments: Sequence[Instrument]) -> None:
        self.index = index
        self.pass_ = pass_
        self.before = before
        self.after: Graph | None = None
        self.instruments = instruments

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        seen = [i.failed(self.index, self.pass_, self.before, self.after) for i in self.instruments]
        place = f"pass {self.index} ({self.pass_.name})"
        places = [place, *[s for s in seen if s]]
        if isinstance(error, HardyError):
            error.where = "; ".join([*places, *([error.where] if error.where else [])])
        else:
            error.add_note("in " + "; ".join(places))


@dataclass
class Dump(Instrument):
    """Writes `00-input.ir`, then `NN-name.ir` after each pass, and `summary.json` at the end.

    Where a pass fails, `NN-name.before.ir` is what it was given.
    """

    folder: Path

    def start(self, graph: Graph) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("00-input", graph)

    def after(self, index: int, pass_: Pass, before: Graph, after: Graph) -> dict[str, Any]:
        self._write(f"{index:02d}-{pass_.name}", after)
        return {}

    def failed(self, index: int, pass_: Pass, before: Graph, after: Graph | None) -> str:
        path = self._write(f"{index:02d}-{pass_.name}.before", before)
        if after is not None:
            path = self._write(f"{index:02d}-{pass_.name}", after)
        return str(path)

    def finish(self, graph: Graph, records: Sequence[Record]) -> None:
        text = json.dumps([r.to_json() for r in records], indent=2)
        (self.folder / "summary.json").write_text(text + "\n")

    def _write(self, stem: str, graph: Graph) -> Path:
        path = self.folder / f"{stem}.ir"
        path.write_text(print_graph(graph))
        return path


@dataclass
class Validate(Instrument):
    """Runs the reference after each pass that changed the graph.

    An exact pass must give what the graph gave before, within the tolerance of the type (equal for
    integers); MismatchError names the output. For a lossy pass the notes hold the SQNR of each
    output in dB, and its outputs are what later passes are held to.
    """

    inputs: Mapping[str, torch.Tensor] | None = None
    seed: int = 0
    _given: Mapping[str, torch.Tensor] = field(default_factory=dict, init=False)
    _expected: dict[str, torch.Tensor] = field(default_factory=dict, init=False)

    def start(self, graph: Graph) -> None:
        given = random_inputs(graph.input_types(), self.seed) if self.inputs is None else self.inputs
        self._given = given
        self._expected = run_reference(graph, given)

    def after(self, index: int, pass_: Pass, before: Graph, after: Graph) -> dict[str, Any]:
        if after is before:
            return {}
        actual = run_reference(after, self._given)
        if not pass_.exact:
            expected, self._expected = self._expected, actual
            return {"sqnr_db": {name: sqnr(expected[name], actual[name]) for name in expected}}
        differences = {n: compare(e, actual[n], scaled=True) for n, e in self._expected.items()}
        for name, d in differences.items():
            if not d.passed:
                raise MismatchError(
                    f"{pass_.name} changes output {name!r}: at {list(d.index)} expected {d.expected!r}, "
                    f"got {d.actual!r} ({d.ratio:.3g} times the tolerance)",
                    hint="run with a limit on rewrites to find the one at fault",
                )
        return {"largest_difference": {name: d.absolute for name, d in differences.items()}}


def random_inputs(types: Mapping[str, TensorType], seed: int = 0) -> dict[str, torch.Tensor]:
    """Seeded inputs: normal floats, bytes over their range, wider integers 0 or 1 (they may be indices)."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, t in types.items():
        if t.dtype.is_float:
            result[name] = torch.randn(t.shape, generator=generator).to(t.dtype.torch)
        else:
            low, high = t.dtype.range if t.dtype.is_integer and t.dtype.bits <= 8 else (0, 1)
            values = torch.randint(low, high + 1, t.shape, generator=generator)
            result[name] = values.to(t.dtype.torch)
    return result


def sqnr(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Signal to quantization noise ratio in dB: 10 log10(sum e^2 / sum (e - a)^2)."""
    e, a = expected.double(), actual.double()
    return decibels(float(e.square().sum()), float((e - a).square().sum()))


def decibels(signal: float, noise: float) -> float:
    """The ratio of two powers in dB; infinite without noise, minus infinity without a signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
