"""The weights file: safetensors, each tensor once under the digest of its content.

Tensor data starts at multiples of 64 bytes in the file, so that it can be used where it is mapped:
the header is padded through its metadata, and short `pad.N` tensors of zeros fill the gaps, since
the format allows none (https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hardy.compiler.artifact.folder import Sink
from hardy.compiler.errors import ArtifactError
from hardy.compiler.types import DType

ALIGNMENT = 64
_PAD = "pad."
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


def write_weights(tensors: Mapping[str, torch.Tensor], sink: Sink) -> None:
    """Send a safetensors file of these tensors to the sink, ordered by name."""
    header: dict[str, object] = {}
    order = sorted(tensors)
    offset = 0
    for i, name in enumerate(order):
        tensor = tensors[name]
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
        gap = -offset % ALIGNMENT
        if gap and i + 1 < len(order):
            header[f"{_PAD}{i}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [offset, offset + gap]}
            offset += gap
    sink(_header(header))
    for i, name in enumerate(order):
        tensor = tensors[name]
        # Through u8, since numpy has no bf16 and no f8.
        sink(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        if i + 1 < len(order):
            sink(bytes(-tensor.nbytes % ALIGNMENT))


def _header(entries: dict[str, object]) -> bytes:
    def encode(padding: int) -> bytes:
        metadata = {"__metadata__": {"format": "pt", "pad": " " * padding}}
        return json.dumps(metadata | entries, separators=(",", ":")).encode()

    text = encode(-(8 + len(encode(0))) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, mapped from disk; ArtifactError where it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if not name.startswith(_PAD)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"the weights cannot be read: {error}", where=str(path)) from error
