"""C++ of layers: for each what its template takes (types, folding, tail), and its weights in order of use."""

from __future__ import annotations

import numpy as np

from hardy.targets.fpga.dataflow.emit.tail import Tail, braces
from hardy.targets.fpga.dataflow.folding import Fold, folds_of, rows_ahead, steps_of
from hardy.targets.fpga.dataflow.layers import Layer, MaxPool, Product, Window
from hardy.targets.fpga.dataflow.pipeline import Pipeline
from hardy.targets.fpga.dataflow.ranges import Integers


def struct_name(layer: Layer) -> str:
    """The name of a layer's struct: `conv_1` becomes `Conv1Layer`."""
    return "".join(part.capitalize() for part in layer.name.split("_")) + "Layer"


def layers_header(pipeline: Pipeline) -> str:
    """All layers of a pipeline."""
    parts = ["// The layers of the network, as the templates of the library take them.", "#pragma once", ""]
    parts += ['#include "integers.h"', ""]
    for layer, fold in zip(pipeline.network.layers, pipeline.folds, strict=True):
        if layer.window is not None:
            parts += [*_window(layer, layer.window, fold), ""]
        parts += [*_layer(layer, fold), ""]
    return "\n".join(parts)


def _struct(comment: str, name: str, lines: list[str]) -> list[str]:
    body = [line if line.startswith("#") else f"  {line}".rstrip() for line in lines]
    return [f"/// {comment}", f"struct {name} {{", *body, "};"]


def _constants(**values: int) -> str:
    return "static const int " + ", ".join(f"{k} = {v}" for k, v in values.items()) + ";"


def _layer(layer: Layer, fold: Fold) -> list[str]:
    folds, steps = folds_of(layer, fold), steps_of(layer, fold)
    lines = []
    if isinstance(layer.head, Product):
        groups = layer.head.groups
        shape = {"GROUPS": groups, "FOLDS": folds, "STEPS": steps, "PE": fold.pe, "SIMD": fold.simd}
        lines.append(_constants(PIXELS=layer.output.pixels, **shape))
    else:
        lines.append(
            _constants(PIXELS=layer.output.pixels, FOLDS=folds, STEPS=steps, TAPS=fold.taps, PE=fold.pe)
        )
    lines.append(f"typedef {layer.x.cpp} X;  // {layer.x}")
    if layer.weights is not None:
        lines.append(f"typedef {layer.w.cpp} W;  // {'signs' if layer.sign_weights else layer.w}")
    lines.append(f"typedef {layer.sums.cpp} Acc;  // {layer.sums}")
    lines.append(f"typedef {layer.output.range.cpp} Out;  // {layer.output.range}")
    if layer.weights is not None:
        lines += ["", *_term(layer, fold)]
    lines += ["", *Tail(layer, fold).function()]
    origin = f", from {layer.source}" if layer.source else ""
    comment = f"{layer.name}: {layer.macs} multiplications a frame{origin}."
    return _struct(comment, struct_name(layer), lines)


def _term(layer: Layer, fold: Fold) -> list[str]:
    """What an input and a weight contribute to a sum."""
    if layer.is_xnor:
        body = ["return Acc(x == w ? 1 : 0);"]
    elif layer.sign_weights:
        body = ["return w == 1 ? Acc(x) : Acc(-x);"]
    else:
        impl = "dsp" if fold.multiply == "dsp" else "fabric"
        body = [
            "const Acc product = x * w;",
            f"#pragma HLS bind_op variable=product op=mul impl={impl}",
            "return product;",
        ]
    return ["static Acc term(X x, W w) {", *[b if b.startswith("#") else f"  {b}" for b in body], "}"]


def _window(layer: Layer, window: Window, fold: Fold) -> list[str]:
    (top, _), (left, _) = window.padding
    rows, columns = window.positions
    groups = layer.channels // fold.lanes
    lines = [
        _constants(HEIGHT=window.size[0], WIDTH=window.size[1], GROUPS=groups, LANES=fold.lanes),
        *[
            _constants(**{f"{name}_H": pair[0], f"{name}_W": pair[1]})
            for name, pair in (
                ("KERNEL", window.kernel),
                ("STRIDE", window.strides),
                ("DILATION", window.dilations),
            )
        ],
        _constants(PAD_TOP=top, PAD_LEFT=left, OUT_HEIGHT=rows, OUT_WIDTH=columns, AHEAD=rows_ahead(window)),
        f"typedef {layer.input.range.cpp} In;",
        f"typedef {layer.x.cpp} Out;",
        f"static Out inside(In x) {{ return {'2 * x - 1' if layer.bit_inputs and layer.pads else 'x'}; }}",
        f"static Out outside() {{ return {layer.x.low if isinstance(layer.head, MaxPool) else 0}; }}",
    ]
    return _struct(f"The windows of {layer.name}.", f"{struct_name(layer)}Window", lines)


def arranged(layer: Layer, fold: Fold) -> Integers | None:
    """Weights as the code reads them: [pe, place, lane]; signs as bits."""
    weights = layer.weights
    if weights is None:
        return None
    weights = (weights > 0).astype(np.int64) if layer.sign_weights else weights
    taps, t = layer.taps, fold.taps
    if isinstance(layer.head, Product):
        groups = layer.head.groups
        split = weights.reshape(groups, folds_of(layer, fold), fold.pe, -1, fold.lanes, taps // t, t)
        # group, fold, pe, channels, lane, step, tap -> pe, (group, fold, channels, step), (tap, lane)
        return split.transpose(2, 0, 1, 3, 5, 6, 4).reshape(fold.pe, -1, fold.simd)
    if layer.window is None:  # whole image: place = fold * STEPS + step
        return weights.reshape(-1, fold.pe, weights.shape[1]).transpose(1, 0, 2).reshape(fold.pe, -1, 1)
    split = weights.reshape(-1, fold.pe, taps // t, t)
    return split.transpose(1, 0, 2, 3).reshape(fold.pe, -1, t)


def weights_header(layer: Layer, fold: Fold) -> str | None:
    """The memory of a layer's weights; None for one without."""
    values = arranged(layer, fold)
    if values is None:
        return None
    sizes = "".join(f"[{n}]" for n in values.shape)
    rows = ",\n".join("  " + braces(pe) for pe in values)
    return (
        f"// Weights of {layer.name}: for each of its {values.shape[0]} parallel outputs, in order of use.\n"
        f"#pragma once\n\nstatic const {layer.w.cpp} {layer.name}_weights{sizes} = {{\n{rows}}};\n"
    )
