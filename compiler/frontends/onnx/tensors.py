"""ONNX tensors as literals: element types, inline data, external data inside the model's folder."""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto

from hardy.compiler.errors import ModelError, UnsupportedError
from hardy.compiler.literal import Literal
from hardy.compiler.types import MAX_ELEMENTS, DType

DTYPES: dict[int, DType] = {
    TensorProto.FLOAT: DType.f32,
    TensorProto.UINT8: DType.u8,
    TensorProto.INT8: DType.i8,
    TensorProto.INT16: DType.i16,
    TensorProto.INT32: DType.i32,
    TensorProto.INT64: DType.i64,
    TensorProto.BOOL: DType.boolean,
    TensorProto.FLOAT16: DType.f16,
    TensorProto.DOUBLE: DType.f64,
    TensorProto.BFLOAT16: DType.bf16,
    TensorProto.FLOAT8E4M3FN: DType.f8e4m3,
    TensorProto.FLOAT8E5M2: DType.f8e5m2,
    TensorProto.UINT4: DType.u4,
    TensorProto.INT4: DType.i4,
}
ONNX_TYPES: dict[DType, int] = {dtype: code for code, dtype in DTYPES.items()}

# NumPy has no such types of its own; their bytes are those of these.
_BITS_OF = {DType.bf16: np.int16, DType.f8e4m3: np.uint8, DType.f8e5m2: np.uint8}


def dtype_of(code: int, where: str) -> DType:
    """The hardy type of an ONNX element type code."""
    if code in DTYPES:
        return DTYPES[code]
    known = TensorProto.DataType.values()
    name = TensorProto.DataType.Name(code) if code in known else str(code)
    raise UnsupportedError(
        f"element type {name.lower()} does not exist in hardy",
        where=where,
        hint=f"cast to one of {', '.join(d.value for d in DType)} before exporting",
    )


def checked_shape(sizes: Any, where: str) -> tuple[int, ...]:
    """A shape whose sizes are not negative and whose product is within the limit."""
    shape = tuple(int(s) for s in sizes)
    if any(s < 0 for s in shape):
        raise ModelError(f"negative size in shape {list(shape)}", where=where)
    if math.prod(shape) > MAX_ELEMENTS:
        raise ModelError(f"shape {list(shape)} has more than 2^40 elements", where=where)
    return shape


def from_array(array: np.ndarray[Any, Any], dtype: DType) -> Literal:
    """A literal over a NumPy array that holds `dtype` (ml_dtypes types among them)."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    if not array.flags.writeable:
        array = array.copy()
    if dtype in _BITS_OF:
        return Literal(torch.from_numpy(array.view(_BITS_OF[dtype])).view(dtype.torch), dtype)
    if dtype in (DType.i4, DType.u4):
        array = array.astype(np.int8 if dtype is DType.i4 else np.uint8)
    return Literal(torch.from_numpy(array), dtype)


def to_array(tensor: torch.Tensor, dtype: DType) -> np.ndarray[Any, Any]:
    """The NumPy array that ONNX tools use for a tensor of this type."""
    tensor = tensor.detach().contiguous()
    if dtype in _BITS_OF:
        width = torch.int16 if dtype is DType.bf16 else torch.uint8
        return tensor.view(width).numpy().view(onnx.helper.tensor_dtype_to_np_dtype(ONNX_TYPES[dtype]))
    if dtype in (DType.i4, DType.u4):
        return tensor.numpy().astype(onnx.helper.tensor_dtype_to_np_dtype(ONNX_TYPES[dtype]))
    return tensor.numpy()


def dtype_of_array(array: np.ndarray[Any, Any], where: str) -> DType:
    """The hardy type of an array's elements."""
    try:
        code = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    except (ValueError, TypeError):
        raise UnsupportedError(f"element type {array.dtype} does not exist in hardy", where=where) from None
    return dtype_of(int(code), where)


