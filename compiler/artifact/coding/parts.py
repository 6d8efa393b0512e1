"""The parts of a coded stream: elements as they are, as a codebook with coded indices, or byte by byte.

Each part knows its bytes (`write`), is found in a stream (`read`) without decoding anything, and puts
its elements into memory (`decode`). docs/artifact.md has the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from hardy.compiler.artifact.coding import rans
from hardy.compiler.artifact.coding.fields import Reader, varint
from hardy.compiler.artifact.coding.model import MAX_LAGS, MAX_LANES, most_steps
from hardy.compiler.errors import ArtifactError

UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

Elements = NDArray[np.unsignedinteger[Any]]


class Part(Protocol):
    """So many elements of so many bytes each, as unsigned integers of their bits."""

    kind: ClassVar[int]

    @property
    def summary(self) -> str:
        """What it is, for people."""
        ...

    def write(self) -> bytes: ...

    def decode(self, out: Elements) -> None: ...


@dataclass(frozen=True)
class Stored:
    """The elements' own bytes."""

    data: memoryview | bytes
    kind: ClassVar[int] = 0

    @property
    def summary(self) -> str:
        return "stored"

    def write(self) -> bytes:
        return bytes(self.data)

    def decode(self, out: Elements) -> None:
        out[:] = np.frombuffer(self.data, _little(out.dtype.itemsize))

    @staticmethod
    def read(reader: Reader, count: int, width: int) -> Stored:
        return Stored(reader.take(count * width))


@dataclass(frozen=True)
class Coded:
    """A codebook of up to 256 values, and the entropy-coded index of each element into it.

    A codebook of one value needs no indices.
    """

    codebook: Elements
    model: rans.Model | None = None
    states: NDArray[np.uint32] | None = None
    words: NDArray[np.uint16] | None = None
    kind: ClassVar[int] = 1

    @property
    def summary(self) -> str:
        plural = "" if len(self.codebook) == 1 else "s"
        return f"{len(self.codebook)} value{plural}"

    def write(self) -> bytes:
        width = self.codebook.dtype.itemsize
        out = bytes([len(self.codebook) - 1]) + self.codebook.astype(_little(width)).tobytes()
        if self.model is None or self.states is None or self.words is None:
            return out
        out += bytes([len(self.model.lags), self.model.centre])
        out += b"".join(varint(lag) for lag in self.model.lags)
        for row in self.model.frequencies.tolist():
            out += b"".join(varint(f) for f in row[:-1])
        out += varint(len(self.states)) + varint(len(self.words))
        return out + self.states.astype("<u4").tobytes() + self.words.astype("<u2").tobytes()

    def decode(self, out: Elements) -> None:
        if self.model is None or self.states is None or self.words is None:
            out[:] = self.codebook[0]
            return
        steps = rans.steps_of(len(out), len(self.states))
        indices = rans.decode(self.states, self.words, self.model, steps)
        out[:] = self.codebook[indices.T.reshape(-1)[: len(out)]]

    @staticmethod
    def read(reader: Reader, count: int, width: int) -> Coded:
        values = reader.byte() + 1
        codebook = np.frombuffer(reader.take(values * width), _little(width)).astype(UNSIGNED[width])
        if values == 1:
            return Coded(codebook)
        lags_count, centre = reader.byte(), reader.byte()
        if lags_count > MAX_LAGS or centre >= values:
            raise ArtifactError("the coded weights have a model that does not exist")
        lags = tuple(reader.varint() for _ in range(lags_count))
        if 0 in lags:
            raise ArtifactError("the coded weights depend on themselves")
        rows = [_row(reader, values) for _ in range(3**lags_count)]
        lanes, length = reader.varint(), reader.varint()
        if not 0 < lanes <= min(count, MAX_LANES):
            raise ArtifactError(f"{count} coded weights cannot have {lanes} lanes")
        if rans.steps_of(count, lanes) > most_steps(4 * lanes + 2 * length):
            raise ArtifactError(f"{count} coded weights take more than {4 * lanes + 2 * length} bytes")
        states = np.frombuffer(reader.take(4 * lanes), "<u4").astype(np.uint32)
        words = np.frombuffer(reader.take(2 * length), "<u2").astype(np.uint16)
        return Coded(codebook, rans.Model(lags, centre, np.array(rows, np.int64)), states, words)


