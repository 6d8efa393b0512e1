"""Control flow that is known at compile time: branches chosen, loops unrolled."""

from __future__ import annotations

from onnx import ValueInfoProto

from hardy.compiler.frontends.onnx.context import Context, EmptyOptional, Importer, Item, TensorList
from hardy.compiler.frontends.onnx.tensors import checked_shape, dtype_of
from hardy.compiler.ir import Value
from hardy.compiler.ops.elementwise import Where
from hardy.compiler.types import DType, TensorType

# A loop may unroll to this many imported nodes.
MAX_UNROLLED = 100_000


def _if(ctx: Context) -> list[Item | None]:
    """The branch that a known condition takes; else both, and the results chosen by element."""
    then, other = ctx.graph("then_branch"), ctx.graph("else_branch")
    condition = ctx.known(0)
    if condition is not None:
        return ctx.scope.inline(ctx.scope.body(then if condition.item() else other), ())
    e = ctx.e
    results: list[Item | None] = []
    taken = ctx.scope.inline(ctx.scope.body(then), ())
    left = ctx.scope.inline(ctx.scope.body(other), ())
    for x, y in zip(taken, left, strict=True):
        if not (isinstance(x, Value) and isinstance(y, Value) and x.type == y.type):
            ctx.constant(0, "its condition, as its branches give results of different types,")
        assert isinstance(x, Value)
        assert isinstance(y, Value)
        results.append(ctx(Where(), e.reshape(ctx[0], ()), x, y))
    return results


def _check_size(ctx: Context, steps: int, nodes: int) -> None:
    if steps * max(nodes, 1) > MAX_UNROLLED:
        ctx.unsupported(
            f"{ctx.node.op_type} of {steps} steps would unroll to {steps * nodes} nodes",
            hint="loops are unrolled; give a smaller trip count",
        )


def _loop(ctx: Context) -> list[Item | None]:
    graph = ctx.graph("body")
    body, e = ctx.scope.body(graph), ctx.e
    carried: list[Item | None] = list(ctx.inputs[2:])
    scans = len(body.outputs) - 1 - len(carried)
    if scans < 0 or len(body.inputs) != 2 + len(carried):
        ctx.fail(f"the loop body does not fit {len(carried)} carried values")
    steps = ctx.constant_int(0, "the trip count") if ctx.has(0) else None
    going = True if not ctx.has(1) else bool(ctx.constant(1, "its condition").item())
    if steps is None and not ctx.has(1):
        ctx.fail("a loop without a trip count and a condition does not end")
    collected: list[list[Value]] = [[] for _ in range(scans)]
    step = 0
    while going and (steps is None or step < steps):
        _check_size(ctx, step + 1, len(body.nodes))
        counter = e.scalar(step, DType.i64)
        condition, *results = ctx.scope.inline(body, [counter, e.scalar(True, DType.boolean), *carried])
        carried = results[: len(carried)]
        for rows, row in zip(collected, results[len(carried) :], strict=True):
            rows.append(_tensor(ctx, row))
        known = ctx.require(_tensor(ctx, condition), "Loop needs the condition of each step at compile time")
        going = bool(known.item())
        step += 1
    empty = graph.output[1 + len(carried) :]
    return [
        *carried,
        *[e.stack(r, 0) if r else _no_rows(ctx, o) for r, o in zip(collected, empty, strict=True)],
    ]


def _tensor(ctx: Context, item: Item | None) -> Value:
    if not isinstance(item, Value):
        ctx.fail("the body of a loop must give tensors here")
    return item


def _no_rows(ctx: Context, info: ValueInfoProto) -> Value:
    """The stacked results of a loop that takes no step: their declared type."""
    t = info.type.tensor_type
    if any(not d.HasField("dim_value") for d in t.shape.dim):
        ctx.unsupported(f"a loop of no steps whose result {info.name!r} declares no shape")
    sizes = checked_shape([d.dim_value for d in t.shape.dim], ctx.source)
    return ctx.e.zeros(TensorType(dtype_of(t.elem_type, ctx.source), (0, *sizes)))


