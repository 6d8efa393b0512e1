"""From a model to an artifact: import, passes, lowering, report."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from hardy.compiler.artifact import Artifact, Built, is_artifact
from hardy.compiler.artifact.folder import check_destination
from hardy.compiler.artifact.manifest import interface_of, plain
from hardy.compiler.errors import HardyError, TargetError, UnsupportedError, UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.models import Binding, Imported, import_model
from hardy.compiler.pass_list import Listed, describe_pass, resolve_passes
from hardy.compiler.pipeline import Dump, Instrument, Pass, Pipeline, Record, Result, Validate, random_inputs
from hardy.compiler.progress import Progress, telling
from hardy.compiler.text import print_graph
from hardy.compiler.tolerance import Difference, require_close
from hardy.targets.target import Package, Target, find_target, refuse_unsupported

WeightForm = Literal["raw", "coded"]


@dataclass(frozen=True)
class Compilation:
    """An artifact and what was measured on the way, which depends on the machine and is not in it."""

    artifact: Artifact
    imported: Imported
    passes: tuple[Record, ...]
    # How the program's outputs differ from the reference's, where it was asked to validate.
    program: Mapping[str, Difference] | None
    # Seconds of import, all passes, each stage by name, and writing.
    seconds: Mapping[str, float]


def compile(
    model: object,
    inputs: object = None,
    *,
    target: str | Target = "cpu",
    passes: Iterable[Listed] | str | None = None,
    preset: str | None = None,
    calibration: object = None,
    samples: int | None = None,
    out: str | Path | None = None,
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    bind: Mapping[str, np.ndarray[Any, Any]] | None = None,
    dump: str | Path | None = None,
    stop_after: str | None = None,
    validate: bool = False,
    self_test: bool = True,
    keep_passes: bool = True,
    keep_graph_weights: bool = False,
    weights: WeightForm = "raw",
) -> Artifact:
    """Compile a model for a target.

    model, inputs, dims, shapes, bind, self_test: see `hardy.trace`.
    target: a name such as "cpu" or "cpu:avx2", or a `Target`.
    passes: a list of passes, or of names with options, where `...` is the target's own pipeline;
        None means just that. Without `...` the list is the whole pipeline.
    preset: the name of a list of passes (`compiler/presets.py`), in place of `passes`.
    calibration: data for the passes that have a field of that name; UsageError where none has.
    samples: how many samples of the calibration data they use; by default all.
    out: a folder to write the artifact to, whole or not at all; an artifact there is replaced.
    dump: a folder for the graph after each pass and for each stage of lowering.
    stop_after: stop after this pass; the artifact is then for the target `reference` and holds the
        graph as it stands.
    validate: compare the reference's outputs after every pass, and those of the compiled program.
    keep_passes: keep the graph's text after each pass in the artifact.
    keep_graph_weights: keep the data of the final graph's constants even if the target does not
        need it, so that the graph can be run by the reference.
    weights: how the artifact stores tensors: "raw" maps them from disk, "coded" takes the fewest bytes
        and decodes them on loading; see docs/artifact.md.
    """
    return compile_model(
        model,
        inputs,
        binding=Binding(dims or {}, shapes or {}, bind or {}),
        target=target,
        passes=passes,
        preset=preset,
        calibration=calibration,
        samples=samples,
        out=None if out is None else Path(out),
        dump=None if dump is None else Path(dump),
        stop_after=stop_after,
        validate=validate,
        self_test=self_test,
        keep_passes=keep_passes,
        keep_graph_weights=keep_graph_weights,
        weights=weights,
    ).artifact


def compile_model(
    model: object,
    inputs: object,
    *,
    binding: Binding,
    target: str | Target,
    passes: Iterable[Listed] | str | None = None,
    preset: str | None = None,
    calibration: object = None,
    samples: int | None = None,
    out: Path | None = None,
    dump: Path | None = None,
    stop_after: str | None = None,
    validate: bool = False,
    self_test: bool = True,
    keep_passes: bool = True,
    keep_graph_weights: bool = False,
    weights: WeightForm = "raw",
    progress: Progress | None = None,
) -> Compilation:
    """`compile`, with what was measured and with progress."""
    if weights not in get_args(WeightForm):
        raise UsageError(f"weights cannot be stored {weights!r}", hint="give raw or coded")
    if out is not None:
        check_destination(out, is_artifact)
    chosen = find_target(target) if isinstance(target, str) else target
    passes = _listed(passes, preset)
    pipeline = plan_passes(chosen, passes, calibration, samples)
    if validate:
        _require_runnable(chosen)
    steps = 1 + len(pipeline) + len(chosen.stages()) + (out is not None)
    clock = _Clock(progress or (lambda step, done, total: None), steps)

    with clock.timed("import", "import the model"):
        imported = import_model(model, inputs, binding, self_test)
    keeper = TextKeeper()
    looking: list[Instrument] = [_Teller(clock, [p.name for p in pipeline])]
    if keep_passes:
        looking.append(keeper)
    with telling(progress):
        result = run_passes(imported.graph, pipeline, looking, dump, validate, stop_after)
    clock.seconds["passes"] = sum(r.seconds for r in result.records)
    if stop_after is not None:
        chosen = find_target("reference")
    package = lower(chosen, result.graph, passes is not None, dump, len(result.records), clock)

    keep = keep_graph_weights or chosen.keeps_graph_weights
    report = _report(imported, pipeline, result, stop_after)
    built = Built(result.graph, package, report, keeper.texts, keep, weights == "coded")
    manifest = {
        "hardy": _version(),
        "target": {
            "name": chosen.name,
            "device": plain(chosen.describe()),
            "package": plain(package.manifest),
        },
        "interface": interface_of(built.input_types, built.output_types),
        "model": {**imported.provenance, "graph_sha256": _digest(imported.graph)},
        "options": _options(binding, pipeline, stop_after, weights),
        "weights": built.digests,
        "graph_weights": keep,
    }
    artifact = Artifact(built, manifest, chosen)
    program = _validate_program(artifact, imported.graph, pipeline, result.records) if validate else None
    if out is not None:
        with clock.timed("write", "write the artifact"):
            artifact.save(out)
            artifact = Artifact.open(out, chosen)
    return Compilation(artifact, imported, result.records, program, clock.seconds)


def _listed(
    passes: Iterable[Listed] | str | None, preset: str | None
) -> tuple[Listed, ...] | Iterable[Listed] | str | None:
    if preset is None:
        return passes
    if passes is not None:
        raise UsageError("a preset is a list of passes: give one or the other")
    from hardy.compiler.presets import preset_passes

    return preset_passes(preset)


def plan_passes(
    target: Target,
    passes: Iterable[Listed] | str | None,
    calibration: object = None,
    samples: int | None = None,
    needed: bool = True,
) -> tuple[Pass, ...]:
    """The passes to run for a target. Fields of these names are filled in: `calibration` and `samples`
    as given; `target` and `scheme`, where they are None, with the target and its quantization scheme.
    UsageError where something is given that no pass takes, unless it is not `needed`."""
    pipeline = resolve_passes(passes, target.passes())
    given: dict[str, object] = {}
    for name, value, what in (
        ("calibration", calibration, "the calibration data"),
        ("samples", samples, "the number of samples"),
    ):
        if value is None:
            continue
        if needed and not any(name in _field_names(p) for p in pipeline):
            names = ", ".join(p.name for p in pipeline) or "none"
            raise UsageError(f"no pass takes {what}", hint=f"the passes are {names}")
        given[name] = value
    own = {"target": target, "scheme": target.describe().quantization}
    return tuple(
        fill(p, given | {name: v for name, v in own.items() if getattr(p, name, None) is None})
        for p in pipeline
    )


def _field_names(pass_: Pass) -> set[str]:
    return {f.name for f in dataclasses.fields(pass_)}


def fill(pass_: Pass, given: Mapping[str, object]) -> Pass:
    """The pass with those of the values that it has fields for; the same where it has none."""
    values = {name: value for name, value in given.items() if name in _field_names(pass_)}
    return dataclasses.replace(pass_, **values) if values else pass_


def run_passes(
    graph: Graph,
    pipeline: Sequence[Pass],
    instruments: Sequence[Instrument] = (),
    dump: Path | None = None,
    validate: bool = False,
    stop_after: str | None = None,
) -> Result:
    """Run a pipeline with the usual instruments."""
    looking = [*instruments]
    if dump is not None:
        looking.append(Dump(dump))
    if validate:
        looking.append(Validate())
    return Pipeline(tuple(pipeline)).run(graph, looking, stop_after)


def lower(
    target: Target,
    graph: Graph,
    chosen_passes: bool = False,
    dump: Path | None = None,
    index: int = 0,
    clock: _Clock | None = None,
) -> Package:
    """Run the target's stages; UnsupportedError lists every node that it does not take."""
    clock = clock or _Clock(lambda step, done, total: None, 0)
    try:
        refuse_unsupported(target, graph)
    except UnsupportedError as error:
        if chosen_passes and not error.hint:
            error.hint = f"`...` in the list of passes stands for those that {target.name} needs"
        raise
    state: Any = graph
    for stage in target.stages():
        index += 1
        with clock.timed(f"stage {stage.name}", f"lower: {stage.name}"):
            try:
                state = stage.run(state)
            except HardyError as error:
                error.where = "; ".join(filter(None, [f"stage {stage.name} of {target.name}", error.where]))
                raise
            if dump is not None:
                _dump_stage(dump / f"{index:02d}-{stage.name}", stage.dump(state))
    if not isinstance(state, Package):
        raise TargetError(f"the last stage of {target.name} gave a {type(state).__name__}, not a Package")
    return state


