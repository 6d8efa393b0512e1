"""A tensor as a stream of bytes, smaller than its data where it holds few distinct values, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hardy.compiler.artifact.coding import rans
from hardy.compiler.artifact.coding.fields import Reader, varint
from hardy.compiler.artifact.coding.model import MAX_LANES, arrange, coded_bytes, most_steps, plan, tabulate
from hardy.compiler.artifact.coding.parts import (
    PARTS,
    UNSIGNED,
    Coded,
    Elements,
    Part,
    Planes,
    Sparse,
    Stored,
)
from hardy.compiler.artifact.manifest import parse_type
from hardy.compiler.errors import ArtifactError, TargetError
from hardy.compiler.literal import Literal
from hardy.compiler.types import DType, TensorType

FORM = 1
# A stream is at least this part of what it decodes to, so that no small file fills the memory.
EXPANSION = 4096
VALUES = 256
# So many elements tell whether there are more than VALUES values.
GLANCE = 1 << 14
# Bytes that take more than this part of themselves are noise, such as mantissas.
NOISE = 0.99
ALIGNMENT = 64


@dataclass(frozen=True)
class Segment:
    """An array within a tensor of bytes: where it starts, and its elements. It reaches to the next one."""

    offset: int
    dtype: DType
    shape: tuple[int, ...]


def encode(literal: Literal, segments: Sequence[Segment] = ()) -> bytes:
    """The stream of a tensor; `segments` say what a tensor of bytes is made of.

    TargetError for segments that do not make up the tensor.
    """
    data = literal.tensor.reshape(-1).view(torch.uint8).numpy()
    parts = segments or [Segment(0, literal.type.dtype, literal.type.shape)]
    ends = [s.offset for s in parts[1:]] + [data.nbytes]
    type_text = str(literal.type).encode()
    out = bytes([FORM, len(type_text)]) + type_text + varint(len(parts))
    if parts[0].offset != 0:
        raise TargetError(f"the first segment of a weight starts at {parts[0].offset}, not at 0")
    for segment, end in zip(parts, ends, strict=True):
        width = segment.dtype.torch.itemsize
        if end < segment.offset or (end - segment.offset) % width:
            raise TargetError(f"{segment} of a weight does not hold whole elements up to byte {end}")
        elements = data[segment.offset : end].view(UNSIGNED[width])
        part = shortest(elements, segment.dtype, segment.shape)
        out += bytes([part.kind, width]) + varint(len(elements)) + part.write()
    return out + bytes(max(0, -(-data.nbytes // EXPANSION) - len(out)))


def _size(part: Part) -> int:
    return len(part.write())


def shortest(elements: Elements, dtype: DType, shape: Sequence[int]) -> Part:
    """The form of these elements that takes the fewest bytes."""
    forms: list[Part] = [_stored(elements)]
    if len(elements):
        coded = _coded(elements, dtype, shape)
        if coded is not None:
            forms.append(coded)
        elif elements.dtype.itemsize > 1:
            forms += [_planes(elements), *_sparse(elements, shape)]
    return min(forms, key=_size)


def _stored(elements: Elements) -> Stored:
    return Stored(elements.astype(elements.dtype.newbyteorder("<")).tobytes())


def _planes(elements: Elements) -> Planes:
    rows = elements.astype(elements.dtype.newbyteorder("<")).view(np.uint8).reshape(len(elements), -1)
    parts: list[Stored | Coded] = []
    for i in range(rows.shape[1]):
        plane = np.ascontiguousarray(rows[:, i])
        stored, coded = _stored(plane), _coded(plane, DType.u8, ())
        parts.append(coded if coded is not None and _size(coded) < _size(stored) else stored)
    return Planes(tuple(parts))


def _sparse(elements: Elements, shape: Sequence[int]) -> list[Sparse]:
    """The form of pruned elements, where they are: at least a quarter is zero."""
    mask = elements != 0
    inside = elements[mask]
    if not 0 < len(inside) <= 0.75 * len(elements):
        return []
    where = _coded(mask.view(np.uint8), DType.u8, shape)
    if where is None:
        return []
    return [Sparse(where, len(inside), values) for values in (_stored(inside), _planes(inside))]


def _coded(elements: Elements, dtype: DType, shape: Sequence[int]) -> Coded | None:
    """Codebook and indices; None where there are too many values."""
    if len(np.unique(elements[:: max(1, len(elements) // GLANCE)])) > VALUES:
        return None
    values, indices = np.unique(elements, return_inverse=True)
    if len(values) > VALUES:
        return None
    order = np.argsort(_rank(values, dtype), kind="stable")
    codebook = values[order]
    if len(codebook) == 1:
        return Coded(codebook)
    if elements.dtype.itemsize == 1 and coded_bytes(np.bincount(elements)[None]) > NOISE * len(elements):
        return None
    place = np.empty(len(order), np.uint8)
    place[order] = np.arange(len(order))
    return code(codebook, place[indices], _row_lengths(shape))


def code(codebook: Elements, indices: NDArray[np.uint8], rows: Sequence[int]) -> Coded | None:
    """The indices coded in as many lanes as they need to be decoded in few steps; None where that fails."""
    chosen = plan(indices, len(codebook), rows)
    limit = min(MAX_LANES, len(indices))
    while True:
        arranged = arrange(indices, chosen.lanes, chosen.centre)
        model = tabulate(arranged, len(codebook), chosen)
        states, words = rans.encode(arranged, model)
        if len(arranged) <= most_steps(4 * len(states) + 2 * len(words)):
            return Coded(codebook, model, states, words)
        if chosen.lanes >= limit:
            return None
        chosen = replace(chosen, lanes=min(2 * chosen.lanes, limit))


def _row_lengths(shape: Sequence[int]) -> list[int]:
    """How far apart neighbours along each axis lie in row-major order."""
    return [int(np.prod(shape[i:])) for i in range(1, len(shape))]


def _rank(values: Elements, dtype: DType) -> NDArray[Any]:
    """Numbers that sort bit patterns as the values that they stand for."""
    width = values.dtype.itemsize
    if dtype.value.startswith("u") or dtype is DType.boolean:
        return values
    signed = values.view(np.dtype(f"i{width}"))
    if not dtype.is_float:
        return signed
    # Floats order as sign and magnitude.
    magnitude = (values & ~values.dtype.type(1 << (8 * width - 1))).astype(f"i{width}")
    return np.where(signed < 0, -magnitude, magnitude)


@dataclass(frozen=True)
class Stream:
    """What a stream holds, read but not decoded: the type, and parts with their elements' count and width."""

    type: TensorType
    parts: tuple[tuple[Part, int, int], ...]

    @property
    def summary(self) -> str:
        """The forms of the parts with how often each occurs, for people."""
        names = [part.summary for part, _, _ in self.parts]
        counts = {name: names.count(name) for name in names}
        return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items())


