"""SmolLM2 with integer weights: perplexity, bytes of weights, and time for a token.

python -m benchmarks.language_model [NAME ...] [--text FILE] [--seconds 20] [--json]
python -m benchmarks.language_model --block 64 --block 128 --zero-points whole --method gptq

Options of 4-bit weights may be repeated, and take the place of the names: every combination is measured.
Perplexity is that of the first 512 tokens of a text, by the reference. GPTQ and AWQ learn from other
licences and from the documentation of Python. The time is that of a run of one token on the CPU, one
thread, all contenders in turn.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import hardy
from benchmarks import peers
from examples.models import smollm2
from hardy.compiler.calibration import Samples
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import Pass, Pipeline
from hardy.compiler.timing import time_in_turn
from hardy.compiler.types import DType
from hardy.passes import DEFAULT, QuantizeWeights
from hardy.passes.quantize_weights import CLIPS, METHODS, ZERO_POINTS

LENGTH = 512
PASSAGES = 8
LICENCES = Path("/usr/share/common-licenses")
CALIBRATION = ("Apache-2.0", "Artistic", "CC0-1.0", "MPL-2.0")

# The embedding, which is also the last layer's weight, takes 8 bits.
TABLE = "*embed*"
INT8 = QuantizeWeights(DType.i8)


def int4(
    blocks: Iterable[int],
    zero_points: Iterable[str],
    methods: Iterable[str],
    clips: Iterable[str] = ("weights",),
) -> dict[str, tuple[Pass, ...]]:
    """4 bits for all layers but the last, by name: every combination of the options."""
    found: dict[str, tuple[Pass, ...]] = {}
    for block, zeros, method, clip in itertools.product(blocks, zero_points, methods, clips):
        four = QuantizeWeights(DType.u4, block, method, zeros, clip, skip=(TABLE,))  # type: ignore[arg-type]
        name = f"int4/{block} {zeros} {method}" + (f" by {clip}" if clip != "weights" else "")
        found[name] = four, replace(INT8, only=(TABLE,))
    return found


VARIANTS: Mapping[str, tuple[Pass, ...]] = {
    "f32": (),
    "int8": (INT8,),
    **int4((32,), ("real",), ("nearest",)),
    **int4((64,), ("real",), ("nearest", "gptq", "awq")),
    **int4((32, 64, 128), ("whole",), METHODS),
    **int4((32, 64, 128), ("whole",), ("nearest",), ("outputs",)),
}
TIMED = ("f32", "int8", "int4/32 real nearest", "int4/64 real nearest", "int4/32 whole nearest")


def calibration(encode: Callable[[str], Tensor]) -> Samples:
    """Passages of LENGTH tokens, by turns of a licence and of Python's documentation."""
    documentation = "\n\n".join(topics[name] for name in sorted(topics))
    texts = [(LICENCES / name).read_text() for name in CALIBRATION]
    step = len(documentation) // len(texts)
    feeds = []
    for number, text in enumerate(texts):
        for part in (text, documentation[number * step :]):
            feeds.append((encode(part[: 16 * LENGTH])[None, :LENGTH],))
    return Samples(lambda: feeds[:PASSAGES], "licences and documentation")


def perplexity(graph: Graph, ids: Tensor) -> float:
    """exp of the mean negative log likelihood of each token [1, n] but the first."""
    (logits,) = run(graph, {graph.input_names[0]: ids}).values()
    losses = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="mean")
    return math.exp(float(losses))


def weight_bytes(graph: Graph) -> int:
    """Bytes of the packed constants, each counted once."""
    return sum({c.digest: c.type.nbytes for c in graph.constants()}.values())


def times(variants: Mapping[str, tuple[Pass, ...]], seconds: float) -> dict[str, float]:
    """Median seconds of a run of one token, by name."""
    module, inputs = smollm2.load(1)
    calls = {}
    for name, own in variants.items():
        passes = [*DEFAULT, *own, ...]
        artifact = hardy.compile(module, inputs, target="cpu", passes=passes, self_test=False)
        calls[name] = peers.compiled(artifact, inputs)
    return {name: t.median for name, t in time_in_turn(calls, seconds=seconds).items()}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(VARIANTS)}.")] = None,
    block: Annotated[list[int] | None, typer.Option(help="Weights that share a scale.")] = None,
    zero_points: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(ZERO_POINTS)}.")] = None,
    method: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(METHODS)}.")] = None,
    clip: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(CLIPS)}.")] = None,
    text: Annotated[Path, typer.Option(help="The text that is predicted.")] = LICENCES / "GPL-3",
    seconds: Annotated[float, typer.Option(help="Time spent on timing; 0 for none.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure what integer weights cost and bring."""
    torch.set_num_threads(1)
    console = Console(stderr=as_json)
    chosen = _chosen(names, block, zero_points, method, clip)
    encode = smollm2.encoder()
    ids = encode(text.read_text())[None, :LENGTH]
    samples = calibration(encode)
    with console.status("tracing"):
        module, inputs = smollm2.load(LENGTH)
        graph = Pipeline(DEFAULT).run(hardy.trace(module, inputs, self_test=False)).graph
        del module
    rows: dict[str, dict[str, float]] = {}
    for name, passes in chosen.items():
        with console.status(name):
            after = quantized(graph, passes, samples)
            rows[name] = {"perplexity": perplexity(after, ids), "bytes": weight_bytes(after)}
        console.print(f"{name}: perplexity {rows[name]['perplexity']:.3f}")
    del graph, after
    if seconds > 0:
        with console.status("compiling and timing"):
            for name, median in times({n: chosen[n] for n in TIMED if n in chosen}, seconds).items():
                rows[name]["seconds"] = median
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        console.print(_table(rows))


def _chosen(
    names: list[str] | None,
    blocks: list[int] | None,
    zero_points: list[str] | None,
    methods: list[str] | None,
    clips: list[str] | None,
) -> dict[str, tuple[Pass, ...]]:
    """What to measure, f32 first: the names, or every combination of the options that are given."""
    if blocks or zero_points or methods or clips:
        if names:
            raise typer.BadParameter("give names or options of 4-bit weights, not both")
        four = int4(
            blocks or (32,), zero_points or ("whole",), methods or ("nearest",), clips or ("weights",)
        )
        return {"f32": ()} | four
    unknown = [name for name in names or () if name not in VARIANTS]
    if unknown:
        raise typer.BadParameter(f"there is no {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    return {name: VARIANTS[name] for name in dict.fromkeys(["f32", *(names or VARIANTS)])}


def quantized(graph: Graph, passes: tuple[Pass, ...], samples: Samples) -> Graph:
    for pass_ in passes:
        graph = replace(pass_, calibration=samples).run(graph)  # type: ignore[call-arg]
    return graph


def _table(rows: Mapping[str, Mapping[str, float]]) -> Table:
    base = rows["f32"]
    timed = any("seconds" in row for row in rows.values())
    times = ("ms a token", "f32 / time") if timed else ()
    table = Table("weights", "perplexity", "difference %", "MB", "f32 / bytes", *times)
    for column in table.columns:
        column.no_wrap = True
    for name, row in rows.items():
        change = (row["perplexity"] / base["perplexity"] - 1) * 100
        cells = [name, f"{row['perplexity']:.3f}", f"{change:+.2f}", f"{row['bytes'] / 1e6:.1f}"]
        cells.append(f"{base['bytes'] / row['bytes']:.2f}")
        if "seconds" in row:
            cells += [f"{row['seconds'] * 1e3:.1f}", f"{base['seconds'] / row['seconds']:.2f}"]
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    typer.run(main)
