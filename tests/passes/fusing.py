"""Shared by the tests of `fuse_patterns`: the whole pipeline on a graph, and short spellings."""

from __future__ import annotations

from dataclasses import fields

import pytest

from hardy.compiler.ir import Builder, Graph, Op, Value
from hardy.compiler.pipeline import Pipeline, Validate
from hardy.compiler.types import DType, TensorType
from hardy.passes import DEFAULT

F32 = DType.f32


def t(*shape: int, dtype: DType = F32) -> TensorType:
    """A type, f32 unless told."""
    return TensorType(dtype, shape)


def s(b: Builder, number: float) -> Value:
    """An f32 constant of one element."""
    return b.scalar(number, F32)


def found(graph: Graph) -> Graph:
    """The graph after the default pipeline, validated at every step."""
    return Pipeline(DEFAULT).run(graph, [Validate()]).graph


def require_equal_ops(actual: Op, expected: Op) -> None:
    """The same op and attributes, floats within the rounding of a constant."""
    assert type(actual) is type(expected)
    for field in fields(expected):
        a, e = getattr(actual, field.name), getattr(expected, field.name)
        assert a == pytest.approx(e, rel=1e-6) if isinstance(e, float) else a == e, field.name
