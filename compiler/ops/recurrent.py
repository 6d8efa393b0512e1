"""Composite recurrent layers: RNN, GRU and LSTM, in one or both directions.

Shapes shared by all: x [steps, batch, inputs]; weight [directions, gates * hidden, inputs];
recurrence [directions, gates * hidden, hidden]; biases [directions, gates * hidden]; states
[directions, batch, hidden]; lengths [batch], integers, how many steps of each sequence count.
The first result is y [steps, batch, directions * hidden], zero past a sequence's length; the
final states follow. A reverse direction starts at the end of each sequence.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Op, Value
from hardy.compiler.ops.activation import Relu, Sigmoid
from hardy.compiler.ops.elementwise import Add, Less, Mul, Sub, Where
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.rules import require, require_float, require_integer, same_dtype
from hardy.compiler.ops.shape import Concat, Reshape, Slice
from hardy.compiler.ops.transcendental import Tanh
from hardy.compiler.types import TensorType

DIRECTIONS = ("forward", "reverse", "bidirectional")


def _part(b: Builder, x: Value, axis: int, start: int, size: int) -> Value:
    stops = list(x.type.shape)
    starts = [0] * len(stops)
    starts[axis], stops[axis] = start, start + size
    return b(Slice(tuple(starts), tuple(stops), (1,) * len(stops)), x)


def _pick(b: Builder, x: Value, index: int) -> Value:
    """x[index], the first axis gone."""
    return b(Reshape(x.type.shape[1:]), _part(b, x, 0, index, 1))


@dataclass(frozen=True)
class Recurrent(Op):
    """The loop over steps and directions; a subclass gives one step as torch and as graph."""

    direction: str = "forward"

    gates: ClassVar[int]
    states: ClassVar[int]
    biases: ClassVar[int]

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def _reversed(self, index: int) -> bool:
        return self.direction == "reverse" or index == 1

    @abstractmethod
    def _step(self, x: Tensor, r: Tensor, bias: list[Tensor], state: list[Tensor]) -> list[Tensor]:
        """The next states, the output first; x [batch, gates * hidden] is the input's projection."""

    @abstractmethod
    def _step_graph(
        self, b: Builder, x: Value, r: Value, bias: list[Value], state: list[Value]
    ) -> list[Value]:
        """`_step` as graph."""

    def _check(
        self, x: TensorType, w: TensorType, r: TensorType, rest: list[TensorType], lengths: TensorType | None
    ) -> tuple[TensorType, ...]:
        require(self.direction in DIRECTIONS, f"direction {self.direction!r} is not one of {DIRECTIONS}")
        require_float(self.name, x)
        dtype = same_dtype(x, w, r, *rest)
        require(x.rank == 3 and r.rank == 3, f"x {x} and recurrence {r} must have three axes")
        steps, batch, inputs = x.shape
        hidden, d = r.shape[2], self.directions
        rows = self.gates * hidden
        expected: list[tuple[int, ...]] = [(d, rows, inputs), (d, rows, hidden)]
        expected += [(d, rows)] * self.biases + [(d, batch, hidden)] * self.states
        for t, shape in zip([w, r, *rest], expected, strict=True):
            require(t.shape == shape, f"expected {TensorType(dtype, shape)}, got {t}")
        if lengths is not None:
            require_integer("lengths", lengths)
            require(lengths.shape == (batch,), f"lengths must have shape [{batch}], got {lengths}")
        state = TensorType(dtype, (d, batch, hidden))
        return (TensorType(dtype, (steps, batch, d * hidden)), *[state] * self.states)

    def _run(
        self, x: Tensor, w: Tensor, r: Tensor, rest: list[Tensor], lengths: Tensor | None
    ) -> tuple[Tensor, ...]:
        steps = x.shape[0]
        biases, states = rest[: self.biases], rest[self.biases :]
        ys, finals = [], []
        for d in range(self.directions):
            projected = x @ w[d].T + biases[0][d]
            bias = [v[d] for v in biases[1:]]
            state = [s[d] for s in states]
            rows: list[Tensor] = [x] * steps
            for t in range(steps - 1, -1, -1) if self._reversed(d) else range(steps):
                new = self._step(projected[t], r[d], bias, state)
                if lengths is None:
                    state, rows[t] = new, new[0]
                else:
                    live = (t < lengths)[:, None]
                    rows[t] = torch.where(live, new[0], 0)
                    state = [torch.where(live, n, s) for n, s in zip(new, state, strict=True)]
            ys.append(torch.stack(rows) if rows else x.new_zeros(0, x.shape[1], r.shape[2]))
            finals.append(state)
        return (torch.cat(ys, 2), *[torch.stack(s) for s in zip(*finals, strict=True)])

    def _unroll(
        self, b: Builder, x: Value, w: Value, r: Value, rest: list[Value], lengths: Value | None
    ) -> tuple[Value, ...]:
        steps, batch, _ = x.type.shape
        hidden, dtype = r.type.shape[2], x.type.dtype
        biases, states = rest[: self.biases], rest[self.biases :]
        ys, finals = [], []
        zero = b.scalar(0, dtype)
        if lengths is not None:
            lengths = b(Reshape((batch, 1)), lengths)
        for d in range(self.directions):
            projected = b(Matmul(transpose_b=True), x, _pick(b, w, d))
            projected = b(Add(), projected, _pick(b, biases[0], d))
            recurrence = _pick(b, r, d)
            bias = [_pick(b, v, d) for v in biases[1:]]
            state = [_pick(b, s, d) for s in states]
            rows: list[Value] = [x] * steps
            for t in range(steps - 1, -1, -1) if self._reversed(d) else range(steps):
                new = self._step_graph(b, _pick(b, projected, t), recurrence, bias, state)
                row = new[0]
                if lengths is not None:
                    live = b(Less(), b.scalar(t, lengths.type.dtype), lengths)
                    row = b(Where(), live, row, zero)
                    new = [b(Where(), live, n, s) for n, s in zip(new, state, strict=True)]
                state = new
                rows[t] = b(Reshape((1, batch, hidden)), row)
            ys.append(b(Concat(0), *rows))
            finals.append([b(Reshape((1, batch, hidden)), s) for s in state])
        if self.directions == 1:
            return (ys[0], *finals[0])
        return (b(Concat(2), *ys), *[b(Concat(0), *pair) for pair in zip(*finals, strict=True)])

    def _macs(self, x: TensorType, r: TensorType) -> int:
        steps, batch, inputs = x.shape
        return self.directions * steps * batch * self.gates * r.shape[2] * (inputs + r.shape[2])


