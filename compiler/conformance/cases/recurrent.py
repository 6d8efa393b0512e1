"""Recurrent layers in every direction, with and without lengths."""

from __future__ import annotations

from collections.abc import Iterator

from hardy.compiler.conformance.case import Case, between, case, exactly
from hardy.compiler.ops.recurrent import Gru, Lstm, Rnn


def cases() -> Iterator[Case]:
    steps, batch, inputs, hidden = 5, 3, 6, 4
    x = f"f32[{steps},{batch},{inputs}]"
    for direction, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
        for op in (Rnn(direction), Gru(direction), Gru(direction, reset_after=False), Lstm(direction)):
            rows = op.gates * hidden
            types = [x, f"f32[{d},{rows},{inputs}]", f"f32[{d},{rows},{hidden}]"]
            types += [f"f32[{d},{rows}]"] * op.biases + [f"f32[{d},{batch},{hidden}]"] * op.states
            label = direction + ("_reset_before" if op == Gru(direction, reset_after=False) else "")
            fill = between(-0.7, 0.7)
            weights = tuple(range(1, 3 + op.biases))
            yield case(op, *types, label=label, fill=fill, constants=weights)
            last = len(types)
            fills = dict.fromkeys(range(last), fill) | {last: exactly(5, 2, 0)}
            yield case(op, *types, "i64[3]", label=f"{label}_lengths", fill=fills, constants=weights)
    yield case(Rnn("forward", "relu"), x, "f32[1,4,6]", "f32[1,4,4]", "f32[1,4]", "f32[1,3,4]", label="relu")
