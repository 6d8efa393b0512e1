"""The arithmetic of one step of K: f32 multiply-add, and integer dot products exact on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Buffer, Expr


@dataclass(frozen=True, slots=True)
class Dot:
    """How a tile multiplies: `group` consecutive elements of K enter one step.

    `x_dtype` is the element type of x as the tile reads it; where it is not the caller's type, or where
    `shift` is not zero, x is copied to the workspace first, converted, with `shift` added to every element.
    `w_dtype` is the packed weight's type. The accumulator then holds sum((x + shift) * w): the start value
    must subtract `shift` times the sum of the weights.

    Where it `counts`, x and w are packed signs and the accumulator holds the number of bits that differ: the
    result is a total, which stands where other products have their bias, less twice that number.
    """

    name: str
    x_dtype: str
    w_dtype: str
    acc_dtype: str
    group: int
    shift: int = 0
    counts: bool = False

    @property
    def line(self) -> int:
        """Elements of the packed weight in a cache line of 64 bytes."""
        return 64 // np.dtype(self.w_dtype).itemsize

    def load_x(self, x: Buffer, index: Expr) -> Expr:
        """The `group` elements at `index`, as one scalar."""
        if self.group == 1:
            return emit.load(x, index, 1)
        return tirx.reinterpret("int32", emit.load(x, index, self.group))

    def spread(self, value: Expr, lanes: int) -> Expr:
        return emit.splat(value, lanes)

    def load_w(self, w: Buffer, index: Expr, lanes: int) -> Expr:
        vector = emit.load(w, index, lanes * self.group)
        return vector if self.group == 1 else tirx.reinterpret(emit.vector("int32", lanes), vector)

    def accumulate(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        if self.name == "f32":
            return emit.fma(x, w, acc)
        lanes = emit.lanes_of(acc)
        if self.name == "vnni" and lanes in _VPDPBUSD:
            quads = [tirx.reinterpret(f"int8x{4 * lanes}", v) for v in (x, w)]
            return emit.intrinsic(f"int32x{lanes}", _VPDPBUSD[lanes], acc, *quads)
        if self.name == "madd" and lanes in _PMADDWD:
            pairs = f"int16x{2 * lanes}"
            product = emit.intrinsic(
                f"int32x{lanes}", _PMADDWD[lanes], tirx.reinterpret(pairs, x), tirx.reinterpret(pairs, w)
            )
            return acc + product
        if self.counts:
            count = _lookup if self.name == "lookup" and lanes in _PSHUFB else _population
            return acc + count(x ^ w)
        return _add_products(acc, x, w, self)


def _add_products(acc: Expr, x: Expr, w: Expr, dot: Dot) -> Expr:
    """The same sum by shifts and 32-bit products, for lane counts without an instruction."""
    lanes = emit.lanes_of(acc)
    if dot.group == 1:
        return acc + x * w
    bits = 32 // dot.group
    for i in range(dot.group):
        up = emit.const(32 - bits * (i + 1), "int32", lanes)
        down = emit.const(32 - bits, "int32", lanes)
        left = x << up
        if dot.x_dtype == "uint8":
            unsigned = emit.vector("uint32", lanes)
            logical = tirx.reinterpret(unsigned, left) >> emit.const(32 - bits, "uint32", lanes)
            value = tirx.reinterpret(emit.vector("int32", lanes), logical)
        else:
            value = left >> down
        acc = acc + value * ((w << up) >> down)
    return acc


def _population(x: Expr) -> Expr:
    """The set bits of each i32."""
    return emit.intrinsic(str(x.ty.dtype), "llvm.ctpop", x)


def _lookup(x: Expr) -> Expr:
    """The same where nothing counts the bits of a vector: of each half byte by a table, then summed."""
    lanes = emit.lanes_of(x)
    bytes_, pairs = f"int8x{4 * lanes}", f"int16x{2 * lanes}"
    four, low = emit.const(4, "int32", lanes), emit.const(0x0F0F0F0F, "int32", lanes)
    entries = [tirx.const(i.bit_count(), "int8") for i in range(16)] * (lanes // 4)
    table = tirx.Shuffle(entries, list(range(4 * lanes)))

    def counted(half: Expr) -> Expr:
        index = tirx.reinterpret(bytes_, half & low)
        return emit.intrinsic(bytes_, _PSHUFB[lanes], table, index)

    each = counted(x) + counted(x >> four)
    ones = [emit.const(1, dtype, n) for dtype, n in (("int8", 4 * lanes), ("int16", 2 * lanes))]
    summed = emit.intrinsic(pairs, _PMADDUBSW[lanes], each, ones[0])
    return emit.intrinsic(f"int32x{lanes}", _PMADDWD[lanes], summed, ones[1])


def multiply_add_16(acc: Expr, x: Expr, w: Expr, isa: Isa) -> Expr:
    """acc + x * w in i32 where both fit 16 bits and, on x86, the high half of `w` is zero.

    pmaddwd then adds a zero product, and costs one instruction where a 32-bit product costs two slow ones.
    """
    lanes = emit.lanes_of(acc)
    if isa.arch != "x86_64":
        return acc + x * w
    if lanes not in _PMADDWD:
        low = emit.const(16, "int32", lanes)
        return acc + x * ((w << low) >> low)
    pairs = f"int16x{2 * lanes}"
    return acc + emit.intrinsic(
        f"int32x{lanes}", _PMADDWD[lanes], tirx.reinterpret(pairs, x), tirx.reinterpret(pairs, w)
    )


_VPDPBUSD = {
    16: "llvm.x86.avx512.vpdpbusd.512",
    8: "llvm.x86.avx512.vpdpbusd.256",
    4: "llvm.x86.avx512.vpdpbusd.128",
}
_PSHUFB = {16: "llvm.x86.avx512.pshuf.b.512", 8: "llvm.x86.avx2.pshuf.b", 4: "llvm.x86.ssse3.pshuf.b.128"}
_PMADDUBSW = {
    16: "llvm.x86.avx512.pmaddubs.w.512",
    8: "llvm.x86.avx2.pmadd.ub.sw",
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
}
_PMADDWD = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}

F32 = Dot("f32", "float32", "float32", "float32", 1)


def integer_dot(x_dtype: str, isa: Isa) -> Dot:
    """The fastest exact i32 dot product of u8 or i8 activations with i8 weights.

    VNNI multiplies u8 by i8 without saturation, four at a time; i8 activations are shifted by 128. Without it
    both sides are widened to 16 bits and multiplied in pairs (pmaddwd), elsewhere to 32 bits.
    """
    if x_dtype not in ("uint8", "int8"):
        raise ValueError(f"integer kernels take uint8 or int8 activations, not {x_dtype}")
    if isa.has("vnni"):
        return Dot("vnni", "uint8", "int8", "int32", 4, shift=128 if x_dtype == "int8" else 0)
    if isa.arch == "x86_64":
        return Dot("madd", "int16", "int16", "int32", 2)
    return Dot("wide", "int32", "int32", "int32", 1)


def binary_dot(isa: Isa) -> Dot:
    """Four bytes of packed signs a step: an exclusive or, and a population count."""
    slow = isa.name.startswith("avx") and not isa.has("vpopcntdq")
    return Dot("lookup" if slow else "popcount", "uint8", "uint8", "int32", 4, counts=True)


def dot_for(x_dtype: str, isa: Isa) -> Dot:
    return F32 if x_dtype == "float32" else integer_dot(x_dtype, isa)
