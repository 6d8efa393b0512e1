"""Constant tensors: immutable, identified by their content."""

from __future__ import annotations

import hashlib

import torch

from hardy.compiler.errors import GraphError
from hardy.compiler.types import DType, TensorType, dtype_name


class Literal:
    """An immutable constant tensor with its hardy type.

    Two literals are equal when type and bytes are. The tensor is never copied here: it may be
    memory-mapped from a weights file and shared by many graphs, so nobody may write to it.
    """

    __slots__ = ("_digest", "tensor", "type")

    def __init__(self, tensor: torch.Tensor, dtype: DType | None = None) -> None:
        """Wrap `tensor`; `dtype` is needed for i4 and u4, which torch stores in i8 and u8."""
        dtype = dtype or DType.of(tensor.dtype)
        if tensor.dtype != dtype.torch:
            raise GraphError(
                f"a literal of {dtype} needs {dtype_name(dtype.torch)} data, got {dtype_name(tensor.dtype)}"
            )
        tensor = tensor.detach()
        if tensor.device.type != "cpu":
            tensor = tensor.cpu()
        tensor = tensor.contiguous()
        # torch calls one element contiguous whatever its strides; its bytes need plain ones.
        self.tensor = tensor.as_strided(tensor.shape, (1,) * tensor.ndim) if tensor.numel() == 1 else tensor
        self.type = TensorType(dtype, tuple(tensor.shape))
        self._digest: str | None = None

    @property
    def digest(self) -> str:
        """Hex BLAKE2b-128 over type and bytes; computed on first use."""
        if self._digest is None:
            h = hashlib.blake2b(str(self.type).encode(), digest_size=16)
            h.update(self.tensor.reshape(-1).view(torch.uint8).numpy().data)
            self._digest = h.hexdigest()
        return self._digest

    def item(self) -> int | float | bool:
        """The value of a one-element literal."""
        value: int | float | bool = self.tensor.reshape(()).item()
        return value

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Literal):
            return NotImplemented
        return self.type == other.type and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Literal({self.type}, #{self.digest})"
