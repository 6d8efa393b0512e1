"""Which chains of integer ops are one layer, and which layer that is.

From the front: products of i8 with a constant, biases, other i8 tensors shifted left, added in i32; then
`requantize_shift`, then limits by `max` and `min` (a ReLU is one), then possibly a max pool, which commutes
with all of these. Also a max pool, or limits, of an i8 tensor alone. Tensors of two to four axes are seen as
(batch, channels, rows, columns). A sum that floats read is a layer as it is, in i32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from hardy.compiler.ir import Constant, Graph, Input, Node, Value
from hardy.compiler.ops.activation import Clamp, Relu
from hardy.compiler.ops.elementwise import Add, Cast, Max, Min, Mul, ShiftLeft, Sub
from hardy.compiler.ops.pool import MaxPool as MaxPoolOp
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul, RequantizeShift
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.types import DType, TensorType
from hardy.targets.fpga.lower.layer import NO_PADS, Array, Layer, MaxPool, Shape
from hardy.targets.fpga.pictures import NoLayerError, as_picture

CHANNELS = 1  # the axis of the channels, or of a matrix's columns
Users = Mapping[Value, Sequence[Node]]


@dataclass(frozen=True)
class Chain:
    """The nodes of one layer in the graph's order, the layer, and the values that it reads: its input and
    its residuals."""

    members: tuple[Node, ...]
    layer: Layer
    reads: tuple[Value, ...]


def starts_chain(node: Node, users: Users) -> bool:
    """Whether a chain may be found from this node: where its sum is requantized or leaves the integers, or an
    op on i8 alone."""
    if isinstance(node.op, RequantizeShift):
        return True
    if isinstance(node.op, Add | Sub | IntegerConv | IntegerMatmul):
        return node.type.dtype is DType.i32 and not any(
            v.type.dtype.is_integer for user in users.get(node.values[0], ()) for v in user.values
        )
    alone = isinstance(node.op, MaxPoolOp | Max | Min | Relu | Clamp)
    return alone and node.type.dtype is DType.i8


def layer_of(group: Graph) -> Chain:
    """The layer that a group's body is; NoLayerError where it is none."""
    users = group.users()
    start = next((n for n in group.nodes if starts_chain(n, users)), None)
    if start is None:
        raise NoLayerError("it holds no requantize_shift and no sum")
    chain = find_chain(start, users, set(group.outputs), grouped=True)
    computing = {n for n in group.nodes if not isinstance(n.op, Input | Constant)}
    if set(chain.members) != computing:
        raise NoLayerError("it holds more than one layer")
    return chain


def find_chain(
    start: Node, users: Users, outputs: Set[Value], pools: bool = True, grouped: bool = False
) -> Chain:
    """The layer around a node that starts a chain; NoLayerError says why there is none.

    Without `pools`, a max pool behind a sum is left for a layer of its own. `grouped` says that the nodes are
    a group's body, whose inputs are the accelerator's own.
    """
    seeker = _Seeker(users, outputs, pools or isinstance(start.op, MaxPoolOp), grouped)
    if isinstance(start.op, RequantizeShift):
        seeker.requantized(start)
    elif start.type.dtype is DType.i32:
        seeker.whole_sum(start)
    else:
        seeker.alone(start)
    return seeker.finish(start)


