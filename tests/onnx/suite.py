"""ONNX's own test suite on hardy, case by case.

Run as a script it prints the counts and every failing case with its error:

    python -m tests.onnx.suite --target cpu --suite node
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.resources
import os
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from hardy.compiler.errors import HardyError
from hardy.onnx_backend import HardyBackend

FAILURES = Path(__file__).with_name("failures.toml")
BASIC_TYPES = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)

CRASH = "crash: "

DataSet = tuple[list[Any], list[Any]]


@dataclass(frozen=True)
class Case:
    """A model with inputs and expected outputs."""

    name: str
    model: Callable[[], ModelProto]
    data: Callable[[ModelProto], list[DataSet]]
    rtol: float
    atol: float

    def error(self) -> str:
        """Why the case fails, '' where it passes; a crash is told from a refusal and a wrong result."""
        try:
            model = self.model()
            prepared = HardyBackend.prepare(model)
            for inputs, expected in self.data(model):
                outputs = prepared.run(inputs)
                Runner.assert_similar_outputs(expected, outputs, self.rtol, self.atol)
        except (HardyError, AssertionError) as error:
            return " ".join(f"{type(error).__name__}: {error}".split())
        except Exception as error:  # one crash must not hide the other cases
            return " ".join(f"{CRASH}{type(error).__name__}: {error}".split())
        return ""

    def chunk(self, count: int) -> int:
        """Which of `count` parts of its suite the case belongs to; fixed by its name."""
        return int.from_bytes(hashlib.blake2b(self.name.encode(), digest_size=8).digest()) % count


def is_basic(info: ValueInfoProto) -> bool:
    """A tensor of f32, i32, i64 or bool whose shape is static."""
    if info.type.WhichOneof("value") != "tensor_type":
        return False
    t = info.type.tensor_type
    return (
        t.elem_type in BASIC_TYPES
        and t.HasField("shape")
        and all(d.HasField("dim_value") for d in t.shape.dim)
    )


def _array(item: Any) -> Any:
    return numpy_helper.to_array(item) if isinstance(item, TensorProto) else item


@functools.cache
def _node_cases() -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The node cases whose interface is basic, and the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the cases overflow and divide by 0 on purpose
        found = collect_testcases(None)
    basic, other = [], []
    for case in found:
        model, sets = case.model, case.data_sets
        assert model is not None
        assert sets is not None
        data = [([_array(i) for i in inputs], [_array(o) for o in outputs]) for inputs, outputs in sets]
        wrapped = Case(
            case.name, functools.partial(_same, model), lambda _, data=data: data, case.rtol, case.atol
        )
        interface = [*model.graph.input, *model.graph.output]
        (basic if all(map(is_basic, interface)) else other).append(wrapped)
    return tuple(basic), tuple(other)


def _same(model: ModelProto) -> ModelProto:
    return model


def _stored_cases(kind: str) -> Iterator[Case]:
    """Cases that onnx ships as files."""
    for case in sorted(load_model_tests(kind=kind), key=lambda c: c.name):
        if case.model_dir is None:
            continue
        folder = Path(case.model_dir)
        yield Case(
            case.name,
            functools.partial(onnx.load, folder / "model.onnx"),
            functools.partial(_stored_data, folder),
            case.rtol,
            case.atol,
        )


def _stored_data(folder: Path, model: ModelProto) -> list[DataSet]:
    sets = []
    for data in sorted(folder.glob("test_data_set*")):
        pair: list[list[Any]] = []
        for kind, infos in (("input", model.graph.input), ("output", model.graph.output)):
            count = len(list(data.glob(f"{kind}_*.pb")))
            pair.append([_load(data / f"{kind}_{i}.pb", infos[i]) for i in range(count)])
        sets.append((pair[0], pair[1]))
    return sets


def _load(path: Path, info: ValueInfoProto) -> Any:
    content = path.read_bytes()
    if info.type.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if info.type.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(TensorProto.FromString(content))


def _light_cases() -> Iterator[Case]:
    """Whole networks with constant weights; the inputs are those of the suite's own runner."""
    folder = Path(str(importlib.resources.files("onnx.backend.test"))) / "data" / "light"
    for path in sorted(folder.glob("*.onnx")):
        yield Case(
            path.stem,
            functools.partial(onnx.load, path),
            functools.partial(_light_data, path),
            1e-3,
            1e-7,
        )


