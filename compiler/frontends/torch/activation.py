"""Activation functions."""

from __future__ import annotations

from typing import NoReturn

from hardy.compiler.frontends.torch.context import Context, Operand, aten
from hardy.compiler.ir import Op, Value
from hardy.compiler.ops import activation as act
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops import transcendental as tr


def _plain(name: str, op: Op) -> None:
    @aten(name)
    def import_(c: Context, x: Value) -> Value:
        return c(op, c.value(x, c.dtype))


_plain("relu", act.Relu())
_plain("relu6", act.Clamp(0.0, 6.0))
_plain("sigmoid", act.Sigmoid())
_plain("silu", act.Silu())
_plain("mish", act.Mish())
_plain("hardswish", act.HardSwish())
_plain("hardsigmoid", act.HardSigmoid())


@aten("gelu")
def _gelu(c: Context, x: Value, *, approximate: str = "none") -> Value:
    return c(act.Gelu(approximate), x)


@aten("hardtanh")
def _hardtanh(c: Context, x: Value, min_val: float = -1, max_val: float = 1) -> Value:
    return c(act.Clamp(float(min_val), float(max_val)), x)


@aten("leaky_relu")
def _leaky_relu(c: Context, x: Value, negative_slope: float = 0.01) -> Value:
    return c(act.LeakyRelu(float(negative_slope)), x)


@aten("elu")
def elu(c: Context, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if input_scale == 1:
        y = c(act.Elu(float(alpha)), x)
    else:
        below = c.e.mul(c(tr.Expm1(), c.e.mul(c.e.min(x, 0), input_scale)), alpha)
        y = c.e.where(c.e.less(0, x), x, below)
    return y if scale == 1 else c.e.mul(y, scale)


@aten("celu")
def _celu(c: Context, x: Value, alpha: float = 1.0) -> Value:
    return elu(c, x, alpha, 1, 1 / alpha)


@aten("selu")
def _selu(c: Context, x: Value) -> Value:
    """Klambauer et al., "Self-Normalizing Neural Networks", 2017."""
    return elu(c, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@aten("softplus")
def _softplus(c: Context, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    if beta == 1 and threshold >= 20:
        # The straight line that torch takes above the threshold differs by less than 1e-8.
        return c(act.Softplus(), x)
    scaled = c.e.mul(x, beta)
    curve = c.e.div(c(act.Softplus(), scaled), beta)
    return c.e.where(c.e.less(threshold, scaled), x, curve)


@aten("log_sigmoid", "log_sigmoid_forward")
def _log_sigmoid(c: Context, x: Value) -> Value | list[Value | None]:
    y = c(ew.Neg(), c(act.Softplus(), c(ew.Neg(), x)))
    return y if len(c.types) == 1 else [y, None]


@aten("prelu", "_prelu_kernel")
def _prelu(c: Context, x: Value, weight: Value) -> Value:
    if weight.type.size == 1:
        weight = c.e.reshape(weight, ())
    elif weight.type.rank == 1:
        weight = c.e.reshape(weight, (weight.type.size, *[1] * (x.type.rank - 2)))
    return c.e.where(c.e.less(0, x), x, c.e.mul(x, weight))


@aten("glu")
def _glu(c: Context, x: Value, dim: int = -1) -> Value:
    axis = c.axis(dim, x.type.rank)
    half = x.type.shape[axis] // 2
    a, b = c.e.split(x, axis, [half, half])
    return c.e.mul(a, c(act.Sigmoid(), b))


@aten("softshrink")
def _softshrink(c: Context, x: Value, lambd: float = 0.5) -> Value:
    above = c.e.where(c.e.less(lambd, x), c.e.sub(x, lambd), c.e.mul(x, 0))
    return c.e.where(c.e.less(x, -lambd), c.e.add(x, lambd), above)


@aten("hardshrink")
def _hardshrink(c: Context, x: Value, lambd: float = 0.5) -> Value:
    inside = c(ew.And(), c.e.less_equal(-lambd, x), c.e.less_equal(x, lambd))
    return c.e.where(inside, 0, x)


@aten("threshold")
def _threshold(c: Context, x: Value, threshold: Operand, value: Operand) -> Value:
    return c(ew.Where(), c.e.less_equal(x, threshold), c.value(value, c.dtype), x)


@aten("dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "native_dropout")
def _dropout(c: Context, x: Value, p: float, train: bool | None) -> Value | list[Value | None]:
    if train and p > 0:
        refuse_random(c)
    return x if len(c.types) == 1 else [x, None]


def refuse_random(c: Context) -> NoReturn:
    c.unsupported(
        "the model draws random numbers",
        hint="call model.eval() if this is dropout; draw them outside and pass them as an input otherwise",
    )


def _random(*names: str) -> None:
    @aten(*names)
    def import_(c: Context, *args: object, **options: object) -> None:
        refuse_random(c)


_random(
    "bernoulli",
    "bernoulli.p",
    "multinomial",
    "normal_functional",
    "normal.Tensor_Tensor",
    "normal.Tensor_float",
    "normal.float_Tensor",
    "normal.float_float",
    "rand",
    "rand_like",
    "randint",
    "randint.low",
    "randint_like",
    "randint_like.low_dtype",
    "randn",
    "randn_like",
    "randperm",
    "uniform",
    "rrelu_with_noise_functional",
    "poisson",
    "exponential",
    "cauchy",
    "geometric",
    "log_normal",
)