def _dump_stage(folder: Path, files: Mapping[str, str | bytes]) -> None:
    for relative, data in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)


@dataclass
class _Clock:
    """Times steps and tells progress."""

    progress: Progress
    total: int
    done: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def start(self, step: str) -> None:
        self.progress(step, self.done, self.total)

    def finish(self) -> None:
        self.done += 1

    def timed(self, key: str, step: str) -> _Timed:
        return _Timed(self, key, step)


@dataclass
class _Timed:
    clock: _Clock
    key: str
    step: str
    began: float = 0.0

    def __enter__(self) -> None:
        self.clock.start(self.step)
        self.began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.clock.seconds[self.key] = time.perf_counter() - self.began
        self.clock.finish()


class TextKeeper(Instrument):
    """Keeps the graph's text before the first pass and after each that changed it, by file name."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def start(self, graph: Graph) -> None:
        self.texts["00-input.ir"] = print_graph(graph)

    def after(self, index: int, pass_: Pass, before: Graph, after: Graph) -> dict[str, Any]:
        if after is not before:
            self.texts[f"{index:02d}-{pass_.name}.ir"] = print_graph(after)
        return {}


class _Teller(Instrument):
    """Tells the clock which pass runs."""

    def __init__(self, clock: _Clock, names: Sequence[str]) -> None:
        self.clock = clock
        self.names = names

    def start(self, graph: Graph) -> None:
        self._next(0)

    def after(self, index: int, pass_: Pass, before: Graph, after: Graph) -> dict[str, Any]:
        self.clock.finish()
        self._next(index)
        return {}

    def _next(self, index: int) -> None:
        if index < len(self.names):
            self.clock.start(self.names[index])


def _report(
    imported: Imported, pipeline: Sequence[Pass], result: Result, stop_after: str | None
) -> dict[str, Any]:
    """What happened, in figures that two builds share: no times."""
    check = imported.check
    return {
        "import": None
        if check is None
        else {
            "against": check.against,
            "outputs": list(check.outputs),
            "skipped": check.skipped,
            "signs": check.signs,
        },
        "passes": [
            {
                **describe_pass(pass_),
                "changed": record.changed,
                "before": plain(record.before),
                "after": plain(record.after),
                "rewrites": record.rewrites,
                "notes": _rounded(record.notes),
            }
            for pass_, record in zip(pipeline, result.records, strict=False)
        ],
        "stopped_after": stop_after,
    }


def _rounded(value: Any) -> Any:
    """Measured figures to three digits, as JSON: they are for reading."""
    if isinstance(value, float):
        return float(f"{value:.3g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value


def _options(
    binding: Binding, pipeline: Sequence[Pass], stop_after: str | None, weights: WeightForm
) -> dict[str, Any]:
    return {
        "dims": dict(binding.dims),
        "shapes": {name: list(shape) for name, shape in binding.shapes.items()},
        "bind": {
            name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            for name, array in binding.bind.items()
        },
        "passes": [describe_pass(p) for p in pipeline],
        "stop_after": stop_after,
        "weights": weights,
    }


def _require_runnable(target: Target) -> None:
    missing = target.check()
    if missing:
        raise TargetError(
            f"a program for {target.name} cannot be validated here: {'; '.join(missing)}",
            hint="compile without validation, or on a machine that runs it",
        )


def _validate_program(
    artifact: Artifact, graph: Graph, pipeline: Sequence[Pass], records: Sequence[Record]
) -> dict[str, Difference]:
    """Compare the program with the reference of the imported graph, or of the final one after losses."""
    from hardy.compiler.interpret import run as run_reference

    lossy = any(r.changed and not p.exact for p, r in zip(pipeline, records, strict=False))
    expecting = artifact.graph if lossy else graph
    given = random_inputs(expecting.input_types())
    results = artifact.run(given)
    return {
        name: require_close(f"output {name!r} of the compiled program", expected, results[name], scaled=True)
        for name, expected in run_reference(expecting, given).items()
    }


def _digest(graph: Graph) -> str:
    """SHA-256 of the graph's text, which names the content of its constants."""
    return hashlib.sha256(print_graph(graph, sources=False).encode()).hexdigest()


def _version() -> str:
    from hardy import __version__

    return __version__
