"""Arithmetic of the op set's element types in TIR: storage, conversion, wrapping integers, NaN rules.

Values are computed in their `COMPUTE` type: f16, bf16 and f8 in f32, bool as one bit, 4-bit integers
in a byte.
TVM marks 32- and 64-bit sums and products as free of overflow, which LLVM may exploit, so integers that must
wrap are computed in a wider type, or for 64 bits in halves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tvm import tirx

from hardy.compiler.literal import Literal
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Expr
from hardy.targets.cpu.kernels.math import let, like, select

STORAGE: dict[DType, str] = {
    DType.f64: "float64",
    DType.f32: "float32",
    DType.f16: "uint16",
    DType.bf16: "uint16",
    DType.f8e4m3: "uint8",
    DType.f8e5m2: "uint8",
    DType.i64: "int64",
    DType.i32: "int32",
    DType.i16: "int16",
    DType.i8: "int8",
    DType.i4: "int8",
    DType.u8: "uint8",
    DType.u4: "uint8",
    DType.boolean: "uint8",
}
COMPUTE: dict[DType, str] = {
    **STORAGE,
    DType.f16: "float32",
    DType.bf16: "float32",
    DType.f8e4m3: "float32",
    DType.f8e5m2: "float32",
    DType.boolean: "bool",
}


BYTES = {name: dtype.torch.itemsize for dtype, name in STORAGE.items()}


def immediate(literal: Literal, lanes: int) -> Expr:
    """A one-element constant in its compute type."""
    dtype = literal.type.dtype
    plain = torch.float32 if dtype in SMALL else dtype.torch
    return emit.const(literal.tensor.reshape(()).to(plain).item(), COMPUTE[dtype], lanes)


def storage_bytes(dtype: DType) -> int:
    """Bytes of one element in memory."""
    return dtype.torch.itemsize


@dataclass(frozen=True)
class SmallFloat:
    """A float format of at most 16 bits; `finite` formats have one NaN and no infinity."""

    exponent: int
    mantissa: int
    finite: bool = False

    @property
    def bias(self) -> int:
        return int(2 ** (self.exponent - 1)) - 1

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa


SMALL = {
    DType.f16: SmallFloat(5, 10),
    DType.bf16: SmallFloat(8, 7),
    DType.f8e5m2: SmallFloat(5, 2),
    DType.f8e4m3: SmallFloat(4, 3, finite=True),
}


def cast(x: Expr, dtype: str) -> Expr:
    """TIR's own conversion, lanes kept."""
    return x if emit.type_of(x) == dtype else tirx.Cast(emit.vector(dtype, emit.lanes_of(x)), x)


def bits_of(x: Expr) -> Expr:
    return tirx.reinterpret(emit.vector("int32", emit.lanes_of(x)), x)


def float_of(x: Expr) -> Expr:
    return tirx.reinterpret(emit.vector("float32", emit.lanes_of(x)), x)


def from_storage(x: Expr, dtype: DType) -> Expr:
    """A loaded value in its compute type."""
    if dtype is DType.boolean:
        return tirx.NE(x, like(x, 0))
    return _decode(cast(x, "int32"), SMALL[dtype]) if dtype in SMALL else x


def to_storage(x: Expr, dtype: DType) -> Expr:
    """A computed value in the type in which it is stored."""
    if dtype in SMALL:
        return cast(let(x, lambda v: _encode(v, SMALL[dtype])), STORAGE[dtype])
    return cast(x, STORAGE[dtype])


def _decode(raw: Expr, f: SmallFloat) -> Expr:
    """f32 from the bits of a small float in i32: shifted into place, then scaled by a power of two."""

    def value(raw: Expr) -> Expr:
        magnitude = raw & like(raw, (1 << (f.bits - 1)) - 1)
        sign = (raw >> like(raw, f.bits - 1)) << like(raw, 31)
        wide = magnitude << like(raw, 23 - f.mantissa)
        scaled = float_of(wide)
        if f.bias != 127:
            scaled = tirx.Mul(scaled, like(scaled, 2.0 ** (127 - f.bias)))
        first_special = (1 << (f.bits - 1)) - 1 if f.finite else ((1 << f.exponent) - 1) << f.mantissa
        special = tirx.GE(magnitude, like(raw, first_special))
        return float_of(select(special, wide | like(raw, 0x7F800000), bits_of(scaled)) | sign)

    return let(raw, value)


