"""Calls the hand-written kernels: constant weights packed at compile time, followers in the epilogue."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch

from hardy.compiler.ir import Node, Value
from hardy.compiler.literal import Literal
from hardy.targets.cpu.kernels.kernel import Array, Epilogue, Kernel
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.epilogue import in_place_pairs, tail_of
from hardy.targets.cpu.program import KernelFunction, Ref
from hardy.targets.cpu.select import Selector

Build = Callable[[Epilogue], Kernel]


def literal_of(cluster: Cluster, value: Value) -> Literal | None:
    """The constant that a value of the cluster stands for."""
    return cluster.actual.get(value, value).literal


def array_of(literal: Literal) -> Array:
    """A constant of a type that NumPy has."""
    array: Array = literal.tensor.numpy()
    return array


def lower_kernel(
    selector: Selector,
    cluster: Cluster,
    anchor: Node,
    key: Hashable,
    build: Build,
    own: Sequence[Value],
    weight: Value | None = None,
    reads: Sequence[Ref] | None = None,
    reshape: tuple[int, ...] | None = None,
) -> bool:
    """Call the kernel that `build` makes for the cluster's epilogue.

    False where the rest of the cluster does not fit an epilogue. `own` are the operands that the kernel
    reads itself, in order, with the constant `weight` among them, which the kernel packs after it was
    given the shape `reshape`. `reads` replaces the places of the other operands.
    """
    tail = tail_of(cluster, anchor, own, selector.isa)
    if tail is None:
        return False

    def make(name: str) -> KernelFunction:
        kernel = build(tail.epilogue)
        pairs = in_place_pairs(kernel.inputs, tail)
        return KernelFunction(name, kernel.func, kernel.workspace_bytes, pairs, kernel.pack)

    function = selector.kernel((key, cluster.key), cluster.label, make)
    places = list(reads) if reads is not None else [_place(selector, cluster, v) for v in own if v != weight]
    if weight is not None:
        places.insert(list(own).index(weight), _packed(selector, cluster, function, weight, reshape))
    operands = [_place(selector, cluster, v) for v in tail.operands]
    selector.call(function, [*places, *operands], [selector.target(v) for v in cluster.results])
    return True


def _place(selector: Selector, cluster: Cluster, value: Value) -> Ref:
    return selector.source(cluster.actual.get(value, value))


def _packed(
    selector: Selector,
    cluster: Cluster,
    function: KernelFunction,
    weight: Value,
    reshape: tuple[int, ...] | None,
) -> Ref:
    literal = literal_of(cluster, weight)
    pack = function.pack
    assert literal is not None
    assert pack is not None

    def make() -> Array:
        array = array_of(literal)
        return np.ascontiguousarray(pack(array if reshape is None else array.reshape(reshape)))

    return selector.constant(("packed", function.name, literal.digest), make)


def is_f32(*values: Value) -> bool:
    return all(v.type.dtype.torch is torch.float32 for v in values)
