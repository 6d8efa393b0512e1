"""Products of few rows read their weight as it is stored."""

from __future__ import annotations

import pytest

from hardy.passes import FuseDequantize
from tests.rewriting import expect, expect_unchanged


def test_a_product_is_joined_with_its_weights_dequantization() -> None:
    expect(
        FuseDequantize(),
        """
        graph g(%x: f32[2,2]) {
          %w: i8[3,2] = constant([[1, 2], [3, 4], [5, 6]])
          %s: f32[3] = constant([0.5, 1.0, 2.0])
          %d: f32[3,2] = dequantize(%w, %s, axis=0)
          %y: f32[2,3] = matmul(%x, %d, transpose_b=True)
          return %y as y
        }
        """,
        """
        %w: i8[3,2] = constant([[1, 2], [3, 4], [5, 6]])
        %s: f32[3] = constant([0.5, 1.0, 2.0])
        %y: f32[2,3] = dequantize_matmul(%x, %w, %s, transpose_b=True)
        return %y as y
        """,
    )


@pytest.mark.parametrize(
    ("rows", "axis", "x", "w"),
    [(9, 0, "f32", "i8"), (2, 1, "f32", "i8"), (2, 0, "f16", "i8"), (2, 0, "f32", "i16")],
    ids=["many_rows", "scaled_along_k", "f16", "i16"],
)
def test_what_no_kernel_takes_is_left_alone(rows: int, axis: int, x: str, w: str) -> None:
    expect_unchanged(
        FuseDequantize(),
        f"""
        graph g(%x: {x}[{rows},2]) {{
          %w: {w}[2,2] = constant([[1, 2], [3, 4]])
          %s: {x}[2] = constant([0.5, 1.0])
          %d: {x}[2,2] = dequantize(%w, %s, axis={axis})
          %y: {x}[{rows},2] = matmul(%x, %d, transpose_b=True)
          return %y as y
        }}
        """,
    )