def _encode(x: Expr, f: SmallFloat) -> Expr:
    """The bits (i32) of an f32 rounded to nearest even; beyond the range infinite, or NaN."""
    drop = 23 - f.mantissa
    nan = (1 << (f.bits - 1)) - 1
    infinity = nan if f.finite else ((1 << f.exponent) - 1) << f.mantissa

    def parts(u: Expr) -> Expr:
        magnitude = u & like(u, 0x7FFFFFFF)
        return let(magnitude, lambda m: signed(u, m))

    def signed(u: Expr, m: Expr) -> Expr:
        odd = (m >> like(m, drop)) & like(m, 1)
        normal = ((m + (like(m, (1 << (drop - 1)) - 1) + odd)) >> like(m, drop)) - like(
            m, (127 - f.bias) << f.mantissa
        )
        result = normal
        if f.bias != 127:
            # Adding this power of two leaves the subnormal's mantissa, rounded, in the low bits.
            magic = 2.0 ** (24 - f.bias - f.mantissa)
            total = float_of(m) + like(float_of(m), magic)
            subnormal = bits_of(total) - like(m, (127 + 24 - f.bias - f.mantissa) << 23)
            result = select(tirx.LT(m, like(m, (128 - f.bias) << 23)), subnormal, normal)
        result = let(result, lambda r: select(tirx.GE(r, like(r, infinity)), like(r, infinity), r))
        result = select(tirx.GT(m, like(m, 0x7F800000)), like(m, nan), result)
        return result | ((u >> like(u, 31)) & like(u, 1)) << like(u, f.bits - 1)

    return let(bits_of(x), parts)


def convert(x: Expr, source: DType, to: DType, *, saturate: bool = False) -> Expr:
    """The `cast` op: from one compute type to another."""
    if source is to:
        return x
    if to is DType.boolean:
        return tirx.Not(tirx.EQ(x, like(x, 0)))
    if to.is_float:
        if to in SMALL:
            x = cast(x, "float32")
            if saturate and to in (DType.f8e4m3, DType.f8e5m2):
                limit = 448.0 if to is DType.f8e4m3 else 57344.0
                x = fmin(fmax(x, like(x, -limit)), like(x, limit))
            # Rounded here, so that what follows in the same kernel sees the narrow value.
            return let(x, lambda v: _decode(_encode(v, SMALL[to]), SMALL[to]))
        return cast(x, COMPUTE[to])
    if source is DType.boolean:
        return cast(x, COMPUTE[to])
    if source.is_float:
        x = cast(x, "int64" if to is DType.i64 else "int32")
    if to in (DType.i4, DType.u4):
        wide = cast(x, "int32")
        if to is DType.u4:
            return cast(wide & like(wide, 15), "uint8")
        return cast((wide << like(wide, 28)) >> like(wide, 28), "int8")
    return cast(x, COMPUTE[to])


def is_nan(x: Expr) -> Expr:
    """Whether a float is NaN; x must be a variable. TVM's `!=` is false for NaN, hence the negated `==`."""
    return tirx.Not(tirx.EQ(x, x))


def fmax(x: Expr, y: Expr) -> Expr:
    """The greater float; NaN if either is NaN."""
    if isinstance(_scalar(y), tirx.FloatImm):
        return let(x, lambda v: select(tirx.LT(v, y), y, v))
    return let(x, lambda v: let(y, lambda w: select(tirx.Or(tirx.LT(v, w), is_nan(w)), w, v)))


def fmin(x: Expr, y: Expr) -> Expr:
    """The lesser float; NaN if either is NaN."""
    if isinstance(_scalar(y), tirx.FloatImm):
        return let(x, lambda v: select(tirx.GT(v, y), y, v))
    return let(x, lambda v: let(y, lambda w: select(tirx.Or(tirx.GT(v, w), is_nan(w)), w, v)))


def _scalar(x: Expr) -> Expr:
    return x.value if isinstance(x, tirx.Broadcast) else x


def _bits(x: Expr) -> int:
    return int(x.ty.dtype.bits)


def _wider(x: Expr, y: Expr, f: Callable[[Expr, Expr], Expr]) -> Expr:
    """f in a type wide enough not to overflow, cut back to the type of x."""
    dtype = emit.type_of(x)
    wide = "int64" if _bits(x) == 32 else "int32"
    return cast(f(cast(x, wide), cast(y, wide)), dtype)


def _low(x: Expr) -> Expr:
    return x & like(x, 0xFFFFFFFF)


def _join(high: Expr, low: Expr) -> Expr:
    return (high << like(high, 32)) | _low(low)


def add(x: Expr, y: Expr) -> Expr:
    """x + y; integers wrap."""
    if _is_float(x):
        return tirx.Add(x, y)
    if _bits(x) < 64:
        return _wider(x, y, tirx.Add)

    def carried(v: Expr, w: Expr, low: Expr) -> Expr:
        thirty_two = like(v, 32)
        high = (v >> thirty_two) + (w >> thirty_two) + (low >> thirty_two)
        return _join(high, low)

    return let(x, lambda v: let(y, lambda w: let(_low(v) + _low(w), lambda low: carried(v, w, low))))


