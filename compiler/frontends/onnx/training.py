"""Steps of optimizers (domain ai.onnx.preview.training): plain arithmetic on parameters and gradients."""

from __future__ import annotations

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.ir import Value
from hardy.compiler.ops import elementwise as ew


def _groups(ctx: Context, parts: int) -> list[list[Value]]:
    """The operands after rate and step: all parameters, all gradients, then each kind of state."""
    tensors = ctx.tensors()[2:]
    count = len(tensors) // parts
    if len(tensors) != count * parts or not count:
        ctx.fail(f"{len(tensors)} tensors are not {parts} for each parameter")
    return [
        list(group)
        for group in zip(*[tensors[i * count : (i + 1) * count] for i in range(parts)], strict=True)
    ]


def _columns(results: list[list[Value]]) -> list[Item | None]:
    return [value for column in zip(*results, strict=True) for value in column]


def _regularized(ctx: Context, x: Value, gradient: Value) -> Value:
    coefficient = ctx.real("norm_coefficient", 0.0)
    return ctx.e.add(ctx.e.mul(x, coefficient), gradient) if coefficient else gradient


def _adagrad(ctx: Context) -> list[Item | None]:
    e, results = ctx.e, []
    for x, gradient, squares in _groups(ctx, 3):
        step = e.cast(ctx[1], x.type.dtype)
        rate = e.div(ctx[0], e.add(e.mul(step, ctx.real("decay_factor", 0.0)), 1))
        gradient = _regularized(ctx, x, gradient)
        squares = e.add(squares, e.mul(gradient, gradient))
        root = e.add(ctx(ew.Sqrt(), squares), ctx.real("epsilon", 0.0))
        results.append([e.sub(x, e.div(e.mul(rate, gradient), root)), squares])
    return _columns(results)


def _adam(ctx: Context) -> list[Item | None]:
    """Kingma and Ba, "Adam: a method for stochastic optimization", with the bias corrected in the rate."""
    e, results = ctx.e, []
    alpha, beta = ctx.real("alpha", 0.9), ctx.real("beta", 0.999)
    for x, gradient, mean, squares in _groups(ctx, 4):
        dtype = x.type.dtype
        step = e.cast(ctx[1], dtype)

        def remaining(base: float, step: Value = step) -> Value:
            return e.sub(1, ctx(ew.Pow(), e.scalar(base, step.type.dtype), step))

        rate = e.div(e.mul(ctx[0], ctx(ew.Sqrt(), remaining(beta))), remaining(alpha))
        rate = e.where(e.less(0, step), rate, ctx[0])
        gradient = _regularized(ctx, x, gradient)
        mean = e.add(e.mul(mean, alpha), e.mul(gradient, 1 - alpha))
        squares = e.add(e.mul(squares, beta), e.mul(e.mul(gradient, gradient), 1 - beta))
        root = e.add(ctx(ew.Sqrt(), squares), ctx.real("epsilon", 0.0))
        new = e.sub(x, e.div(e.mul(rate, mean), root))
        after = ctx.real("norm_coefficient_post", 0.0)
        results.append([e.mul(new, 1 - after) if after else new, mean, squares])
    return _columns(results)


def _momentum(ctx: Context) -> list[Item | None]:
    e, results = ctx.e, []
    alpha, beta, mode = ctx.real("alpha"), ctx.real("beta"), ctx.text("mode")
    if mode not in ("standard", "nesterov"):
        ctx.fail(f"unknown mode {mode!r}")
    for x, gradient, velocity in _groups(ctx, 3):
        gradient = _regularized(ctx, x, gradient)
        zero = e.scalar(0, ctx[1].type.dtype)
        weight = e.where(e.less(zero, ctx[1]), e.scalar(beta, x.type.dtype), e.scalar(1, x.type.dtype))
        velocity = e.add(e.mul(velocity, alpha), e.mul(weight, gradient))
        step = velocity if mode == "standard" else e.add(gradient, e.mul(velocity, alpha))
        results.append([e.sub(x, e.mul(ctx[0], step)), velocity])
    return _columns(results)


IMPORTERS: dict[str, Importer] = {"Adagrad": _adagrad, "Adam": _adam, "Momentum": _momentum}
