"""Elementary functions of f32 vectors in plain vector arithmetic, so that no library call breaks a loop.

Every function maps an f32 expression of any number of lanes to one of as many lanes. Errors against the
exact value stay within 2 units in the last place for exp, log and tanh, 3 for sigmoid, 5 for erf between -1
and 1; results under 2^-125 may be flushed to zero. NaN gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Expr, fma

# 1.5 * 2^23: adding it rounds to an integer and leaves that integer in the low bits.
ROUNDER = 12582912.0
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4

# Cephes expf, tanhf and logf: polynomials in the reduced argument, highest degree first.
EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
# erf(x) = x P(x^2) / Q(x^2) for |x| <= 3.83: the rational approximation of Eigen and XLA.
ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
ERF_LIMIT = 3.832506856900711


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body` of the value, which is computed once however often `body` uses it."""
    code = emit.current()
    if code is not None:
        return body(code.hold(value))
    var = tirx.Var("t", value.ty)
    return tirx.Let(var, value, body(var))


def like(x: Expr, value: float) -> Expr:
    """A constant of the type and lanes of `x`."""
    return emit.const(value, emit.type_of(x), emit.lanes_of(x))


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    return tirx.Select(condition, yes, no)


def maximum(x: Expr, y: Expr) -> Expr:
    """The greater of the two; NaN where x is NaN."""
    return select(tirx.LT(x, y), y, x)


def minimum(x: Expr, y: Expr) -> Expr:
    """The lesser of the two; NaN where x is NaN."""
    return select(tirx.GT(x, y), y, x)


def clamp(x: Expr, low: float, high: float) -> Expr:
    """x limited to low .. high; NaN stays."""
    return let(x, lambda v: let(maximum(v, like(v, low)), lambda w: minimum(w, like(w, high))))


def polynomial(x: Expr, coefficients: Sequence[float], start: Expr | None = None) -> Expr:
    """Horner's rule, highest degree first; `start` continues a polynomial. `x` must be a variable."""
    terms = list(coefficients)
    value = like(x, terms.pop(0)) if start is None else start
    for term in terms:
        value = fma(value, x, like(x, term))
    return value


def absolute(x: Expr) -> Expr:
    return _float(_bits(x) & _int(x, 0x7FFFFFFF))


def with_sign(magnitude: Expr, sign: Expr) -> Expr:
    """`magnitude`, not negative, with the sign of `sign`."""
    return _float(_bits(magnitude) | (_bits(sign) & _int(sign, -0x80000000)))


def round_to_int(x: Expr, low: float = -(2.0**31), high: float = 2.0**31 - 128) -> Expr:
    """The nearest i32, ties to even, of x limited to low .. high; NaN gives some i32.

    The limits are i32's own by default. A requantization passes the limits of its type less the zero point
    and needs no other saturation.
    """
    # Without the limits LLVM 22 would also fold an unaligned load into SSE2's conversion, which traps.
    return emit.intrinsic(emit.vector("int32", emit.lanes_of(x)), "llvm.lrint", clamp(x, low, high))


def exp(x: Expr) -> Expr:
    """e to the x."""
    # 2^n is applied as 2 * 2^(n - 1): the greatest results have n = 128, which no exponent holds.
    return let(clamp(x, -87.336, 89.5), lambda v: _exp(v, 126) * like(v, 2.0))


def exp_below_zero(x: Expr) -> Expr:
    """e to the x where x is not above zero, NaN included."""
    return let(x, lambda v: let(maximum(v, like(v, -87.336)), lambda w: _exp(w, 127)))


