"""The weights file: safetensors, each tensor once under the digest of its content.

Tensor data starts at multiples of 64 bytes in the file, so that it can be used where it is mapped:
the header is padded through its metadata, and short `pad.N` tensors of zeros fill the gaps, since
the format allows none (https://huggingface.co/docs/safetensors, "Format").

Tensors that are smaller in the form of `hardy.compiler.artifact.coding` may come as such a stream of
bytes instead, under `coded.` and the digest of what it decodes to.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hardy.compiler.artifact.coding import Segment, decode, encode, read
from hardy.compiler.artifact.folder import Sink
from hardy.compiler.errors import ArtifactError
from hardy.compiler.literal import Literal
from hardy.compiler.types import DType, TensorType

ALIGNMENT = 64
_PAD = "pad."
_CODED = "coded."
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
assert set(_CODES) == {d.torch for d in DType}


def write_weights(
    literals: Mapping[str, Literal],
    sink: Sink,
    code: bool = False,
    segments: Mapping[str, Sequence[Segment]] | None = None,
) -> None:
    """Send a safetensors file of these literals to the sink, ordered by name.

    With `code`, each is stored in coded form where that is smaller; `segments` say by name what a
    tensor of bytes is made of.
    """
    coded: dict[str, bytes] = {}
    for name in sorted(literals) if code else ():
        literal = literals[name]
        stream = encode(literal, (segments or {}).get(name, ()))
        if len(stream) < literal.tensor.nbytes:
            coded[name] = stream
    plain = [name for name in sorted(literals) if name not in coded]
    header: dict[str, object] = {}
    offset = 0
    for i, name in enumerate(plain):
        tensor = literals[name].tensor
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
        gap = -offset % ALIGNMENT
        if gap and i + 1 < len(plain):
            header[f"{_PAD}{i}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [offset, offset + gap]}
            offset += gap
    for name, stream in coded.items():
        end = offset + len(stream)
        header[_CODED + name] = {"dtype": "U8", "shape": [len(stream)], "data_offsets": [offset, end]}
        offset = end
    sink(_header(header))
    for i, name in enumerate(plain):
        tensor = literals[name].tensor
        # Through u8, since numpy has no bf16 and no f8.
        sink(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        if i + 1 < len(plain):
            sink(bytes(-tensor.nbytes % ALIGNMENT))
    for stream in coded.values():
        sink(stream)


def _header(entries: dict[str, object]) -> bytes:
    def encode(padding: int) -> bytes:
        metadata = {"__metadata__": {"format": "pt", "pad": " " * padding}}
        return json.dumps(metadata | entries, separators=(",", ":")).encode()

    text = encode(-(8 + len(encode(0))) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, mapped from disk or decoded; ArtifactError where it is none."""
    tensors = {}
    for name, tensor in _mapped(path).items():
        digest = name.removeprefix(_CODED)
        if digest in tensors:
            raise ArtifactError(f"the weights hold {digest} twice", where=str(path))
        try:
            tensors[digest] = tensor if digest == name else decode(_stream(name, tensor), digest)
        except ArtifactError as error:
            error.where = f"{name} in {path}"
            raise
    return tensors


@dataclass(frozen=True)
class StoredWeight:
    """How a tensor lies on disk: its type, the form it is coded in ("raw" where it is not), bytes,
    and elements (those of the arrays that a coded tensor of bytes is made of).

    A raw tensor of i4 or u4 shows as the i8 or u8 that holds it.
    """

    type: TensorType
    form: str
    nbytes: int
    elements: int

    @property
    def raw_bytes(self) -> int:
        """Bytes of the tensor in memory."""
        return self.type.size * self.type.dtype.torch.itemsize


def stored_weights(path: Path) -> dict[str, StoredWeight]:
    """How each tensor of a weights file is stored, by digest, without decoding any."""
    found = {}
    for name, tensor in _mapped(path).items():
        digest = name.removeprefix(_CODED)
        if digest == name:
            t = TensorType(DType.of(tensor.dtype), tuple(tensor.shape))
            found[digest] = StoredWeight(t, "raw", tensor.nbytes, t.size)
        else:
            stream = read(_stream(name, tensor))
            elements = sum(count for _, count, _ in stream.parts)
            found[digest] = StoredWeight(stream.type, stream.summary, tensor.nbytes, elements)
    return found


def _mapped(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if not name.startswith(_PAD)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"the weights cannot be read: {error}", where=str(path)) from error


def _stream(name: str, tensor: torch.Tensor) -> memoryview:
    if tensor.dtype != torch.uint8:
        raise ArtifactError(f"{name} is {tensor.dtype}, not bytes")
    return tensor.reshape(-1).numpy().data
