"""What training minimizes: functions of what a step has seen, all means over its samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardy.compiler.calibration.data import Feed, Samples
from hardy.compiler.errors import InputError, UsageError
from hardy.compiler.ir import Graph, Node, Value
from hardy.compiler.ops.attention import Attention
from hardy.compiler.training.graph_module import GraphModule


@dataclass(frozen=True)
class Seen:
    """One step's data: the feeds, the outputs and the watched values, each with an axis of samples in
    front, and the same of the teacher where there is one."""

    feed: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    values: Mapping[Value, Tensor] = field(default_factory=dict)
    teacher: Seen | None = None

    def output(self, name: str | None) -> Tensor:
        """An output by name; the only one, if None."""
        if name is None and len(self.outputs) == 1:
            return next(iter(self.outputs.values()))
        if name is None or name not in self.outputs:
            listing = ", ".join(self.outputs)
            raise UsageError(
                f"the loss needs one output, got {name!r}", hint=f"name one of the outputs {listing}"
            )
        return self.outputs[name]

    def taught(self) -> Seen:
        if self.teacher is None:
            raise UsageError("this loss needs a teacher", hint="put it into `Taught(teacher, loss)`")
        return self.teacher


class Loss(nn.Module):
    """A scalar of a step. `watch` are values of the trained graph that it needs, `teacher_watch` values
    of the teacher. Its own parameters, such as projections, are trained as well."""

    watch: tuple[Value, ...] = ()
    teacher_watch: tuple[Value, ...] = ()

    def forward(self, seen: Seen) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no loss")


class CrossEntropy(Loss):
    """Cross entropy of logits [..., classes] with the classes that the samples hold under `label`.

    `smoothing` gives that share of the target to all classes alike (Szegedy et al., 2016).
    """

    def __init__(self, label: str = "label", output: str | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.label, self.name, self.smoothing = label, output, smoothing

    def forward(self, seen: Seen) -> Tensor:
        if self.label not in seen.feed:
            raise InputError(f"the samples hold no {self.label!r}", hint=f"they hold {', '.join(seen.feed)}")
        logits = seen.output(self.name)
        rows, classes = logits.flatten(0, -2), seen.feed[self.label].flatten().long()
        if len(rows) != len(classes):
            raise InputError(
                f"{len(classes)} labels {self.label!r} for {len(rows)} rows of logits",
                hint="a sample holds one label for each row of the output",
            )
        return F.cross_entropy(rows, classes, label_smoothing=self.smoothing)


class MatchOutputs(Loss):
    """Mean squared error to the teacher's outputs, averaged over the outputs that both have."""

    def __init__(self, outputs: Sequence[str] | None = None) -> None:
        super().__init__()
        self.names = outputs

    def forward(self, seen: Seen) -> Tensor:
        taught = seen.taught()
        if self.names is None and len(seen.outputs) == len(taught.outputs) == 1:
            pairs = [(seen.output(None), taught.output(None))]
        else:
            names = self.names or [n for n in seen.outputs if n in taught.outputs]
            if not names:
                raise UsageError(
                    "student and teacher have no output in common",
                    hint=f"they are {', '.join(seen.outputs)} and {', '.join(taught.outputs)}",
                )
            pairs = [(seen.output(n), taught.output(n)) for n in names]
        errors = [F.mse_loss(_same_shape(ours, theirs), theirs) for ours, theirs in pairs]
        return torch.stack(errors).mean()