def sub(x: Expr, y: Expr) -> Expr:
    """x - y; integers wrap."""
    if _is_float(x):
        return tirx.Sub(x, y)
    if _bits(x) < 64:
        return _wider(x, y, tirx.Sub)
    return add(add(x, y ^ like(y, -1)), like(x, 1))


def rounded(x: Expr) -> Expr:
    """A float that is rounded here: LLVM must not contract it with what follows, such as a product and a sum.

    So a chain of ops gives the same bits as one op after the other.
    """
    return emit.intrinsic(str(x.ty.dtype), "llvm.arithmetic.fence", x)


def mul(x: Expr, y: Expr) -> Expr:
    """x * y; integers wrap."""
    if _is_float(x):
        return rounded(tirx.Mul(x, y))
    if _bits(x) < 32:
        return _wider(x, y, tirx.Mul)
    if _bits(x) == 32:
        # The product of two 32-bit integers fits 64 bits.
        return _wider(x, y, tirx.Mul)

    def halves(v: Expr, w: Expr) -> Expr:
        unsigned = [cast(_low(h), "uint64") for h in (v, w, v >> like(v, 32), w >> like(w, 32))]
        v0, w0, v1, w1 = unsigned
        low = cast(tirx.Mul(v0, w0), "int64")
        cross = _low(cast(tirx.Mul(v1, w0), "int64")) + _low(cast(tirx.Mul(v0, w1), "int64"))
        shifted = cross << like(cross, 32)
        return let(shifted, lambda high: add(high, low))

    return let(x, lambda v: let(y, lambda w: halves(v, w)))


def negate(x: Expr) -> Expr:
    """-x; integers wrap."""
    return tirx.Mul(x, like(x, -1.0)) if _is_float(x) else sub(like(x, 0), x)


def divide(x: Expr, y: Expr) -> Expr:
    """x / y; integers truncate towards zero, and x / 0 is 0."""
    if _is_float(x):
        return tirx.Div(x, y)
    return _guarded_division(x, y, tirx.Div, negate, like(x, 0))


def remainder(x: Expr, y: Expr) -> Expr:
    """The integer remainder with the sign of x; x rem 0 is 0."""
    return _guarded_division(x, y, tirx.Mod, lambda v: like(v, 0), like(x, 0))


def _guarded_division(
    x: Expr, y: Expr, f: Callable[[Expr, Expr], Expr], by_minus_one: Callable[[Expr], Expr], by_zero: Expr
) -> Expr:
    """Integer division without its two traps: by zero, and of the least integer by -1."""
    if _bits(x) < 32:
        return cast(
            _guarded_division(cast(x, "int32"), cast(y, "int32"), f, by_minus_one, cast(by_zero, "int32")),
            emit.type_of(x),
        )

    def safe(v: Expr, w: Expr) -> Expr:
        zero, minus = tirx.EQ(w, like(w, 0)), tirx.EQ(w, like(w, -1))
        result = f(v, select(tirx.Or(zero, minus), like(w, 1), w))
        return select(zero, by_zero, select(minus, by_minus_one(v), result))

    return let(x, lambda v: let(y, lambda w: safe(v, w)))


def _is_float(x: Expr) -> bool:
    return emit.type_of(x).startswith("float")


def integer_power(x: Expr, y: Expr) -> Expr:
    """x to the y by repeated squaring, wrapping; a negative exponent gives what 1 / x^|y| truncates to."""
    bits = _bits(y)
    one, zero = like(x, 1), like(x, 0)

    def step(k: int, base: Expr, result: Expr, exponent: Expr) -> Expr:
        if k == bits - 1:
            return result
        odd = tirx.NE((exponent >> like(exponent, k)) & like(exponent, 1), like(exponent, 0))
        return let(
            select(odd, mul(result, base), result),
            lambda r: let(mul(base, base), lambda b: step(k + 1, b, r, exponent)),
        )

    def negative(v: Expr, w: Expr, power: Expr) -> Expr:
        if emit.type_of(x).startswith("uint"):
            return power
        even = tirx.EQ(w & like(w, 1), like(w, 0))
        inverse = select(
            tirx.EQ(v, one), one, select(tirx.EQ(v, like(v, -1)), select(even, one, like(v, -1)), zero)
        )
        return select(tirx.LT(w, like(w, 0)), inverse, power)

    return let(x, lambda v: let(y, lambda w: negative(v, w, step(0, v, one, w))))