@dataclass(frozen=True)
class Rnn(Recurrent):
    """h' = f(W x + b + R h), f tanh or relu (Elman network)."""

    activation: str = "tanh"

    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1
    biases: ClassVar[int] = 1

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        recurrence: TensorType,
        bias: TensorType,
        h: TensorType,
        lengths: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        require(
            self.activation in ("tanh", "relu"), f"activation must be tanh or relu, got {self.activation!r}"
        )
        return self._check(x, weight, recurrence, [bias, h], lengths)

    def reference(
        self,
        x: Tensor,
        weight: Tensor,
        recurrence: Tensor,
        bias: Tensor,
        h: Tensor,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return self._run(x, weight, recurrence, [bias, h], lengths)

    def decompose(
        self,
        b: Builder,
        x: Value,
        weight: Value,
        recurrence: Value,
        bias: Value,
        h: Value,
        lengths: Value | None = None,
    ) -> tuple[Value, ...]:
        return self._unroll(b, x, weight, recurrence, [bias, h], lengths)

    def _step(self, x: Tensor, r: Tensor, bias: list[Tensor], state: list[Tensor]) -> list[Tensor]:
        total = x + state[0] @ r.T
        return [total.tanh() if self.activation == "tanh" else total.relu()]

    def _step_graph(
        self, b: Builder, x: Value, r: Value, bias: list[Value], state: list[Value]
    ) -> list[Value]:
        total = b(Add(), x, b(Matmul(transpose_b=True), state[0], r))
        return [b(Tanh() if self.activation == "tanh" else Relu(), total)]

    def macs(self, x: TensorType, weight: TensorType, recurrence: TensorType, *rest: TensorType) -> int:
        return self._macs(x, recurrence)


@dataclass(frozen=True)
class Gru(Recurrent):
    """Gates r, z, n in this order: h' = (1 - z) n + z h, with r and z sigmoids of W x + b + R h + c.

    n = tanh(W x + b + r (R h + c)) with `reset_after` (torch, cuDNN), else
    n = tanh(W x + b + R (r h) + c) (ONNX's default).
    """

    reset_after: bool = True

    gates: ClassVar[int] = 3
    states: ClassVar[int] = 1
    biases: ClassVar[int] = 2

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        recurrence: TensorType,
        bias: TensorType,
        recurrent_bias: TensorType,
        h: TensorType,
        lengths: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        return self._check(x, weight, recurrence, [bias, recurrent_bias, h], lengths)

    def reference(
        self,
        x: Tensor,
        weight: Tensor,
        recurrence: Tensor,
        bias: Tensor,
        recurrent_bias: Tensor,
        h: Tensor,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return self._run(x, weight, recurrence, [bias, recurrent_bias, h], lengths)

    def decompose(
        self,
        b: Builder,
        x: Value,
        weight: Value,
        recurrence: Value,
        bias: Value,
        recurrent_bias: Value,
        h: Value,
        lengths: Value | None = None,
    ) -> tuple[Value, ...]:
        return self._unroll(b, x, weight, recurrence, [bias, recurrent_bias, h], lengths)

    def _step(self, x: Tensor, r: Tensor, bias: list[Tensor], state: list[Tensor]) -> list[Tensor]:
        (h,), (c,) = state, bias
        n = h.shape[1]
        if self.reset_after:
            gates = h @ r.T + c
            reset = torch.sigmoid(x[:, :n] + gates[:, :n])
            new = torch.tanh(x[:, 2 * n :] + reset * gates[:, 2 * n :])
        else:
            gates = h @ r[: 2 * n].T + c[: 2 * n]
            reset = torch.sigmoid(x[:, :n] + gates[:, :n])
            new = torch.tanh(x[:, 2 * n :] + (reset * h) @ r[2 * n :].T + c[2 * n :])
        update = torch.sigmoid(x[:, n : 2 * n] + gates[:, n : 2 * n])
        return [(1 - update) * new + update * h]

    def _step_graph(
        self, b: Builder, x: Value, r: Value, bias: list[Value], state: list[Value]
    ) -> list[Value]:
        (h,), (c,) = state, bias
        n, linear = h.type.shape[1], Matmul(transpose_b=True)
        rows = 3 * n if self.reset_after else 2 * n
        gates = b(Add(), b(linear, h, _part(b, r, 0, 0, rows)), _part(b, c, 0, 0, rows))
        reset = b(Sigmoid(), b(Add(), _part(b, x, 1, 0, n), _part(b, gates, 1, 0, n)))
        if self.reset_after:
            recurrent = b(Mul(), reset, _part(b, gates, 1, 2 * n, n))
        else:
            product = b(linear, b(Mul(), reset, h), _part(b, r, 0, 2 * n, n))
            recurrent = b(Add(), product, _part(b, c, 0, 2 * n, n))
        new = b(Tanh(), b(Add(), _part(b, x, 1, 2 * n, n), recurrent))
        update = b(Sigmoid(), b(Add(), _part(b, x, 1, n, n), _part(b, gates, 1, n, n)))
        rest = b(Sub(), b.scalar(1, x.type.dtype), update)
        return [b(Add(), b(Mul(), rest, new), b(Mul(), update, h))]

    def macs(self, x: TensorType, weight: TensorType, recurrence: TensorType, *rest: TensorType) -> int:
        return self._macs(x, recurrence)


@dataclass(frozen=True)
class Lstm(Recurrent):
    """Gates i, f, g, o in this order: c' = f c + i g; h' = o tanh(c'), g tanh, the others sigmoid."""

    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2
    biases: ClassVar[int] = 1

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        recurrence: TensorType,
        bias: TensorType,
        h: TensorType,
        c: TensorType,
        lengths: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        return self._check(x, weight, recurrence, [bias, h, c], lengths)

    def reference(
        self,
        x: Tensor,
        weight: Tensor,
        recurrence: Tensor,
        bias: Tensor,
        h: Tensor,
        c: Tensor,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return self._run(x, weight, recurrence, [bias, h, c], lengths)

    def decompose(
        self,
        b: Builder,
        x: Value,
        weight: Value,
        recurrence: Value,
        bias: Value,
        h: Value,
        c: Value,
        lengths: Value | None = None,
    ) -> tuple[Value, ...]:
        return self._unroll(b, x, weight, recurrence, [bias, h, c], lengths)

    def _step(self, x: Tensor, r: Tensor, bias: list[Tensor], state: list[Tensor]) -> list[Tensor]:
        h, c = state
        i, f, g, o = (x + h @ r.T).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]

    def _step_graph(
        self, b: Builder, x: Value, r: Value, bias: list[Value], state: list[Value]
    ) -> list[Value]:
        h, c = state
        n = h.type.shape[1]
        total = b(Add(), x, b(Matmul(transpose_b=True), h, r))
        i, f, g, o = (_part(b, total, 1, k * n, n) for k in range(4))
        kept = b(Mul(), b(Sigmoid(), f), c)
        c = b(Add(), kept, b(Mul(), b(Sigmoid(), i), b(Tanh(), g)))
        return [b(Mul(), b(Sigmoid(), o), b(Tanh(), c)), c]

    def macs(self, x: TensorType, weight: TensorType, recurrence: TensorType, *rest: TensorType) -> int:
        return self._macs(x, recurrence)