class SoftTargets(Loss):
    """T^2 KL(teacher || student) of the softmax of logits [..., classes] / T (Hinton et al., 2015,
    arXiv:1503.02531); T^2 keeps the gradients' size at any temperature."""

    def __init__(
        self, temperature: float = 4.0, output: str | None = None, teacher_output: str | None = None
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise UsageError(f"the temperature must be above 0, got {temperature}")
        self.temperature, self.name = temperature, output
        self.teacher_name = output if teacher_output is None else teacher_output

    def forward(self, seen: Seen) -> Tensor:
        theirs = seen.taught().output(self.teacher_name)
        ours = _same_shape(seen.output(self.name), theirs)
        ours, theirs = ((t.flatten(0, -2) / self.temperature).log_softmax(-1) for t in (ours, theirs))
        return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * self.temperature**2


class MatchHidden(Loss):
    """Distance of hidden states: mean squared error (Romero et al., 2015, arXiv:1412.6550) or one minus
    the cosine of vectors along the channels, averaged over pairs of (student's, teacher's) values.

    `axis` is that of the channels (by default the last for values of up to three axes, else 1, as in
    [batch, channels, height, width]). Where widths differ a learned linear map widens the student's.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Value, Value]],
        distance: Literal["mse", "cosine"] = "mse",
        axis: int | None = None,
    ) -> None:
        super().__init__()
        self.watch = tuple(ours for ours, _ in pairs)
        self.teacher_watch = tuple(theirs for _, theirs in pairs)
        self.distance = distance
        self.axes: list[int] = []
        self.projections = nn.ModuleList()
        for ours, theirs in pairs:
            channels = (ours.type.rank - 1 if ours.type.rank <= 3 else 1) if axis is None else axis
            a, b = list(ours.type.shape), list(theirs.type.shape)
            inside, out = a.pop(channels), b.pop(channels)
            if a != b:
                raise UsageError(
                    f"hidden states {ours.type} and {theirs.type} differ in more than their channels",
                    where=ours.node.source,
                    hint="pair values of the same batch and positions",
                )
            # The axis of samples comes in front.
            self.axes.append(channels + 1)
            self.projections.append(nn.Identity() if inside == out else nn.Linear(inside, out, bias=False))

    def forward(self, seen: Seen) -> Tensor:
        taught, errors = seen.taught(), []
        for ours, theirs, axis, project in zip(
            self.watch, self.teacher_watch, self.axes, self.projections, strict=True
        ):
            a = project(seen.values[ours].movedim(axis, -1))
            b = taught.values[theirs].movedim(axis, -1)
            if self.distance == "mse":
                errors.append(F.mse_loss(a, b))
            else:
                errors.append((1 - F.cosine_similarity(a, b, dim=-1)).mean())
        return torch.stack(errors).mean()


class MatchAttention(Loss):
    """KL(teacher || student) of what each query attends to, averaged over queries, heads and layers (as in
    MiniLM, Wang et al., 2020, arXiv:2002.10957).

    `layers` pairs the numbers of attention ops of the two graphs; by default they are spread evenly, and
    the last goes with the last. Where the numbers of heads differ, their means are compared.
    """

    def __init__(
        self, student: Graph, teacher: Graph, layers: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__()
        ours, theirs = ([n for n in g.nodes if isinstance(n.op, Attention)] for g in (student, teacher))
        if not ours or not theirs:
            raise UsageError(
                f"there are {len(ours)} attention ops in the student and {len(theirs)} in the teacher",
                hint="the pass fuse_patterns finds attention that was written out",
            )
        if layers is None:
            layers = [(i, (i + 1) * len(theirs) // len(ours) - 1) for i in range(len(ours))]
            layers = [(i, max(j, 0)) for i, j in layers]
        if any(not (0 <= i < len(ours) and 0 <= j < len(theirs)) for i, j in layers):
            raise UsageError(f"there are attention ops 0..{len(ours) - 1} and 0..{len(theirs) - 1}")
        self.pairs = [(ours[i], theirs[j]) for i, j in layers]
        for a, b in self.pairs:
            sizes = [(n.operands[0].type.shape[2], n.operands[1].type.shape[2]) for n in (a, b)]
            if sizes[0] != sizes[1]:
                raise UsageError(
                    f"attention of {sizes[0]} and of {sizes[1]} queries and keys cannot be matched",
                    where=a.source,
                )
        self.watch = _together([_looked_at(a) for a, _ in self.pairs])
        self.teacher_watch = _together([_looked_at(b) for _, b in self.pairs])

    def forward(self, seen: Seen) -> Tensor:
        values, losses = seen.taught().values, []
        for ours, theirs in self.pairs:
            a, b = _attention(ours, seen.values), _attention(theirs, values)
            if a.shape[2] != b.shape[2]:
                a, b = a.mean(2), b.mean(2)
            rows = a.clamp_min(torch.finfo(a.dtype).tiny).log().flatten(0, -2)
            losses.append(F.kl_div(rows, b.flatten(0, -2), reduction="batchmean"))
        return torch.stack(losses).mean()


def _looked_at(node: Node) -> tuple[Value, ...]:
    """Queries, keys and mask of an attention op."""
    return (*node.operands[:2], *node.operands[3:])


def _attention(node: Node, values: Mapping[Value, Tensor]) -> Tensor:
    """[samples, batch, heads, queries, keys]."""
    assert isinstance(node.op, Attention)
    probabilities: Tensor = torch.func.vmap(node.op.probabilities)(*[values[v] for v in _looked_at(node)])
    return probabilities


class Weighted(Loss):
    """The sum of losses, each times its weight."""

    def __init__(self, terms: Sequence[tuple[float, Loss]]) -> None:
        super().__init__()
        if not terms:
            raise UsageError("a sum of no losses trains nothing")
        self.weights = [weight for weight, _ in terms]
        self.terms = nn.ModuleList([term for _, term in terms])
        self.watch = _together([term.watch for _, term in terms])
        self.teacher_watch = _together([term.teacher_watch for _, term in terms])

    def forward(self, seen: Seen) -> Tensor:
        losses = [w * term(seen) for w, term in zip(self.weights, self.terms, strict=True)]
        return torch.stack(losses).sum()


class Taught(Loss):
    """A loss that looks at a teacher: a graph with the same inputs, which runs on each step's feeds."""

    def __init__(self, teacher: Graph, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.watch, self.teacher_watch = loss.watch, loss.teacher_watch
        self.teacher = GraphModule(teacher, train=())

    def forward(self, seen: Seen) -> Tensor:
        with torch.no_grad():
            outputs, values = self.teacher.stacked(seen.feed, self.teacher_watch)
        taught = Seen(seen.feed, outputs, dict(zip(self.teacher_watch, values, strict=True)))
        loss: Tensor = self.loss(replace(seen, teacher=taught))
        return loss


class Remembered(Loss):
    """A loss that looks at a teacher's outputs that the samples hold; see `remember`."""

    PREFIX = "teacher's "

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        if loss.teacher_watch:
            raise UsageError(
                "hidden states of the teacher are not remembered", hint="let the teacher run in each step"
            )
        self.loss, self.watch = loss, loss.watch

    def forward(self, seen: Seen) -> Tensor:
        held = {n.removeprefix(self.PREFIX): t for n, t in seen.feed.items() if n.startswith(self.PREFIX)}
        loss: Tensor = self.loss(replace(seen, teacher=Seen(seen.feed, held)))
        return loss


def remember(teacher: Graph, samples: Samples, chunk: int = 32) -> Samples:
    """The samples with the teacher's outputs in each, which stay in memory; for `Remembered`."""
    module = GraphModule(teacher, train=())
    outputs: list[dict[str, Tensor]] = []
    source = samples.feeds(teacher.input_types())
    while feeds := list(itertools.islice(source, chunk)):
        together = {n: torch.stack([feed[n] for feed in feeds]) for n in teacher.input_names}
        with torch.no_grad():
            results, _ = module.stacked(together)
        for i in range(len(feeds)):
            outputs.append({Remembered.PREFIX + n: t[i].clone() for n, t in results.items()})

    def joined() -> Iterator[Feed]:
        for feed, taught in zip(samples.feeds(teacher.input_types()), outputs, strict=True):
            yield {**feed, **taught}

    return Samples(joined, samples.origin)


def _together(watched: Sequence[tuple[Value, ...]]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(value for values in watched for value in values))


def _same_shape(ours: Tensor, theirs: Tensor) -> Tensor:
    if ours.shape != theirs.shape:
        raise UsageError(
            f"outputs of student and teacher differ in shape: {list(ours.shape[1:])} and "
            f"{list(theirs.shape[1:])}",
            hint="trace both for the same input",
        )
    return ours