def _scan(ctx: Context) -> list[Item | None]:
    """Scans unroll to one body for each position of the scanned axes."""
    body, e = ctx.scope.body(ctx.graph("body")), ctx.e
    if ctx.opset < 9:
        return _batched_scan(ctx)
    count = ctx.integer("num_scan_inputs")
    states: list[Item | None] = list(ctx.inputs[: len(ctx.inputs) - count])
    inputs = [ctx[i] for i in range(len(states), len(ctx.inputs))]
    outputs = len(body.outputs) - len(states)
    in_axes = ctx.integers("scan_input_axes", (0,) * count)
    in_turned = ctx.integers("scan_input_directions", (0,) * count)
    out_axes = ctx.integers("scan_output_axes", (0,) * outputs)
    out_turned = ctx.integers("scan_output_directions", (0,) * outputs)
    if not inputs or len(in_axes) != count or len(out_axes) != outputs:
        ctx.fail("the scan's attributes do not fit its operands")
    axes = [ctx.axis(a, x.type.rank) for a, x in zip(in_axes, inputs, strict=True)]
    lengths = {x.type.shape[a] for a, x in zip(axes, inputs, strict=True)}
    if len(lengths) != 1:
        ctx.fail(f"the scanned axes have different sizes {sorted(lengths)}")
    steps = lengths.pop()
    _check_size(ctx, steps, len(body.nodes))
    if steps == 0 and outputs:
        ctx.unsupported("a Scan over an empty axis")
    rows: list[list[Value]] = [[] for _ in range(outputs)]
    for step in range(steps):
        parts = [
            e.pick(x, a, steps - 1 - step if turned else step)
            for x, a, turned in zip(inputs, axes, in_turned, strict=True)
        ]
        results = ctx.scope.inline(body, [*states, *parts])
        states = results[: len(states)]
        for row, result in zip(rows, results[len(states) :], strict=True):
            row.append(_tensor(ctx, result))
    stacked = []
    for row, axis, turned in zip(rows, out_axes, out_turned, strict=True):
        order = row[::-1] if turned else row
        stacked.append(e.stack(order, ctx.axis(axis, row[0].type.rank + 1)))
    return [*states, *stacked]


def _batched_scan(ctx: Context) -> list[Item | None]:
    """Operator set 8: a leading batch axis, each entry scanned by itself."""
    body, e = ctx.scope.body(ctx.graph("body")), ctx.e
    if ctx.has(0):
        ctx.unsupported("Scan-8 with sequence lengths", hint="convert the model to operator set 9 or later")
    count = ctx.integer("num_scan_inputs")
    operands = [ctx[i] for i in range(1, len(ctx.inputs))]
    states, inputs = operands[: len(operands) - count], operands[len(operands) - count :]
    directions = ctx.integers("directions", (0,) * count)
    steps = inputs[0].type.shape[1]
    batch = inputs[0].type.shape[0]
    _check_size(ctx, steps * batch, len(body.nodes))
    entries: list[list[Value]] = []
    for b in range(batch):
        state: list[Item | None] = [e.pick(s, 0, b) for s in states]
        rows: list[list[Value]] = [[] for _ in range(len(body.outputs) - len(states))]
        for step in range(steps):
            parts = [
                e.pick(e.pick(x, 0, b), 0, steps - 1 - step if turned else step)
                for x, turned in zip(inputs, directions, strict=True)
            ]
            results = ctx.scope.inline(body, [*state, *parts])
            state = results[: len(states)]
            for row, result in zip(rows, results[len(states) :], strict=True):
                row.append(_tensor(ctx, result))
        entries.append([*[_tensor(ctx, s) for s in state], *[e.stack(row, 0) for row in rows]])
    return [e.stack(list(column), 0) for column in zip(*entries, strict=True)]


# Sequences and optionals: their length and content are known, only the tensors in them are not.


def _sequence_construct(ctx: Context) -> TensorList:
    return TensorList(tuple(ctx.tensors()), ctx[0].type.dtype)