def _row(reader: Reader, values: int) -> list[int]:
    """The frequencies of one context; the last is what is left."""
    row = [reader.varint() for _ in range(values - 1)]
    left = rans.TOTAL - sum(row)
    if left < 0:
        raise ArtifactError("the coded weights have probabilities above one")
    return [*row, left]


@dataclass(frozen=True)
class Planes:
    """The lowest byte of every element, then the next, each as a part of its own.

    The exponents of floats take few values where their mantissas take all (Hershcovitch et al., 2024,
    arXiv:2411.05239).
    """

    planes: tuple[Stored | Coded, ...]
    kind: ClassVar[int] = 2

    @property
    def summary(self) -> str:
        coded = sum(isinstance(p, Coded) for p in self.planes)
        return f"{coded} of {len(self.planes)} bytes"

    def write(self) -> bytes:
        return b"".join(bytes([p.kind]) + p.write() for p in self.planes)

    def decode(self, out: Elements) -> None:
        # Bytes from the lowest up, whatever the machine's order is.
        places = out.view(np.uint8).reshape(len(out), -1)
        order = np.argsort(np.frombuffer(_order(len(self.planes)), np.uint8))
        plane = np.empty(len(out), np.uint8)
        for part, place in zip(self.planes, order, strict=True):
            part.decode(plane)
            places[:, place] = plane

    @staticmethod
    def read(reader: Reader, count: int, width: int) -> Planes:
        if width == 1:
            raise ArtifactError("single bytes have no planes")
        planes: list[Stored | Coded] = []
        for _ in range(width):
            kind = reader.byte()
            if kind not in (Stored.kind, Coded.kind):
                raise ArtifactError(f"the coded weights have a part of unknown kind {kind}")
            planes.append((Stored if kind == Stored.kind else Coded).read(reader, count, 1))
        return Planes(tuple(planes))


@dataclass(frozen=True)
class Sparse:
    """Which elements are not zero, as coded zeros and ones, and those that are not."""

    where: Coded
    count: int
    values: Stored | Planes
    kind: ClassVar[int] = 3

    @property
    def summary(self) -> str:
        return f"sparse, {self.values.summary}"

    def write(self) -> bytes:
        return self.where.write() + varint(self.count) + bytes([self.values.kind]) + self.values.write()

    def decode(self, out: Elements) -> None:
        mask = np.empty(len(out), np.uint8)
        self.where.decode(mask)
        places = np.flatnonzero(mask)
        if len(places) != self.count:
            raise ArtifactError(f"the coded weights have {self.count} elements for {len(places)} places")
        values = np.empty(self.count, out.dtype)
        self.values.decode(values)
        out[:] = 0
        out[places] = values

    @staticmethod
    def read(reader: Reader, count: int, width: int) -> Sparse:
        where = Coded.read(reader, count, 1)
        inside = reader.varint()
        if inside > count:
            raise ArtifactError(f"the coded weights have {inside} of {count} elements")
        kind = reader.byte()
        if kind not in (Stored.kind, Planes.kind):
            raise ArtifactError(f"the coded weights have a part of unknown kind {kind}")
        return Sparse(where, inside, (Stored if kind == Stored.kind else Planes).read(reader, inside, width))


def _order(width: int) -> bytes:
    """Where the bytes of a number lie in this machine's memory: each byte's own significance."""
    number = int.from_bytes(bytes(range(width)), "little")
    return np.array([number], UNSIGNED[width]).tobytes()


def _little(width: int) -> np.dtype[Any]:
    return np.dtype(UNSIGNED[width]).newbyteorder("<")


PARTS: dict[int, type[Stored] | type[Coded] | type[Planes] | type[Sparse]] = {
    p.kind: p for p in (Stored, Coded, Planes, Sparse)
}
