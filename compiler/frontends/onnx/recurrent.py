"""LSTM, GRU and RNN: as composites where those express them, else unrolled step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.ir import Value
from hardy.compiler.ops import activation as act
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops import transcendental as tr
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.recurrent import Gru, Lstm, Rnn
from hardy.compiler.types import TensorType

Function = Callable[[Value], Value]


@dataclass(frozen=True)
class Layer:
    """The operands of a recurrent node, with time first and states before batch.

    x [steps, batch, inputs]; weight [directions, gates * hidden, inputs]; recurrence [directions,
    gates * hidden, hidden]; bias and recurrent_bias [directions, gates * hidden]; states
    [directions, batch, hidden].
    """

    ctx: Context
    gates: int
    x: Value
    weight: Value
    recurrence: Value
    bias: Value
    recurrent_bias: Value
    states: tuple[Value, ...]
    lengths: Value | None
    direction: str

    @property
    def hidden(self) -> int:
        return self.recurrence.type.shape[2]

    @property
    def directions(self) -> int:
        return self.weight.type.shape[0]

    def reordered(self, value: Value, order: tuple[int, ...]) -> Value:
        """Rows of weights or biases with the gates in another order."""
        parts = self.ctx.e.split(value, 1, [self.hidden] * self.gates)
        return self.ctx.e.concat([parts[i] for i in order], 1)

    def results(self, y: Value, states: tuple[Value, ...]) -> list[Item | None]:
        """Y [steps, directions, batch, hidden] and the final states, as ONNX lays them out."""
        e = self.ctx.e
        steps, batch, _ = self.x.type.shape
        split = e.reshape(y, (steps, batch, self.directions, self.hidden))
        if self.ctx.integer("layout", 0):
            return [e.transpose(split, (1, 0, 2, 3)), *[e.transpose(s, (1, 0, 2)) for s in states]]
        return [e.transpose(split, (0, 2, 1, 3)), *states]


def _layer(ctx: Context, gates: int, states: int) -> Layer:
    e, x = ctx.e, ctx[0]
    batch_first = bool(ctx.integer("layout", 0))
    if x.type.rank != 3 or ctx[2].type.rank != 3:
        ctx.fail(f"{ctx.node.op_type} of {x.type} with recurrence {ctx[2].type}")
    x = e.transpose(x, (1, 0, 2)) if batch_first else x
    directions, rows, hidden = ctx[2].type.shape
    if rows != gates * hidden or ctx.integer("hidden_size", hidden) != hidden:
        ctx.fail(f"recurrence {ctx[2].type} does not hold {gates} gates of hidden size {hidden}")
    direction = ctx.text("direction", "forward").lower()
    if direction not in ("forward", "reverse", "bidirectional") or directions != 1 + (
        direction == "bidirectional"
    ):
        ctx.fail(f"direction {direction!r} does not fit weights for {directions} directions")
    bias = recurrent_bias = e.zeros(TensorType(x.type.dtype, (directions, rows)))
    if ctx.has(3):
        bias, recurrent_bias = e.split(ctx[3], 1, [rows, rows])
    initial = []
    for i in range(states):
        if ctx.has(5 + i):
            initial.append(e.transpose(ctx[5 + i], (1, 0, 2)) if batch_first else ctx[5 + i])
        else:
            initial.append(e.zeros(TensorType(x.type.dtype, (directions, x.type.shape[1], hidden))))
    lengths = ctx.optional(4)
    known = ctx.known(4)
    if known is not None and bool((known.tensor == x.type.shape[0]).all()):
        lengths = None
    return Layer(ctx, gates, x, ctx[1], ctx[2], bias, recurrent_bias, tuple(initial), lengths, direction)


def _activations(ctx: Context, default: tuple[str, ...], directions: int) -> tuple[str, ...]:
    names = tuple(n.lower() for n in ctx.texts("activations", default * directions))
    if len(names) != len(default) * directions:
        ctx.fail(f"{len(names)} activations for {directions} directions of {len(default)}")
    return names


def lstm(ctx: Context) -> list[Item | None]:
    layer = _layer(ctx, 4, 2)
    default = ("sigmoid", "tanh", "tanh")
    names = _activations(ctx, default, layer.directions)
    plain = names == default * layer.directions and not ctx.has(7) and "clip" not in ctx.attributes
    if not plain or ctx.integer("input_forget", 0):
        return _unroll(layer, lambda d: _lstm_step(layer, d))
    order = (0, 2, 3, 1)  # ONNX orders the gates i, o, f, c; hardy i, f, g, o
    weight, recurrence = layer.reordered(layer.weight, order), layer.reordered(layer.recurrence, order)
    bias = layer.reordered(ctx.e.add(layer.bias, layer.recurrent_bias), order)
    lengths = [] if layer.lengths is None else [layer.lengths]
    y, h, c = ctx.multi(Lstm(layer.direction), layer.x, weight, recurrence, bias, *layer.states, *lengths)
    return layer.results(y, (h, c))


def _gru(ctx: Context) -> list[Item | None]:
    layer = _layer(ctx, 3, 1)
    default = ("sigmoid", "tanh")
    names = _activations(ctx, default, layer.directions)
    if names != default * layer.directions or "clip" in ctx.attributes:
        return _unroll(layer, lambda d: _gru_step(layer, d))
    order = (1, 0, 2)  # ONNX orders the gates z, r, h; hardy r, z, n
    vectors = (layer.weight, layer.recurrence, layer.bias, layer.recurrent_bias)
    operands = [layer.reordered(v, order) for v in vectors]
    lengths = [] if layer.lengths is None else [layer.lengths]
    op = Gru(layer.direction, reset_after=bool(ctx.integer("linear_before_reset", 0)))
    y, h = ctx.multi(op, layer.x, *operands, *layer.states, *lengths)
    return layer.results(y, (h,))


def _rnn(ctx: Context) -> list[Item | None]:
    layer = _layer(ctx, 1, 1)
    names = _activations(ctx, ("tanh",), layer.directions)
    if set(names) not in ({"tanh"}, {"relu"}) or "clip" in ctx.attributes:
        return _unroll(layer, lambda d: _rnn_step(layer, d))
    bias = ctx.e.add(layer.bias, layer.recurrent_bias)
    lengths = [] if layer.lengths is None else [layer.lengths]
    op = Rnn(layer.direction, activation=names[0])
    y, h = ctx.multi(op, layer.x, layer.weight, layer.recurrence, bias, *layer.states, *lengths)
    return layer.results(y, (h,))


# The general case. A step maps the input's projection and the states to the next states.

Step = Callable[[Value, list[Value]], list[Value]]


def _unroll(layer: Layer, make_step: Callable[[int], Step]) -> list[Item | None]:
    e = layer.ctx.e
    steps, batch, _ = layer.x.type.shape
    ys, finals = [], []
    lengths = None if layer.lengths is None else e.reshape(layer.lengths, (batch, 1))
    for d in range(layer.directions):
        weight = e.pick(layer.weight, 0, d)
        projected = layer.ctx(Matmul(transpose_b=True), layer.x, weight)
        step, state = make_step(d), [e.pick(s, 0, d) for s in layer.states]
        rows: list[Value] = [layer.x] * steps
        backwards = layer.direction == "reverse" or d == 1
        for t in range(steps - 1, -1, -1) if backwards else range(steps):
            new = step(e.pick(projected, 0, t), state)
            rows[t] = new[0]
            if lengths is not None:
                live = e.less(t, lengths)
                rows[t] = e.where(live, new[0], 0)
                new = [e.where(live, n, s) for n, s in zip(new, state, strict=True)]
            state = new
        ys.append(e.stack(rows, 0))
        finals.append(state)
    states = tuple(e.stack(list(column), 0) for column in zip(*finals, strict=True))
    return layer.results(e.concat(ys, 2), states)


def _lstm_step(layer: Layer, d: int) -> Step:
    ctx, e, n = layer.ctx, layer.ctx.e, layer.hidden
    f, g, h = _functions(layer, ("sigmoid", "tanh", "tanh"), d)
    recurrence = e.pick(layer.recurrence, 0, d)
    bias = e.add(e.pick(layer.bias, 0, d), e.pick(layer.recurrent_bias, 0, d))
    peepholes: list[Value | None] = [None] * 3
    if ctx.has(7):
        peepholes = list(e.split(e.pick(ctx[7], 0, d), 0, [n] * 3))
    coupled = bool(ctx.integer("input_forget", 0))
    clip = _clip(layer)

    def gate(total: Value, peephole: Value | None, cell: Value, function: Function) -> Value:
        if peephole is not None:
            total = e.add(total, e.mul(peephole, cell))
        return function(clip(total))

    def step(x: Value, state: list[Value]) -> list[Value]:
        hidden, cell = state
        total = e.add(e.add(x, ctx(Matmul(transpose_b=True), hidden, recurrence)), bias)
        i, o, forget, c = e.split(total, 1, [n] * 4)
        i = gate(i, peepholes[0], cell, f)
        forget = e.sub(1, i) if coupled else gate(forget, peepholes[2], cell, f)
        new = e.add(e.mul(forget, cell), e.mul(i, g(clip(c))))
        return [e.mul(gate(o, peepholes[1], new, f), h(new)), new]

    return step


def _gru_step(layer: Layer, d: int) -> Step:
    ctx, e, n = layer.ctx, layer.ctx.e, layer.hidden
    f, g = _functions(layer, ("sigmoid", "tanh"), d)
    recurrence, bias = e.pick(layer.recurrence, 0, d), e.pick(layer.bias, 0, d)
    recurrent_bias = e.pick(layer.recurrent_bias, 0, d)
    linear, clip = Matmul(transpose_b=True), _clip(layer)
    after = bool(ctx.integer("linear_before_reset", 0))
    rows = e.split(recurrence, 0, [2 * n, n])
    offsets = e.split(recurrent_bias, 0, [2 * n, n])

    def step(x: Value, state: list[Value]) -> list[Value]:
        (hidden,) = state
        gates, candidate = e.split(e.add(x, bias), 1, [2 * n, n])
        gates = e.add(e.add(gates, ctx(linear, hidden, rows[0])), offsets[0])
        update, reset = (f(clip(v)) for v in e.split(gates, 1, [n, n]))
        if after:
            recurrent = e.mul(reset, e.add(ctx(linear, hidden, rows[1]), offsets[1]))
        else:
            recurrent = e.add(ctx(linear, e.mul(reset, hidden), rows[1]), offsets[1])
        new = g(clip(e.add(candidate, recurrent)))
        return [e.add(e.mul(e.sub(1, update), new), e.mul(update, hidden))]

    return step


def _rnn_step(layer: Layer, d: int) -> Step:
    ctx, e = layer.ctx, layer.ctx.e
    (f,) = _functions(layer, ("tanh",), d)
    recurrence = e.pick(layer.recurrence, 0, d)
    bias = e.add(e.pick(layer.bias, 0, d), e.pick(layer.recurrent_bias, 0, d))
    clip = _clip(layer)

    def step(x: Value, state: list[Value]) -> list[Value]:
        product = ctx(Matmul(transpose_b=True), state[0], recurrence)
        return [f(clip(e.add(e.add(x, product), bias)))]

    return step


def _clip(layer: Layer) -> Function:
    """Limits what goes into an activation."""
    if "clip" not in layer.ctx.attributes:
        return lambda x: x
    limit = layer.ctx.real("clip")
    return lambda x: layer.ctx(act.Clamp(-limit, limit), x)


# Defaults of alpha and beta where the standard gives them.
_DEFAULTS = {
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01, 0.0),
    "thresholdedrelu": (1.0, 0.0),
    "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, 0.0),
}
_TAKES_ALPHA = tuple(_DEFAULTS)
_TAKES_BETA = ("affine", "scaledtanh", "hardsigmoid")


def _functions(layer: Layer, default: tuple[str, ...], d: int) -> list[Function]:
    """The activations of one direction; alpha and beta are given to those that take them, in order."""
    ctx = layer.ctx
    names = _activations(ctx, default, layer.directions)
    alphas, betas = iter(ctx.reals("activation_alpha", ())), iter(ctx.reals("activation_beta", ()))
    functions = []
    for name in names:
        alpha, beta = _DEFAULTS.get(name, (0.0, 0.0))
        if name in _TAKES_ALPHA:
            alpha = next(alphas, alpha)
        if name in _TAKES_BETA:
            beta = next(betas, beta)
        functions.append(_function(ctx, name, alpha, beta))
    return functions[d * len(default) : (d + 1) * len(default)]


def _function(ctx: Context, name: str, alpha: float, beta: float) -> Function:
    e = ctx.e
    table: dict[str, Function] = {
        "sigmoid": lambda x: ctx(act.Sigmoid(), x),
        "tanh": lambda x: ctx(tr.Tanh(), x),
        "relu": lambda x: ctx(act.Relu(), x),
        "affine": lambda x: e.add(e.mul(x, alpha), beta),
        "leakyrelu": lambda x: ctx(act.LeakyRelu(alpha), x),
        "thresholdedrelu": lambda x: e.where(e.less(x, alpha), 0, x),
        "scaledtanh": lambda x: e.mul(ctx(tr.Tanh(), e.mul(x, beta)), alpha),
        "hardsigmoid": lambda x: ctx(act.HardSigmoid(alpha, beta), x),
        "elu": lambda x: ctx(act.Elu(alpha), x),
        "softsign": lambda x: e.div(x, e.add(ctx(ew.Abs(), x), 1)),
        "softplus": lambda x: ctx(act.Softplus(), x),
    }
    if name not in table:
        ctx.unsupported(f"the recurrent activation {name!r}")
    return table[name]


IMPORTERS: dict[str, Importer] = {"GRU": _gru, "LSTM": lstm, "RNN": _rnn}