def read(data: memoryview | bytes) -> Stream:
    """Take a stream apart without decoding it; ArtifactError where it is none."""
    reader = Reader(memoryview(data))
    form = reader.byte()
    if form != FORM:
        raise ArtifactError(f"the weights are coded in form {form}, this hardy reads form {FORM}")
    text = bytes(reader.take(reader.byte()))
    t = parse_type(text.decode("ascii", "replace"))
    nbytes = t.size * t.dtype.torch.itemsize
    if nbytes > EXPANSION * len(data):
        raise ArtifactError(f"{len(data)} bytes are too few to code {t}")
    parts = []
    for _ in range(reader.varint()):
        kind, width, count = reader.byte(), reader.byte(), reader.varint()
        if kind not in PARTS or width not in UNSIGNED:
            raise ArtifactError(f"the coded weights have a part of unknown kind {kind} and width {width}")
        nbytes -= count * width
        if nbytes < 0:
            raise ArtifactError(f"the coded weights are more than {t} holds")
        parts.append((PARTS[kind].read(reader, count, width), count, width))
    if nbytes:
        raise ArtifactError(f"the coded weights lack {nbytes} bytes of {t}")
    if any(reader.take(reader.left)):
        raise ArtifactError("the coded weights go on after their end")
    return Stream(t, tuple(parts))


def decode(data: memoryview | bytes, digest: str) -> torch.Tensor:
    """The tensor of a stream, on a boundary of 64 bytes; ArtifactError unless its content has this digest."""
    stream = read(data)
    t = stream.type
    nbytes = t.size * t.dtype.torch.itemsize
    room = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    flat = room[start : start + nbytes]
    offset = 0
    for part, count, width in stream.parts:
        part.decode(flat[offset : offset + count * width].view(UNSIGNED[width]))
        offset += count * width
    tensor = torch.from_numpy(flat).view(t.dtype.torch).reshape(t.shape)
    if Literal(tensor, t.dtype).digest != digest:
        raise ArtifactError(f"the coded weights of {t} decode to other data than were coded")
    return tensor
