"""Samples: the inputs of a graph, one run at a time, as often as they are asked for."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardy.compiler.artifact.arrays import as_tensor
from hardy.compiler.errors import InputError, UsageError
from hardy.compiler.interpret import check_inputs
from hardy.compiler.ir import Graph
from hardy.compiler.models import names_function
from hardy.compiler.types import TensorType

# The inputs of one run by name, and what else the data holds for it, such as labels.
Feed = Mapping[str, torch.Tensor]


def inputs_of(graph: Graph, feed: Feed) -> dict[str, torch.Tensor]:
    """What a graph takes of a feed, without labels and the like."""
    return {name: feed[name] for name in graph.input_names}


FORMS = "an .npz file, a folder of them, package.module:function, or an iterable of feeds"


@dataclass(frozen=True)
class Samples:
    """Feeds that can be gone through again and again; nothing is kept between two of them.

    `source()` starts from the beginning. `limit` stops after so many feeds. `origin` is for messages.
    """

    source: Callable[[], Iterable[Any]]
    origin: str = "the data"
    limit: int | None = None

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.source()), self.limit)

    def feeds(self, types: Mapping[str, TensorType]) -> Iterator[Feed]:
        """Every feed, checked against the graph's inputs; other names in it are passed on.

        InputError names the feed that lacks an input, has the wrong shape or type or holds NaN or
        infinity, and says so where there are no feeds at all.
        """
        empty = True
        for number, raw in enumerate(self):
            empty = False
            try:
                yield _checked(raw, types)
            except InputError as error:
                error.where = "; ".join(filter(None, [f"sample {number} of {self.origin}", error.where]))
                raise
        if empty:
            raise InputError(f"{self.origin} holds no samples", hint="give at least one sample")

    def first(self, count: int) -> Samples:
        """The first so many feeds."""
        if count < 1:
            raise UsageError(f"{count} samples of {self.origin} are none", hint="give at least one")
        return Samples(self.source, self.origin, count if self.limit is None else min(count, self.limit))

    def spread(self, count: int, of: int) -> Samples:
        """So many of the first `of` feeds, taken evenly, for data may come in some order."""
        step = max(of // max(count, 1), 1)
        return Samples(lambda: itertools.islice(iter(self), 0, None, step), self.origin, min(count, of))


def _checked(raw: Any, types: Mapping[str, TensorType]) -> Feed:
    if isinstance(raw, torch.Tensor | np.ndarray):
        raw = (raw,)
    if isinstance(raw, tuple | list):
        if len(raw) != len(types):
            raise InputError(f"a sample must hold {len(types)} tensors ({', '.join(types)}), got {len(raw)}")
        raw = dict(zip(types, raw, strict=True))
    if not isinstance(raw, Mapping):
        raise InputError(f"a sample must be a mapping of tensors by name, got {type(raw).__name__}")
    feed = {name: as_tensor(name, value, types.get(name)) for name, value in raw.items()}
    check_inputs(types, {name: feed[name] for name in types if name in feed})
    for name in types:
        if feed[name].is_floating_point() and not bool(feed[name].isfinite().all()):
            raise InputError(f"input {name!r} holds NaN or infinity")
    return feed


@dataclass(frozen=True)
class _Arrays:
    """Arrays whose first axis counts feeds, or rows that fill the batch of an input."""

    arrays: Mapping[str, np.ndarray[Any, Any]]
    types: Mapping[str, TensorType]
    origin: str
    rows: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, t in self.types.items():
            if name not in self.arrays:
                listing = ", ".join(self.arrays) or "none"
                raise InputError(f"{self.origin} has no array {name!r}", hint=f"its arrays are {listing}")
            shape = self.arrays[name].shape
            if shape[1:] == t.shape:
                self.rows[name] = 1
            elif t.shape and shape[1:] == t.shape[1:]:
                self.rows[name] = t.shape[0]
            else:
                raise InputError(
                    f"array {name!r} of {self.origin} has shape {list(shape)}, input {name!r} is {t}",
                    hint=f"its first axis counts samples: [N, {', '.join(map(str, t.shape[1:]))}]",
                )

    def __iter__(self) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        counts = {n: len(self.arrays[n]) // max(self.rows[n], 1) for n in self.types}
        batch = max((r for r in self.rows.values()), default=1)
        for i in range(min(counts.values(), default=0)):
            feed = {}
            for name, array in self.arrays.items():
                rows = self.rows.get(name, batch)
                part = array[i * rows : (i + 1) * rows]
                stacked = name in self.types and array.shape[1:] == self.types[name].shape
                feed[name] = np.asarray(part[0]) if stacked else part
            yield feed


def open_samples(data: object, types: Mapping[str, TensorType]) -> Samples:
    """Samples from any form of data; UsageError or InputError says what is wrong with it.

    An .npz file holds an array for each input (and for labels) whose first axis counts samples; a
    graph with a batch of B takes B of them in a run, and a last part that does not fill it is left
    out. A folder holds such files. A function returns an iterable of feeds, each a mapping by name,
    a tuple in the order of the inputs, or a tensor where there is one input.
    """
    if isinstance(data, Samples):
        return data
    if isinstance(data, str) and names_function(data):
        return Samples(load_function(data), data)
    if isinstance(data, str | Path):
        return _files(Path(data), types)
    if isinstance(data, torch.Tensor | np.ndarray):
        if len(types) != 1:
            raise UsageError(f"one array cannot feed {len(types)} inputs ({', '.join(types)})")
        data = {next(iter(types)): data}
    if isinstance(data, Mapping):
        arrays = {n: as_tensor(n, a, types.get(n)).numpy() for n, a in data.items()}
        held = _Arrays(arrays, types, "the data")
        return Samples(lambda: held)
    if callable(data):
        return Samples(data)
    if isinstance(data, Iterator):
        raise UsageError("an iterator can be gone through once only", hint="give a list, or a function")
    if isinstance(data, Iterable):
        return Samples(lambda: data)
    raise UsageError(f"a {type(data).__name__} holds no samples", hint=f"give {FORMS}")


def samples_for(
    taker: str, data: object, types: Mapping[str, TensorType], count: int | None = None
) -> Samples:
    """The first `count` samples (all by default) for a pass; UsageError where there is no data."""
    if data is None:
        raise UsageError(
            f"{taker} has no calibration data",
            hint="give some: calibration=... in Python, --calibration on the command line",
        )
    samples = open_samples(data, types)
    return samples if count is None else samples.first(count)


def load_function(text: str) -> Callable[..., Any]:
    """The function that `package.module:function` names; UsageError where there is none."""
    module_name, _, name = text.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except ImportError as error:
        raise UsageError(f"cannot import {module_name}: {error}") from error
    if not callable(function):
        raise UsageError(f"{module_name} has no function {name!r}")
    return function  # type: ignore[no-any-return]  # checked when its result is gone through


def _files(path: Path, types: Mapping[str, TensorType]) -> Samples:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix == ".npz")
        if not files:
            raise UsageError(f"{path} holds no .npz files", hint=f"data is {FORMS}")
        return Samples(lambda: itertools.chain.from_iterable(_npz(p, types) for p in files), str(path))
    if not path.is_file() or path.suffix != ".npz":
        raise UsageError(f"{path} is not an .npz file", hint=f"data is {FORMS}")
    held = _npz(path, types)
    return Samples(lambda: held, str(path))


def _npz(path: Path, types: Mapping[str, TensorType]) -> _Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return _Arrays({name: file[name] for name in file.files}, types, str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
