"""Fits what follows a kernel's anchor into the kernel's epilogue: elementwise work on registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tvm import tirx

from hardy.compiler.ir import Node, Value
from hardy.compiler.ops.binary import PackBits
from hardy.compiler.ops.shape import BroadcastTo, Reshape
from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Expr
from hardy.targets.cpu.kernels.kernel import BITS, Epilogue, EpilogueOperand
from hardy.targets.cpu.kernels.math import like
from hardy.targets.cpu.lower import arith, scalar
from hardy.targets.cpu.lower.cluster import Cluster, is_immediate
from hardy.targets.cpu.lower.movement import SOURCES

Kind = Literal["full", "channel", "row", "scalar"]


@dataclass(frozen=True)
class Tail:
    """The epilogue of a cluster and the cluster's inputs that are its operands, in order."""

    epilogue: Epilogue
    operands: tuple[Value, ...]


def tail_of(cluster: Cluster, anchor: Node, own: Sequence[Value], isa: Isa) -> Tail | None:
    """What follows the anchor as an epilogue; None where it does not fit.

    `own` are the operands that the kernel reads itself. The accumulator is the anchor's result in its compute
    type. Every other node must be elementwise over values of the result's shape, vectors along its last axis
    or over all others, and single elements; the last one may pack bits, where vectors of whole channels are
    whole bytes.
    """
    rest = [n for n in cluster.nodes if n is not anchor]
    if any(isinstance(n.op, PackBits) for n in rest):
        (*_, channels), lanes = anchor.type.shape, isa.lanes("int32")
        if channels % 8 or lanes % 8:
            return None
    return tail_from(cluster, anchor.values[0], rest, own)


def tail_from(cluster: Cluster, result: Value, rest: Sequence[Node], own: Sequence[Value]) -> Tail | None:
    """The nodes `rest` of a cluster as an epilogue whose accumulator is `result`."""
    packing = [n for n in rest if isinstance(n.op, PackBits)]
    computed = [n for n in rest if n not in packing]
    if len(cluster.outputs) != 1 or len(packing) > 1:
        return None
    (output,) = cluster.outputs
    if packing and packing[0] is not output.node:
        return None
    last = packing[0].operands[0] if packing else output
    if last.type.shape != result.type.shape:
        return None
    shape = result.type.shape
    used = dict.fromkeys(v for n in rest for v in n.operands if not is_immediate(v))
    given = [v for v in used if v in cluster.inputs and v != result]
    if any(v.node in set(rest) for v in own) or any(scalar.needs_library(n) for n in rest):
        return None
    # The accumulator fills the kernel's result, even where that is a single element.
    kinds: dict[Value, Kind] = {result: "full"}
    for value in (*given, *(v for n in computed for v in n.values)):
        kind = _kind(value.type.shape, shape)
        if kind is None:
            return None
        kinds[value] = kind
    if not all(_fits(n, kinds) for n in computed) or kinds[last] != "full":
        return None
    operands = tuple(EpilogueOperand(arith.STORAGE[v.type.dtype], kinds[v]) for v in given)

    def apply(acc: Expr, loaded: Sequence[Expr]) -> Expr:
        lanes = emit.lanes_of(acc)
        known = {v: arith.from_storage(x, v.type.dtype) for v, x in zip(given, loaded, strict=True)}
        known[result] = acc
        code = emit.current()
        assert code is not None
        for node in computed:
            args = [_immediate(v, lanes) if is_immediate(v) else known[v] for v in node.operands]
            rule = scalar.rule_for(node)
            value = args[0] if rule is None else rule(node.op, node.operands[0].type.dtype, args)
            known[node.values[0]] = code.hold(value)
        if packing:
            least = packing[0].operands[1:]
            threshold = _immediate(least[0], lanes) if least and is_immediate(least[0]) else None
            if threshold is None:
                threshold = known[least[0]] if least else like(known[last], 0)
            return tirx.GE(known[last], threshold)
        return arith.to_storage(known[last], last.type.dtype)

    dtype = BITS if packing else arith.STORAGE[last.type.dtype]
    return Tail(Epilogue(operands, apply, dtype), tuple(given))


def _kind(shape: Sequence[int], full: Sequence[int]) -> Kind | None:
    size = 1
    for n in shape:
        size *= n
    if size == 1:
        return "scalar"
    if tuple(shape) == tuple(full):
        return "full"
    if full and size == full[-1] and shape[-1] == full[-1]:
        return "channel"
    if full and tuple(shape) == (*full[:-1], 1):
        return "row"
    # A vector on its way to the last axis has to be a plain vector.
    return None


def _fits(node: Node, kinds: dict[Value, Kind]) -> bool:
    if isinstance(node.op, Reshape | BroadcastTo):
        (x,) = node.operands
        return kinds.get(x) == kinds[node.values[0]]
    return type(node.op) not in SOURCES and scalar.rule_for(node) is not None


def _immediate(value: Value, lanes: int) -> Expr:
    literal = value.literal
    assert literal is not None
    return arith.immediate(literal, lanes)


def in_place_pairs(names: Sequence[str], tail: Tail) -> tuple[tuple[int, int], ...]:
    """The full operands that the output may overwrite: (parameter read, parameter written)."""
    output = names.index("output")
    if tail.epilogue.dtype == BITS:
        return ()
    first = output - len(tail.operands)
    width = arith.BYTES[tail.epilogue.dtype]
    return tuple(
        (first + i, output)
        for i, operand in enumerate(tail.epilogue.operands)
        if operand.kind == "full" and arith.BYTES[operand.dtype] == width
    )
