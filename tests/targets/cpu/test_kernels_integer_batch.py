"""Products of two integer activations, against exact integers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardy.targets.cpu.kernels.batch_matmul import Strides
from hardy.targets.cpu.kernels.integer_batch import Side, integer_batch_matmul

quick = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
sizes = st.integers(1, 70)
RANGES = {"uint8": (0, 255), "int8": (-128, 127)}
sides = st.sampled_from(list(RANGES)).flatmap(
    lambda dtype: st.builds(Side, st.just(dtype), st.one_of(st.just(0), st.integers(*RANGES[dtype])))
)


def integers(seed, dtype, *shape):
    low, high = RANGES[dtype]
    values = np.random.default_rng(seed).integers(low, high + 1, shape)
    # The extremes at the beginning, where saturating instructions would show.
    values.reshape(-1)[: values.size // 3] = high
    return values.astype(dtype)


def exact(a, b, x, y):
    return (x.astype(np.int64) - a.zero) @ (y.astype(np.int64) - b.zero)


@quick
@given(m=sizes, n=sizes, k=sizes, a=sides, b=sides, transposed=st.booleans())
def test_product_of_activations_is_exact_for_any_shape(run, isa, m, n, k, a, b, transposed):
    x, y = integers(0, a.dtype, m, k), integers(1, b.dtype, k, n)
    kernel = integer_batch_matmul(m, n, k, isa, a=a, b=b, transpose_b=transposed)
    given_y = np.ascontiguousarray(y.T) if transposed else y
    z = run(kernel, isa, x, given_y, shape=(m, n), dtype="int32")
    np.testing.assert_array_equal(z, exact(a, b, x, y))


@pytest.mark.parametrize("transposed", [False, True])
def test_batches_of_products_are_exact_and_may_repeat_an_operand(run, isa, transposed):
    m, n, k = 33, 21, 64
    a, b = Side("uint8", 7), Side("uint8", 121)
    x, y = integers(0, "uint8", 3, 2, m, k), integers(1, "uint8", 2, k, n)
    batch = [Strides(3, 2 * m * k, 0, 2 * m * n), Strides(2, m * k, k * n, m * n)]
    kernel = integer_batch_matmul(m, n, k, isa, a=a, b=b, batch=batch, transpose_b=transposed)
    given_y = np.ascontiguousarray(y.swapaxes(1, 2)) if transposed else y
    z = run(kernel, isa, x, given_y, shape=(3, 2, m, n), dtype="int32")
    np.testing.assert_array_equal(z, exact(a, b, x, y))