def _exp(x: Expr, exponent: int) -> Expr:
    """e to the x times 2^(exponent - 127), for x in the range of normal results."""

    def reduced(t: Expr) -> Expr:
        scale = _float((_bits(t) << _int(t, 23)) + _int(t, exponent << 23))
        n = t - like(t, ROUNDER)
        return let(n, lambda n: finish(fma(n, like(n, -LN2_LOW), fma(n, like(n, -LN2_HIGH), x)), scale))

    def finish(r: Expr, scale: Expr) -> Expr:
        return let(r, lambda r: fma(polynomial(r, EXP), r * r, r + like(r, 1.0)) * scale)

    return let(fma(x, like(x, 1.4426950408889634), like(x, ROUNDER)), reduced)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x))."""
    e = exp(like(x, 0.0) - x)
    return like(x, 1.0) / (like(x, 1.0) + e)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent: an odd polynomial near zero, 1 - 2 / (exp(2 |x|) + 1) beyond 0.625."""

    def both(v: Expr) -> Expr:
        far = with_sign(like(v, 1.0) - like(v, 2.0) / (exp(absolute(v) * like(v, 2.0)) + like(v, 1.0)), v)
        near = let(v * v, lambda s: fma(polynomial(s, TANH) * s, v, v))
        return select(tirx.LT(absolute(v), like(v, 0.625)), near, far)

    return let(x, both)


def erf(x: Expr) -> Expr:
    """The error function."""

    def rational(v: Expr) -> Expr:
        quotient = let(v * v, lambda s: v * polynomial(s, ERF_P) / polynomial(s, ERF_Q))
        # Exactly one beyond the limit: gelu multiplies 1 + erf by any number.
        return let(
            absolute(v),
            lambda a: select(tirx.GE(a, like(v, ERF_LIMIT)), with_sign(like(v, 1.0), v), quotient),
        )

    return let(clamp(x, -ERF_LIMIT, ERF_LIMIT), rational)


def log(x: Expr) -> Expr:
    """Natural logarithm; -inf at 0, NaN below."""

    def normal(v: Expr) -> Expr:
        # Denormal numbers are scaled into the normal range first.
        small = tirx.LT(v, like(v, 1.17549435e-38))
        return let(
            select(small, v * like(v, 8388608.0), v),
            lambda s: let(select(small, like(v, -23.0), like(v, 0.0)), lambda shift: split(v, s, shift)),
        )

    def split(v: Expr, s: Expr, shift: Expr) -> Expr:
        # s = m 2^e with m in [sqrt(1/2), sqrt(2)).
        return let(
            _bits(s) - _int(s, 0x3F3504F3),
            lambda b: let(
                _float((b & _int(s, 0x007FFFFF)) + _int(s, 0x3F3504F3)) - like(s, 1.0),
                lambda m: let(
                    tirx.Cast(emit.vector("float32", emit.lanes_of(s)), b >> _int(s, 23)) + shift,
                    lambda e: ends(v, series(m, e)),
                ),
            ),
        )

    def series(m: Expr, e: Expr) -> Expr:
        tail = fma(polynomial(m, LOG), m * (m * m), fma(e, like(m, LN2_LOW), m * m * like(m, -0.5)))
        return fma(e, like(m, LN2_HIGH), tail + m)

    def ends(v: Expr, y: Expr) -> Expr:
        inf = like(v, float("inf"))
        y = select(tirx.EQ(v, inf), v, y)
        y = select(tirx.EQ(v, like(v, 0.0)), like(v, float("-inf")), y)
        return select(tirx.GE(v, like(v, 0.0)), y, like(v, float("nan")))

    return let(x, normal)


def gelu(x: Expr) -> Expr:
    """x times the normal distribution function of x (the exact form, with erf)."""
    return let(x, lambda v: let(v * like(v, 0.5), lambda h: fma(h, erf(v * like(v, 0.7071067811865476)), h)))


def gelu_tanh(x: Expr) -> Expr:
    """GELU's tanh form: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""

    def form(v: Expr) -> Expr:
        inner = v * fma(v * v, like(v, 0.044715 * 0.7978845608028654), like(v, 0.7978845608028654))
        return let(v * like(v, 0.5), lambda h: fma(h, tanh(inner), h))

    return let(x, form)


def silu(x: Expr) -> Expr:
    """x times sigmoid(x)."""
    return let(x, lambda v: v / (like(v, 1.0) + exp(like(v, 0.0) - v)))


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret(emit.vector("int32", emit.lanes_of(x)), x)


def _float(x: Expr) -> Expr:
    return tirx.reinterpret(emit.vector("float32", emit.lanes_of(x)), x)


def _int(x: Expr, value: int) -> Expr:
    return emit.const(value, "int32", emit.lanes_of(x))
