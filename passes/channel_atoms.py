"""Which indices of which axes must be removed together: union-find over the axes of a graph's values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hardy.compiler.ir import Constant, Node, Value

Ids = npt.NDArray[np.int64]
# One array of ids for each axis of a tensor: which atom each index belongs to.
Axes = tuple[Ids, ...]


class Use(NamedTuple):
    """A constant as one operand of one node: its other uses may keep other indices."""

    node: Node
    position: int
    constant: Value


Place = Value | Use


def place_of(node: Node, position: int) -> Place:
    """Where the ids of an operand are kept: a constant's are its use's own."""
    value = node.operands[position]
    return Use(node, position, value) if isinstance(value.op, Constant) else value


class Atoms:
    """Sets of indices that are removed together or not at all.

    Every index of every axis has an id. `unite` makes two arrays of ids equal, element by element;
    `fix` forbids the removal, with the reason that people are told. Both hold for whole sets.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reason: dict[int, str] = {}

    def new(self, count: int) -> Ids:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def find(self, i: int) -> int:
        parent = self._parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def unite(self, a: Ids, b: Ids) -> None:
        if a is b:
            return
        assert a.shape == b.shape, (a.shape, b.shape)
        for i, j in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
            self.join(i, j)

    def join(self, i: int, j: int) -> None:
        i, j = self.find(i), self.find(j)
        if i == j:
            return
        low, high = min(i, j), max(i, j)
        self._parent[high] = low
        reason = self._reason.pop(high, None)
        if reason is not None:
            self._reason.setdefault(low, reason)

    def fix(self, ids: Ids, reason: str) -> None:
        for i in ids.ravel().tolist():
            self._reason.setdefault(self.find(i), reason)

    def fix_all(self, axes: Iterable[Ids], reason: str) -> None:
        for ids in axes:
            self.fix(ids, reason)

    def reason(self, i: int) -> str:
        """Why an index must stay, "" where it may go."""
        return self._reason.get(self.find(i), "")

    def any_free(self, ids: Ids) -> bool:
        return any(not self.reason(i) for i in ids.ravel().tolist())

    def roots(self) -> Ids:
        """The representative of every id."""
        return np.array([self.find(i) for i in range(len(self._parent))], dtype=np.int64)

    def fixed(self) -> npt.NDArray[np.bool_]:
        """Which representatives must stay, by id."""
        result: npt.NDArray[np.bool_] = np.zeros(len(self._parent), dtype=np.bool_)
        result[list(self._reason)] = True
        return result


def pick(ids: Ids, index: Any) -> Ids:
    """Some of an axis's ids."""
    result: Ids = ids[index]
    return result
