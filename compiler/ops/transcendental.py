"""Transcendental elementwise functions, of float tensors only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ops.elementwise import Binary, FloatUnary
from hardy.compiler.ops.rules import broadcast, require_float
from hardy.compiler.types import TensorType


@dataclass(frozen=True)
class Exp(FloatUnary):
    """e to the x."""

    def reference(self, x: Tensor) -> Tensor:
        return x.exp()


@dataclass(frozen=True)
class Expm1(FloatUnary):
    """exp(x) - 1, accurate near zero."""

    def reference(self, x: Tensor) -> Tensor:
        return x.expm1()


@dataclass(frozen=True)
class Log(FloatUnary):
    """Natural logarithm; NaN below zero."""

    def reference(self, x: Tensor) -> Tensor:
        return x.log()


@dataclass(frozen=True)
class Log1p(FloatUnary):
    """log(1 + x), accurate near zero."""

    def reference(self, x: Tensor) -> Tensor:
        return x.log1p()


@dataclass(frozen=True)
class Sin(FloatUnary):
    """Sine of radians."""

    def reference(self, x: Tensor) -> Tensor:
        return x.sin()


@dataclass(frozen=True)
class Cos(FloatUnary):
    """Cosine of radians."""

    def reference(self, x: Tensor) -> Tensor:
        return x.cos()


@dataclass(frozen=True)
class Tan(FloatUnary):
    """Tangent of radians."""

    def reference(self, x: Tensor) -> Tensor:
        return x.tan()


@dataclass(frozen=True)
class Asin(FloatUnary):
    """Inverse sine, in radians; NaN outside -1..1."""

    def reference(self, x: Tensor) -> Tensor:
        return x.asin()


@dataclass(frozen=True)
class Acos(FloatUnary):
    """Inverse cosine, in radians; NaN outside -1..1."""

    def reference(self, x: Tensor) -> Tensor:
        return x.acos()


@dataclass(frozen=True)
class Atan(FloatUnary):
    """Inverse tangent, in radians."""

    def reference(self, x: Tensor) -> Tensor:
        return x.atan()


@dataclass(frozen=True)
class Atan2(Binary):
    """Angle in radians, -pi..pi, of the point whose ordinate is x and whose abscissa is y."""

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        require_float(self.name, x, y)
        return broadcast(x, y)

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.atan2(x, y)


@dataclass(frozen=True)
class Sinh(FloatUnary):
    """Hyperbolic sine."""

    def reference(self, x: Tensor) -> Tensor:
        return x.sinh()


@dataclass(frozen=True)
class Cosh(FloatUnary):
    """Hyperbolic cosine."""

    def reference(self, x: Tensor) -> Tensor:
        return x.cosh()


@dataclass(frozen=True)
class Tanh(FloatUnary):
    """Hyperbolic tangent."""

    def reference(self, x: Tensor) -> Tensor:
        return x.tanh()


@dataclass(frozen=True)
class Asinh(FloatUnary):
    """Inverse hyperbolic sine."""

    def reference(self, x: Tensor) -> Tensor:
        return x.asinh()


@dataclass(frozen=True)
class Acosh(FloatUnary):
    """Inverse hyperbolic cosine; NaN below one."""

    def reference(self, x: Tensor) -> Tensor:
        return x.acosh()


@dataclass(frozen=True)
class Atanh(FloatUnary):
    """Inverse hyperbolic tangent; NaN outside -1..1."""

    def reference(self, x: Tensor) -> Tensor:
        return x.atanh()


@dataclass(frozen=True)
class Erf(FloatUnary):
    """Error function."""

    def reference(self, x: Tensor) -> Tensor:
        return torch.erf(x)
