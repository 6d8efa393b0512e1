"""Distillation: a student graph learns from a teacher graph, with labels or without."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hardy.compiler.calibration.data import Samples
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph, Node, Value
from hardy.compiler.training.fit import History, Objective, fit, mean_loss
from hardy.compiler.training.graph_module import GraphModule, Keep
from hardy.compiler.training.losses import (
    CrossEntropy,
    Loss,
    MatchOutputs,
    Remembered,
    SoftTargets,
    Taught,
    Weighted,
    remember,
)
from hardy.compiler.training.quantized import float_weights, integer_weights, scales

# How many samples the loss is measured over before and after.
MEASURED = 1024


def finetune(
    graph: Graph,
    samples: Samples,
    loss: Objective,
    *,
    keep: Keep = "zeros",
    learn_scales: bool = False,
    **options: Any,
) -> tuple[Graph, History]:
    """The graph with weights that make `loss` small, and how the loss fell.

    What compression did stays: `keep` says which weights keep their value (see `GraphModule`), and
    integers that are dequantized learn through their rounding and are integers again in the result.
    `learn_scales` trains the scales of quantized tensors too. `options` are those of `fit`. Values
    that the loss watches are those of `float_weights(graph)`.

    Where the loss over the first 1,024 samples is not less afterwards, the graph is given back as it was.
    """
    learning = float_weights(graph)
    module = GraphModule(learning, keep=keep, positive=scales(learning) if learn_scales else ())
    probe = samples.first(MEASURED)
    how = {name: options[name] for name in ("batch", "vectorize") if name in options}
    before = mean_loss(module, probe, loss, **how)
    history = fit(module, samples, loss, **options)
    history.before, history.after = before, mean_loss(module, probe, loss, **how)
    if not history.improved():
        return graph, history
    return integer_weights(module.to_graph()), history


def distill(
    teacher: Graph,
    student: Graph,
    samples: Samples,
    loss: Loss | None = None,
    *,
    remembered: bool = False,
    **options: Any,
) -> tuple[Graph, History]:
    """The student after learning from a teacher with the same inputs: `finetune` with a loss that
    compares the two (see `losses`), by default the mean squared error to the teacher's outputs.

    With `remembered` the teacher runs once on each sample, and its outputs stay in memory; this does
    not go with inputs that are changed at random, or with losses on hidden states.
    """
    require_same_inputs(teacher, student)
    loss = loss or MatchOutputs()
    if not remembered:
        return finetune(student, samples, Taught(teacher, loss), **options)
    if options.get("augment") is not None:
        raise UsageError("a teacher's outputs for changed inputs cannot be remembered")
    return finetune(student, remember(teacher, samples), Remembered(loss), **options)


def teaching(
    label: str | None = None,
    label_weight: float = 0.1,
    temperature: float | None = None,
    output: str | None = None,
    extra: Iterable[tuple[float, Loss]] = (),
) -> Loss:
    """The usual sum of losses: the teacher's soft targets at a temperature (its outputs themselves, if
    None), cross entropy with the samples' labels times `label_weight`, and further losses with weights."""
    soft = (
        MatchOutputs(None if output is None else [output])
        if temperature is None
        else SoftTargets(temperature, output)
    )
    terms: list[tuple[float, Loss]] = [(1.0 if label is None else 1.0 - label_weight, soft)]
    if label is not None:
        if not 0 <= label_weight <= 1:
            raise UsageError(f"the weight of the labels must be in 0..1, got {label_weight}")
        terms.append((label_weight, CrossEntropy(label, output)))
    return Weighted([(weight, term) for weight, term in (*terms, *extra) if weight > 0])


def require_same_inputs(teacher: Graph, student: Graph) -> None:
    """UsageError unless both graphs take the same inputs."""
    ours, theirs = student.input_types(), teacher.input_types()
    if ours != theirs:

        def show(types: dict[str, Any]) -> str:
            return ", ".join(f"{name}: {t}" for name, t in types.items()) or "none"

        raise UsageError(
            f"teacher and student take different inputs: {show(theirs)} and {show(ours)}",
            hint="trace both for inputs of the same names, shapes and types",
        )


def named_value(graph: Graph, name: str) -> Value:
    """The last value that the module or node called `name` gives: a node of this name, or whose source
    begins with it (`layer.2 (model.py:3)`). UsageError where there is none."""
    found = [n for n in graph.nodes if n.op.name not in ("input", "constant") and name in _names(n)]
    if not found:
        names = dict.fromkeys(
            part for n in graph.nodes if n.op.name not in ("input", "constant") for part in _names(n)
        )
        listing = ", ".join(list(names)[:20]) + (", ..." if len(names) > 20 else "")
        raise UsageError(f"nothing in {graph.name} is called {name!r}", hint=f"there are {listing}")
    return found[-1].values[0]


def _names(node: Node) -> list[str]:
    return [n for n in (node.name, node.source.partition(" (")[0]) if n]