@dataclass
class _Seeker:
    """Collects one layer."""

    users: Users
    outputs: Set[Value]
    pools: bool
    grouped: bool
    members: list[Node] = field(default_factory=list)
    product: Node | None = None
    biases: list[Array] = field(default_factory=list)
    residuals: list[tuple[Value, Array]] = field(default_factory=list)
    shift: Array = field(default_factory=lambda: np.zeros((), np.int32))
    low: int = -128
    high: int = 127
    pool: MaxPool | None = None
    wide: bool = False

    # Upwards from where the sum ends.

    def requantized(self, node: Node) -> None:
        x, shift = node.operands
        if node.type.dtype is not DType.i8:
            raise NoLayerError(f"results are i8, this is {node.type.dtype}")
        if shift.literal is None:
            raise NoLayerError("its shift is no constant")
        assert isinstance(node.op, RequantizeShift)
        if shift.type.size > 1 and node.op.axis != CHANNELS:
            raise NoLayerError(f"its shifts lie along axis {node.op.axis}, channels along {CHANNELS}")
        self.shift = shift.literal.tensor.reshape(-1 if shift.type.size > 1 else ()).numpy()
        self._sum(x, node.type)
        self.members.append(node)

    def whole_sum(self, node: Node) -> None:
        self.wide = True
        self._term(node.values[0], node.type)
        if self.product is None:
            raise NoLayerError("it adds no product")

    def _sum(self, x: Value, result: TensorType) -> None:
        """Collect the terms of an i32 sum that nothing else reads."""
        if x.literal is not None:
            self.biases.append(_of_channels(x.literal.tensor, result, "a bias"))
            return
        self._require_single(x)
        self._term(x, result)

    def _term(self, x: Value, result: TensorType) -> None:
        op = x.op
        if isinstance(op, Add):
            for v in x.node.operands:
                self._sum(v, result)
        elif isinstance(op, Sub) and x.node.operands[1].literal is not None:
            self._sum(x.node.operands[0], result)
            self.biases.append(-_of_channels(x.node.operands[1].literal.tensor, result, "a bias"))
        elif isinstance(op, IntegerConv | IntegerMatmul):
            if self.product is not None:
                raise NoLayerError("it adds two products")
            self.product = x.node
            flat = x.node.operands[0]
            if isinstance(op, IntegerMatmul) and self._flattens(flat) and self._is_single(flat):
                self.members.append(flat.node)
        elif isinstance(op, Cast | ShiftLeft | Mul):
            self._residual(x, result)
            return
        else:
            raise NoLayerError(f"its sum holds the op {op.name}")
        self.members.append(x.node)

    def _residual(self, x: Value, result: TensorType) -> None:
        """An i8 tensor that is widened and shifted left."""
        shift = np.zeros((), np.int32)
        node = x.node
        if isinstance(node.op, ShiftLeft | Mul):
            shift = _left_shift(node, result)
            self._require_single(node.operands[0])
            self.members.append(node)
            node = node.operands[0].node
        if not isinstance(node.op, Cast) or node.operands[0].type.dtype is not DType.i8:
            raise NoLayerError(f"its sum holds the op {node.op.name} of {node.operands[0].type}")
        if node.type.shape != result.shape:
            raise NoLayerError(f"its sum broadcasts {node.type}")
        self.members.append(node)
        self.residuals.append((node.operands[0], shift))

    def _flattens(self, x: Value) -> bool:
        """Whether a matrix of one row is a picture or signal that the accelerator made.

        The host flattens what it gives itself: few channels then need not fill a block for each position.
        """
        if not isinstance(x.op, Reshape) or x.type.rank != 2 or x.type.shape[0] != 1:
            return False
        picture = x.node.operands[0]
        if picture.type.rank not in (3, 4) or picture.type.shape[0] != 1:
            return False
        made = picture.node.operands
        return self.grouped or (bool(made) and all(v.type.dtype.is_integer for v in made))

    def _is_single(self, x: Value) -> bool:
        return x not in self.outputs and len(self.users.get(x, ())) == 1

    def _require_single(self, x: Value) -> None:
        if not self._is_single(x):
            raise NoLayerError(f"the result of {x.op.name} is read by others as well")

    # An op on i8 alone.

    def alone(self, node: Node) -> None:
        self.residuals.append((node.operands[0], np.zeros((), np.int32)))
        if not self._follow(node):
            raise NoLayerError(
                f"{node.op.name} of {', '.join(str(v.type) for v in node.operands)} is no layer"
            )

    # Downwards.

    def _follow(self, node: Node) -> bool:
        """Take a node that limits the result or pools it, if it is one."""
        op = node.op
        if isinstance(op, MaxPoolOp):
            if (
                not self.pools
                or self.pool is not None
                or op.layout != "channels_first"
                or node.type.rank != 4
            ):
                return False
            if set(op.dilations) != {1} or node.types[0].dtype is not DType.i8 or len(node.types) != 1:
                return False
            spans = zip(op.padding, op.kernel, strict=True)
            if not all(max(pair) < kernel for pair, kernel in spans):
                return False
            (ky, kx), (sy, sx), (py, px) = op.kernel, op.strides, op.padding
            self.pool = MaxPool((ky, kx), (sy, sx), (py, px))
        else:
            limits = _limits(node)
            if limits is None:
                return False
            low, high = limits
            self.low = min(max(self.low, low), high)
            self.high = max(min(self.high, high), self.low)
        self.members.append(node)
        return True

    def finish(self, start: Node) -> Chain:
        last = start
        while not self.wide:
            (value,) = last.values
            readers = self.users.get(value, ())
            if value in self.outputs or len(readers) != 1 or readers[0].operands[0] != value:
                break
            if not self._follow(readers[0]):
                break
            last = readers[0]
        name = _called(self.product or start)
        layer, reads = self._layer(name)
        return Chain(tuple(_ordered(self.members)), layer, reads)

    def _layer(self, name: str) -> tuple[Layer, tuple[Value, ...]]:
        rest: dict[str, object] = {"pool": self.pool, "low": self.low, "high": self.high, "wide": self.wide}
        if self.shift.any():
            rest["shift"] = self.shift if self.shift.ndim else int(self.shift)
        residuals = list(self.residuals)
        if self.product is not None:
            layer, x = _product(self.product, name, set(self.members))
        elif residuals:
            # The one that is shifted least takes the product's place.
            residuals.sort(key=lambda r: int(r[1].max()))
            x, k = residuals.pop(0)
            layer = _widening(name, as_picture(x), k)
        else:
            raise NoLayerError("it adds no product and no i8 tensor")
        if self.biases:
            total = sum(np.broadcast_to(b, (layer.outputs,)).astype(np.int64) for b in self.biases)
            rest["bias"] = np.asarray(total).astype(np.int32)
        rest["residuals"] = tuple(k if np.ptp(k) else int(k.max()) for _, k in residuals)
        return replace(layer, **rest), (x, *(v for v, _ in residuals))  # type: ignore[arg-type]  # fields by name