def _sequence_empty(ctx: Context) -> TensorList:
    return TensorList((), ctx.dtype("dtype", DType.f32))


def _position(ctx: Context, index: int, size: int) -> int:
    at = ctx.constant_int(index, "the position")
    if not -size <= at < size:
        ctx.fail(f"position {at} is outside a sequence of {size}")
    return at % size


def _sequence_at(ctx: Context) -> Item:
    items = ctx.sequence(0).items
    return items[_position(ctx, 1, len(items))]


def _sequence_insert(ctx: Context) -> TensorList:
    sequence = ctx.sequence(0)
    size = len(sequence.items)
    at = size
    if ctx.has(2):
        at = ctx.constant_int(2, "the position")
        if not -size <= at <= size:
            ctx.fail(f"position {at} is outside a sequence of {size}")
        at = at + size if at < 0 else at
    return TensorList((*sequence.items[:at], ctx[1], *sequence.items[at:]), sequence.dtype)


def _sequence_erase(ctx: Context) -> TensorList:
    sequence = ctx.sequence(0)
    size = len(sequence.items)
    at = _position(ctx, 1, size) if ctx.has(1) else size - 1
    return TensorList((*sequence.items[:at], *sequence.items[at + 1 :]), sequence.dtype)


def _sequence_length(ctx: Context) -> Value:
    return ctx.e.scalar(len(ctx.sequence(0).items), DType.i64)


def _split_to_sequence(ctx: Context) -> TensorList:
    x, e = ctx[0], ctx.e
    axis = ctx.axis(ctx.integer("axis", 0), x.type.rank)
    size = x.type.shape[axis]
    if not ctx.has(1):
        sizes = [1] * size
    else:
        split = ctx.constant(1, "the parts")
        if split.ndim == 0:
            step = int(split)
            if step < 1:
                ctx.fail(f"parts must be positive, got {step}")
            sizes = [min(step, size - start) for start in range(0, size, step)]
        else:
            sizes = [int(v) for v in split.tolist()]
    if sum(sizes) != size or min(sizes, default=0) < 0:
        ctx.fail(f"parts {sizes} do not add up to axis {axis} of {x.type}")
    parts = e.split(x, axis, sizes)
    if not ctx.has(1) and not ctx.integer("keepdims", 1):
        parts = [e.reshape(p, p.type.shape[:axis] + p.type.shape[axis + 1 :]) for p in parts]
    return TensorList(tuple(parts), x.type.dtype)


def _concat_from_sequence(ctx: Context) -> Value:
    tensors = [_tensor(ctx, item) for item in ctx.sequence(0).items]
    if not tensors:
        ctx.fail("an empty sequence cannot be joined")
    rank = tensors[0].type.rank
    if ctx.integer("new_axis", 0):
        return ctx.e.stack(tensors, ctx.axis(ctx.integer("axis"), rank + 1))
    return ctx.e.concat(tensors, ctx.axis(ctx.integer("axis"), rank))


def _optional(ctx: Context) -> Item:
    item = ctx.item(0)
    return EmptyOptional() if item is None else item


def _optional_get_element(ctx: Context) -> Item:
    item = ctx.item(0)
    if item is None or isinstance(item, EmptyOptional):
        ctx.fail("an empty optional has no element")
    return item


def _optional_has_element(ctx: Context) -> Value:
    item = ctx.item(0)
    return ctx.e.scalar(not (item is None or isinstance(item, EmptyOptional)), DType.boolean)


IMPORTERS: dict[str, Importer] = {
    "ConcatFromSequence": _concat_from_sequence,
    "If": _if,
    "Loop": _loop,
    "Optional": _optional,
    "OptionalGetElement": _optional_get_element,
    "OptionalHasElement": _optional_has_element,
    "Scan": _scan,
    "SequenceAt": _sequence_at,
    "SequenceConstruct": _sequence_construct,
    "SequenceEmpty": _sequence_empty,
    "SequenceErase": _sequence_erase,
    "SequenceInsert": _sequence_insert,
    "SequenceLength": _sequence_length,
    "SplitToSequence": _split_to_sequence,
}
