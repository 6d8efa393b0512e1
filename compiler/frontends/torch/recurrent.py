"""LSTM, GRU and RNN layers, caught before torch unrolls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.ir import Op, Value
from hardy.compiler.ops.recurrent import Gru, Lstm, Rnn


def _layers(
    c: Context,
    make: Any,
    merge_biases: bool,
    x: Value,
    states: Sequence[Value],
    params: Sequence[Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Value | None]:
    """Layer after layer; the results are y and the final states [layers * directions, batch, hidden].

    torch lists, for each layer and direction, w_ih, w_hh and, with biases, b_ih, b_hh.
    """
    e = c.e
    if train and dropout > 0 and num_layers > 1:
        c.unsupported("dropout between recurrent layers draws random numbers", hint="call model.eval()")
    directions = 2 if bidirectional else 1
    per = 4 if has_biases else 2
    if len(params) != num_layers * directions * per:
        c.unsupported("a projection of the hidden state (proj_size)", hint="train with proj_size=0")
    if batch_first:
        x = e.transpose(x, (1, 0, 2))
    op: Op = make("bidirectional" if bidirectional else "forward")
    finals: list[list[Value]] = [[] for _ in states]
    for layer in range(num_layers):
        groups = [
            params[(layer * directions + d) * per : (layer * directions + d + 1) * per]
            for d in range(directions)
        ]
        weight, recurrence = (e.stack([g[i] for g in groups], 0) for i in (0, 1))
        if has_biases:
            biases = [e.stack([g[i] for g in groups], 0) for i in (2, 3)]
        else:
            zero = e.full(weight.type.shape[:2], 0, x.type.dtype)
            biases = [zero, zero]
        if merge_biases:
            biases = [e.add(*biases) if has_biases else biases[0]]
        starts = [e.slice(s, 0, layer * directions, (layer + 1) * directions) for s in states]
        x, *ends = e.multi(op, x, weight, recurrence, *biases, *starts)
        for final, end in zip(finals, ends, strict=True):
            final.append(end)
    y = e.transpose(x, (1, 0, 2)) if batch_first else x
    return [y, *[e.concat(f, 0) for f in finals]]


@aten("lstm.input")
def _lstm(
    c: Context, x: Value, hx: Sequence[Value], params: Sequence[Value], *rest: Any
) -> list[Value | None]:
    if hx[0].type.shape[-1] != hx[1].type.shape[-1]:
        c.unsupported("a projection of the hidden state (proj_size)", hint="train with proj_size=0")
    return _layers(c, Lstm, True, x, hx, params, *rest)


@aten("gru.input")
def _gru(c: Context, x: Value, hx: Value, params: Sequence[Value], *rest: Any) -> list[Value | None]:
    return _layers(c, Gru, False, x, [hx], params, *rest)


@aten("rnn_tanh.input")
def _rnn_tanh(c: Context, x: Value, hx: Value, params: Sequence[Value], *rest: Any) -> list[Value | None]:
    return _layers(c, lambda direction: Rnn(direction, "tanh"), True, x, [hx], params, *rest)


@aten("rnn_relu.input")
def _rnn_relu(c: Context, x: Value, hx: Value, params: Sequence[Value], *rest: Any) -> list[Value | None]:
    return _layers(c, lambda direction: Rnn(direction, "relu"), True, x, [hx], params, *rest)


@aten("lstm.data", "gru.data", "rnn_tanh.data", "rnn_relu.data")
def _packed(c: Context, *args: Any) -> list[Value | None]:
    c.unsupported("a packed sequence, whose layout depends on the data", hint="pass padded sequences")
