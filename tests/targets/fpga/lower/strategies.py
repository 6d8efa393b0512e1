"""Layers, tilings and inputs for tests of the lowering."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.lower.constants import constants
from hardy.targets.fpga.lower.geometry import axes
from hardy.targets.fpga.lower.layer import Layer, MaxPool, from_bytes, reference
from hardy.targets.fpga.lower.layout import ceil_div
from hardy.targets.fpga.lower.plan import Tiling
from hardy.targets.fpga.lower.program import Network, Program

Array = np.ndarray[Any, Any]


def random_inputs(network: Network, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-128, 128, shape).astype(np.int8) for name, shape in network.inputs.items()}


def expected(network: Network, inputs: dict[str, Array]) -> dict[str, Array]:
    """What the layers give one after the other by their definition."""
    values = dict(inputs)
    for call in network.calls:
        values[call.output] = reference(call.layer, [values[name] for name in call.inputs])
    return {name: values[name] for name in network.outputs}


def assert_exact(program: Program, seed: int = 0) -> None:
    inputs = random_inputs(program.network, seed)
    results = program.run(inputs)
    wide = {call.output for call in program.network.calls if call.layer.wide}
    for name, value in expected(program.network, inputs).items():
        ours = from_bytes(results[name]) if name in wide else results[name]
        np.testing.assert_array_equal(ours, value)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Convolutions of every kind, with everything that may be fused."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8, "depthwise"]))
    if groups == "depthwise":
        channels = groups = draw(st.integers(1, 20))
        outputs = channels * draw(st.integers(1, 2))
    else:
        channels, outputs = (groups * draw(st.integers(1, 20 // groups + 1)) for _ in range(2))
    shape = (draw(st.integers(1, 3)), channels, draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    kernel, stride, dilation = (
        (draw(st.integers(1, most)), draw(st.integers(1, most))) for most in (3, 3, 2)
    )
    pads = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(2))
    sizes = [
        (size + sum(pad) - d * (k - 1) - 1) // s + 1
        for size, pad, d, k, s in zip(shape[2:], pads, dilation, kernel, stride, strict=True)
    ]
    assume(min(sizes) > 0)
    wide = draw(st.sampled_from([False, False, False, True]))
    pool = None if wide else draw(st.none() | st.none() | pools(sizes))
    per_channel = draw(st.booleans())
    shift: Any = rng.integers(0, 32, outputs).astype(np.int32) if per_channel else draw(st.integers(0, 31))
    if draw(st.booleans()):
        shift = np.minimum(shift, 9) if per_channel else min(shift, 9)
    if wide:
        shift = 0
    low = -128 if wide else draw(st.sampled_from([-128, 0, -3]))
    bias = {
        "none": None,
        "small": rng.integers(-(2**11), 2**11, outputs).astype(np.int32),
        "middle": rng.integers(-(2**17), 2**17, outputs).astype(np.int32),
        "large": rng.integers(-(2**31), 2**31, outputs).astype(np.int32),
    }[draw(st.sampled_from(["none", "small", "middle", "large"]))]
    weights = rng.integers(-128, 128, (outputs, channels // groups, *kernel)).astype(np.int8)
    if draw(st.integers(0, 4)) == 0:
        weights[...] = weights.flat[0]
    return Layer(
        "layer",
        shape,
        weights,
        bias=bias,
        stride=stride,
        padding=pads,
        dilation=dilation,
        groups=groups,
        residuals=tuple(
            rng.integers(0, 32, outputs).astype(np.int32) if k is None else k
            for k in draw(st.lists(st.none() | st.integers(0, 31), max_size=2))
        ),
        pool=pool,
        shift=shift,
        low=low,
        high=127 if wide else draw(st.sampled_from([127, 6, 127])),
        wide=wide,
    )


@st.composite
def pools(draw: st.DrawFn, sizes: list[int]) -> MaxPool:
    """Max pools that are done in place."""
    axes = []
    for size in sizes:
        if draw(st.integers(0, 3)) == 0:
            reach = draw(st.integers(0, 2))
            axes.append((2 * reach + 1, 1, (reach, reach)))
            continue
        kernel = draw(st.integers(1, min(3, size)))
        stride = draw(st.integers(1, 3))
        before = draw(st.integers(0, max(0, min(kernel - 1, stride - 1))))
        after = draw(st.integers(0, max(0, kernel - 1 - before)))
        out = (size + before + after - kernel) // stride + 1
        assume((out - 1) * stride < size)
        axes.append((kernel, stride, (before, after)))
    rows, columns = axes
    return MaxPool((rows[0], columns[0]), (rows[1], columns[1]), (rows[2], columns[2]))


@st.composite
def tilings(draw: st.DrawFn, layer: Layer, config: Config) -> Tiling:
    """Any tiling, whether it fits or not."""
    count = constants(layer, config).weights.count
    carry = axes(layer)[0].carries and draw(st.booleans())
    return Tiling(
        draw(st.integers(1, layer.out_shape[2])),
        draw(st.integers(1, layer.out_shape[3])),
        draw(st.integers(1, ceil_div(layer.outputs, config.block))),
        draw(st.integers(1, count)),
        carry or draw(st.booleans()),
        carry,
    )
