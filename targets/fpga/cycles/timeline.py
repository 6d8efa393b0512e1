"""A picture of the three queues over time."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from hardy.compiler.errors import UsageError
from hardy.targets.fpga.cycles.layers import Mark
from hardy.targets.fpga.cycles.timing import Timing
from hardy.targets.fpga.isa import Alu, Buffer, Gemm, Instruction, Load, Store
from hardy.targets.fpga.queues import Queue

FORMATS = (".svg", ".png")
# Okabe and Ito's colours, which people tell apart whatever their colour vision.
_COLOURS = {
    "load input": "#56B4E9",
    "load weights": "#0072B2",
    "load micro-ops": "#CC79A7",
    "load accumulators": "#F0E442",
    "gemm": "#009E73",
    "alu": "#E69F00",
    "store": "#D55E00",
    "control": "#999999",
}
_LOADS = {
    Buffer.INP: "load input",
    Buffer.WGT: "load weights",
    Buffer.UOP: "load micro-ops",
    Buffer.ACC: "load accumulators",
    Buffer.ACC_8BIT: "load accumulators",
}
# More rectangles than this are merged where no one could see them apart.
_PIXELS = 4000


def draw(
    timing: Timing,
    program: Sequence[Instruction],
    path: Path,
    *,
    window: tuple[int, int] | None = None,
    marks: Sequence[Mark] = (),
) -> None:
    """Writes the timeline as SVG or PNG: one row a queue, busy intervals coloured by what they do.

    `window` is a range of cycles, all of them where it is left out; `marks` name layers at the top.
    UsageError where matplotlib is missing or the path has another ending.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("the timeline needs matplotlib", hint="pip install 'hardy[plots]'")
    if path.suffix not in FORMATS:
        raise UsageError(f"a timeline is drawn as {' or '.join(FORMATS)}, not {path.suffix or 'nothing'}")
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    first, last = window or (0, timing.cycles)
    figure = Figure(figsize=(12, 3), layout="constrained")
    axes = figure.add_subplot()
    seen = []
    for queue in Queue:
        for kind, spans in _spans(timing, program, queue, first, last).items():
            axes.broken_barh(spans, (-queue - 0.4, 0.8), facecolors=_COLOURS[kind], linewidth=0)
            seen.append(kind)
    for mark in marks:
        begin = int(timing.begin[mark.begin])
        if mark.begin < mark.end and first <= begin < last:
            axes.axvline(begin, color="black", lw=0.5)
            axes.annotate(mark.name, (begin, 0.5), fontsize=7, rotation=30, annotation_clip=False)
    axes.set_yticks([-queue for queue in Queue], [queue.name.lower() for queue in Queue])
    axes.set_xlim(first, last)
    axes.set_ylim(-2.5, 0.5)
    axes.set_xlabel("cycle")
    handles = [Patch(color=colour, label=kind) for kind, colour in _COLOURS.items() if kind in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) or 1, fontsize=8)
    hidden = path.with_name(f".{path.name}.tmp")
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    with rc_context({"svg.hashsalt": "hardy"}):
        figure.savefig(hidden, format=path.suffix[1:], metadata=metadata, dpi=150)
    os.replace(hidden, path)


def _spans(
    timing: Timing, program: Sequence[Instruction], queue: Queue, first: int, last: int
) -> dict[str, list[tuple[int, int]]]:
    """(begin, length) by kind; neighbours of one kind that nobody could see apart are one."""
    spans: dict[str, list[tuple[int, int]]] = {}
    least = max(1, (last - first) // _PIXELS)
    for number, begin, end in timing.busy(queue):
        if end <= first or begin >= last:
            continue
        found = spans.setdefault(_kind(program[number]), [])
        if found and begin - sum(found[-1]) < least:
            found[-1] = (found[-1][0], end - found[-1][0])
        else:
            found.append((begin, end - begin))
    return spans


def _kind(i: Instruction) -> str:
    if isinstance(i, Load | Store) and i.x_size == 0:
        return "control"
    match i:
        case Load():
            return _LOADS[i.buffer]
        case Store():
            return "store"
        case Gemm():
            return "gemm"
        case Alu():
            return "alu"
    return "control"