@dataclass
class TensorReader:
    """Reads a model's tensors; `folder` is where external data may lie, None where there is none."""

    folder: Path | None
    _maps: dict[Path, np.ndarray[Any, Any]] = field(default_factory=dict)

    def literal(self, proto: TensorProto) -> Literal:
        """The tensor's data. External data is memory-mapped, never copied."""
        where = f"tensor {proto.name!r}"
        dtype = dtype_of(proto.data_type, where)
        shape = checked_shape(proto.dims, where)
        if proto.data_location == TensorProto.EXTERNAL:
            return self._external(proto, dtype, shape, where)
        try:
            array = onnx.numpy_helper.to_array(proto)
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"the data does not fill shape {list(shape)} of {dtype}: {error}", where=where
            ) from None
        if array.shape != shape:
            raise ModelError(
                f"the data has shape {list(array.shape)}, declared is {list(shape)}", where=where
            )
        return from_array(array, dtype)

    def sparse(self, proto: onnx.SparseTensorProto) -> Literal:
        """A sparse tensor, made dense."""
        where = f"sparse tensor {proto.values.name!r}"
        shape = checked_shape(proto.dims, where)
        values = self.literal(proto.values)
        indices = self.literal(proto.indices).tensor.long()
        if indices.ndim == 2:
            strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
            indices = (indices * torch.tensor(strides)).sum(1)
        if indices.numel() != values.type.size or (
            indices.numel() and not self._inside(indices, math.prod(shape))
        ):
            raise ModelError(
                f"its indices do not fit {values.type.size} values in {list(shape)}", where=where
            )
        dense = torch.zeros(math.prod(shape), dtype=values.tensor.dtype)
        dense[indices] = values.tensor
        return Literal(dense.reshape(shape), values.type.dtype)

    @staticmethod
    def _inside(indices: torch.Tensor, size: int) -> bool:
        return bool(indices.min() >= 0) and bool(indices.max() < size)

    def _external(self, proto: TensorProto, dtype: DType, shape: tuple[int, ...], where: str) -> Literal:
        entries = {e.key: e.value for e in proto.external_data}
        location = entries.get("location", "")
        path = self._locate(location, where)
        where = f"{where}, external data {location!r}"
        size = (math.prod(shape) * dtype.bits + 7) // 8
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(size)))
        except ValueError:
            raise ModelError(f"offset and length must be whole numbers, got {entries}", where=where) from None
        available = path.stat().st_size
        if length != size:
            raise ModelError(
                f"length {length} does not fill {dtype}{list(shape)} ({size} bytes)", where=where
            )
        if offset < 0 or offset + size > available:
            raise ModelError(
                f"bytes {offset}..{offset + size} lie outside the file of {available} bytes",
                where=where,
                hint="the file is truncated or belongs to another model",
            )
        if size == 0:
            return Literal(torch.empty(shape, dtype=dtype.torch), dtype)
        data = self._map(path)[offset : offset + size]
        if dtype in (DType.i4, DType.u4):
            inline = TensorProto(data_type=proto.data_type, dims=proto.dims, raw_data=data.tobytes())
            return from_array(onnx.numpy_helper.to_array(inline), dtype)
        itemsize = dtype.bits // 8
        if offset % itemsize:
            data = data.copy()
        tensor = torch.from_numpy(data)
        return Literal(tensor.view(dtype.torch).reshape(shape), dtype)

    def _map(self, path: Path) -> np.ndarray[Any, Any]:
        if path not in self._maps:
            # Copy on write: torch wants writable memory, the file stays as it is.
            self._maps[path] = np.memmap(path, dtype=np.uint8, mode="c")
        return self._maps[path]

    def _locate(self, location: str, where: str) -> Path:
        """The file of external data, which must be a regular file inside the model's folder."""
        if self.folder is None:
            raise ModelError(
                f"the data lies in the file {location!r}, but the model has no folder",
                where=where,
                hint="load the model by its path",
            )
        posix, windows = PurePosixPath(location), PureWindowsPath(location)
        absolute = posix.is_absolute() or windows.is_absolute() or windows.drive or windows.root
        if not location or absolute or ".." in posix.parts or ".." in windows.parts or "\0" in location:
            raise ModelError(
                f"external data {location!r} must be a relative path inside the model's folder", where=where
            )
        folder = self.folder.resolve()
        path = (folder / location).resolve()
        if not path.is_relative_to(folder):
            raise ModelError(
                f"external data {location!r} is a link that leaves the model's folder", where=where
            )
        if not path.exists():
            raise ModelError(
                f"external data {location!r} is missing",
                where=where,
                hint=f"put it beside the model, in {folder}",
            )
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"external data {location!r} is not a regular file", where=where)
        return path