def _light_data(path: Path, model: ModelProto) -> list[DataSet]:
    constants = {t.name for t in model.graph.initializer}
    inputs = [Runner.generate_dummy_data(i) for i in model.graph.input if i.name not in constants]
    outputs = sorted(path.parent.glob(f"{path.stem}_output_*.pb"))
    return [(inputs, [numpy_helper.to_array(TensorProto.FromString(o.read_bytes())) for o in outputs])]


SUITES: dict[str, Callable[[], tuple[Case, ...]]] = {
    "node": lambda: _node_cases()[0],
    "node-other": lambda: _node_cases()[1],
    "simple": lambda: tuple(_stored_cases("simple")),
    "pytorch-converted": lambda: tuple(_stored_cases("pytorch-converted")),
    "pytorch-operator": lambda: tuple(_stored_cases("pytorch-operator")),
    "light": lambda: tuple(_light_cases()),
}


@functools.cache
def cases(suite: str) -> tuple[Case, ...]:
    return SUITES[suite]()


@functools.cache
def known_failures(suite: str, target: str) -> dict[str, str]:
    """Case to reason: those of every target, those of this one, and the unstable ones."""
    table = tomllib.loads(FAILURES.read_text()).get(suite, {})
    return {**table.get("all", {}), **table.get(target, {}), **table.get("unstable", {})}


@functools.cache
def unstable(suite: str) -> frozenset[str]:
    """The listed cases that pass on some machines."""
    return frozenset(tomllib.loads(FAILURES.read_text()).get(suite, {}).get("unstable", {}))


@dataclass(frozen=True)
class Outcome:
    """What running part of a suite showed."""

    passed: int
    failures: dict[str, str]

    def unexpected(self, known: dict[str, str]) -> list[str]:
        """Failures that are not listed, and crashes, which no list excuses."""
        return [
            f"{name}: {why}"
            for name, why in self.failures.items()
            if name not in known or why.startswith(CRASH)
        ]


def run(selected: list[Case], target: str) -> Outcome:
    """Run cases on a target."""
    before = os.environ.get("HARDY_TARGET")
    threads = torch.get_num_threads()
    os.environ["HARDY_TARGET"] = target
    torch.set_num_threads(1)
    try:
        with np.errstate(all="ignore"):
            results = {case.name: case.error() for case in selected}
    finally:
        torch.set_num_threads(threads)
        if before is None:
            del os.environ["HARDY_TARGET"]
        else:
            os.environ["HARDY_TARGET"] = before
    failures = {name: why for name, why in results.items() if why}
    return Outcome(len(results) - len(failures), failures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="reference")
    parser.add_argument("--suite", choices=SUITES, action="append")
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("--part", default="0/1", help="I/N: one of N fixed parts")
    arguments = parser.parse_args()
    part, count = map(int, arguments.part.split("/"))
    for suite in arguments.suite or SUITES:
        chosen = [c for c in cases(suite) if arguments.match in c.name and c.chunk(count) == part]
        outcome = run(chosen, arguments.target)
        known = known_failures(suite, arguments.target)
        for name, why in outcome.failures.items():
            print(f"{'known' if name in known else 'NEW  '} {name}: {why[:300]}", flush=True)
        kinds = Counter(why.split(":")[0] for why in outcome.failures.values())
        print(f"{suite} on {arguments.target}: {outcome.passed} of {len(chosen)} pass; {dict(kinds)}")


if __name__ == "__main__":
    main()