def _called(node: Node) -> str:
    """What people call a layer: the node's name, else the module that its source names."""
    return node.name or node.source.partition(" + ")[0].partition(" (")[0] or node.op.name


def _ordered(members: Sequence[Node]) -> list[Node]:
    """The members, operands first."""
    inside, done, result = set(members), set(), []

    def visit(node: Node) -> None:
        if node in done:
            return
        done.add(node)
        for v in node.operands:
            if v.node in inside:
                visit(v.node)
        result.append(node)

    for node in members:
        visit(node)
    return result


def _product(node: Node, name: str, members: Set[Node]) -> tuple[Layer, Value]:
    """The layer of a product alone; a matrix product of a flattened picture is a convolution by a window
    as large as the picture."""
    x, w, *zeros = node.operands
    if any(z.literal is None or bool(z.literal.tensor.any()) for z in zeros):
        raise NoLayerError("its operands have zero points")
    if w.literal is None or w.type.dtype is not DType.i8 or x.type.dtype is not DType.i8:
        raise NoLayerError(f"it multiplies {x.type} with {w.type}; products are i8 with constant i8")
    weights = w.literal.tensor.numpy()
    if isinstance(node.op, IntegerMatmul):
        if w.type.rank != 2 or x.type.rank != 2:
            raise NoLayerError(f"it multiplies tensors of {x.type.rank} and {w.type.rank} axes")
        weights = weights if node.op.transpose_b else weights.T
        window = 1, 1
        if x.node in members:
            x = x.node.operands[0]
            window = as_picture(x)[2:]
        weights = np.ascontiguousarray(weights).reshape(len(weights), -1, *window)
        return Layer(name, as_picture(x), weights), x
    op = node.op
    assert isinstance(op, IntegerConv)
    if op.layout != "channels_first" or x.type.rank not in (3, 4):
        raise NoLayerError(f"it convolves {x.type} in the layout {op.layout}")
    lead = 4 - x.type.rank  # A signal is a picture of one row.
    strides, dilations = ((1,) * lead + tuple(a) for a in (op.strides, op.dilations))
    padding = ((0, 0),) * lead + tuple(op.padding)
    weights = weights.reshape(*weights.shape[:2], *(1,) * lead, *weights.shape[2:])
    layer = Layer(
        name,
        as_picture(x),
        np.ascontiguousarray(weights),
        stride=(strides[0], strides[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilations[0], dilations[1]),
        groups=op.groups,
    )
    return layer, x


def _widening(name: str, shape: Shape, shift: Array) -> Layer:
    """A tensor times a power of two for each channel, as a depthwise convolution."""
    if int(shift.max()) > 6:
        raise NoLayerError(f"it shifts its only operands left by {int(shift.max())}, the most is 6")
    weights = np.broadcast_to(np.int8(1) << shift.astype(np.int8), (shape[1],)).reshape(-1, 1, 1, 1)
    return Layer(name, shape, np.ascontiguousarray(weights, np.int8), padding=NO_PADS, groups=shape[1])


def _of_channels(tensor: Tensor, result: TensorType, what: str) -> Array:
    """A constant of a sum as one number, or one a channel; NoLayerError where it differs within a channel."""
    shape = (1,) * (result.rank - tensor.ndim) + tuple(tensor.shape)
    if any(n != 1 for i, n in enumerate(shape) if i != CHANNELS):
        raise NoLayerError(f"{what} of shape {list(tensor.shape)} is not one number a channel")
    return tensor.reshape(-1).numpy() if tensor.numel() > 1 else tensor.reshape(()).numpy()


def _left_shift(node: Node, result: TensorType) -> Array:
    factor = node.operands[1].literal
    if factor is None:
        raise NoLayerError(f"its sum holds a {node.op.name} by no constant")
    values = _of_channels(factor.tensor, result, "a factor")
    if isinstance(node.op, Mul):
        logs = np.log2(np.maximum(values, 1)).round().astype(np.int32)
        if not np.array_equal(np.left_shift(1, logs), values):
            raise NoLayerError("its sum holds a factor that is no power of two")
        values = logs
    if values.min() < 0 or values.max() > 31:
        raise NoLayerError(f"it shifts left by {int(values.min())} to {int(values.max())}")
    return values.astype(np.int32)


def _limits(node: Node) -> tuple[int, int] | None:
    """The limits that a node puts on i8, None where it is no such node."""
    op = node.op
    if node.type.dtype is not DType.i8:
        return None
    if isinstance(op, Relu):
        return 0, 127
    if isinstance(op, Clamp):
        return int(max(op.low, -128)), int(min(op.high, 127))
    if isinstance(op, Max | Min):
        literal = node.operands[1].literal
        if literal is None or literal.type.size != 1:
            return None
        number = int(literal.tensor.reshape(()))
        return (number, 127) if isinstance(op, Max) else (-128, number)
    return None
