"""Model parallel training: a graph in stages, one a worker, with micro-batches in between.

The schedule is GPipe's (Huang et al., 2019, arXiv:1811.06965): every micro-batch goes forward through
all stages, then every one backward in the reverse order, and one step of the optimizer ends the batch.
Gradients are those of one process, because there are no statistics of a batch in a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hardy.compiler.calibration.data import Samples
from hardy.compiler.cost import node_macs
from hardy.compiler.cut import Part, cut
from hardy.compiler.errors import UnsupportedError, UsageError
from hardy.compiler.ir import Constant, Graph, Input, Node, Value
from hardy.compiler.progress import Progress, tell
from hardy.compiler.training import workers
from hardy.compiler.training.batches import Batches, Shard
from hardy.compiler.training.fit import (
    History,
    Objective,
    Optimizer,
    Schedule,
    make_optimizer,
    rate_factor,
    set_rate,
)
from hardy.compiler.training.graph_module import GraphModule, Keep
from hardy.compiler.training.losses import Seen
from hardy.compiler.training.trainable import trainable
from hardy.passes.layers import replace_weights

# What stages are to have alike: weights' bytes, for models that outgrow a device, or work.
Balance = Literal["bytes", "macs"]


def split(graph: Graph, count: int, balance: Balance = "bytes") -> list[Part]:
    """Cut a graph into `count` parts that run one after another, none of them much heavier than the
    others.

    Data only flows on to later parts. UsageError where the graph has fewer layers than parts.
    """
    if count < 1:
        raise UsageError(f"{count} stages are none", hint="give at least one")
    nodes = [n for n in graph.nodes if not isinstance(n.op, Input | Constant)]
    weights = _weights(nodes, balance)
    if sum(w > 0 for w in weights) < count:
        layers = sum(w > 0 for w in weights)
        raise UsageError(f"{graph.name} has {layers} layers, too few for {count} stages")
    bounds = _balanced(weights, count)
    ends: list[list[Value]] = [[v for n in nodes[:stop] for v in n.values] for stop in bounds[:-1]]
    return cut(graph, [*ends, [v for n in nodes for v in n.values]])


def _weights(nodes: Sequence[Node], balance: Balance) -> list[int]:
    """What each node weighs; a constant counts where it is used first."""
    if balance == "macs":
        return [node_macs(node) for node in nodes]
    seen: set[Value] = set()
    weights = []
    for node in nodes:
        new = {v for v in node.operands if isinstance(v.op, Constant)} - seen
        seen |= new
        weights.append(sum(v.type.nbytes for v in new))
    return weights


def _balanced(weights: Sequence[int], count: int) -> list[int]:
    """Where consecutive runs of nodes end so that the heaviest is as light as can be: the least bound
    that `count` runs keep to, found by bisection."""

    def runs(bound: int) -> list[int]:
        ends, weight = [], 0
        for place, w in enumerate(weights):
            if weight and weight + w > bound:
                ends.append(place)
                weight = 0
            weight += w
        return [*ends, len(weights)]

    low, high = max(weights), sum(weights)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if len(runs(middle)) > count else (low, middle)
    ends = runs(low)
    # Fewer runs than stages keep to the bound too: divide the heaviest that can be.
    while len(ends) < count:
        starts = [0, *ends[:-1]]
        sums = [
            (sum(weights[a:b]), a, b)
            for a, b in zip(starts, ends, strict=True)
            if sum(w > 0 for w in weights[a:b]) > 1
        ]
        _, a, b = max(sums)
        loaded = [p for p in range(a, b) if weights[p] > 0]
        ends = sorted([*ends, loaded[len(loaded) // 2]])
    return ends


@dataclass(frozen=True)
class _Link:
    """What one stage sends to a later one: values by name, in the same order on both sides."""

    source: int
    target: int
    values: tuple[Value, ...]


class Stage:
    """This worker's stage of a graph: `step(feed)` computes loss and gradients of a whole batch.

    Made by every worker of the group with the same arguments; worker r holds stage r, and only its
    constants become parameters. `loss` runs in the last stage, and sees outputs that it computes. A
    constant that two stages use, such as a tied embedding, is refused, because each would train a copy.
    """

    def __init__(
        self,
        graph: Graph,
        loss: Callable[[Seen], Tensor],
        worker: Shard,
        *,
        balance: Balance = "bytes",
        micro_batches: int = 4,
        keep: Keep = "nothing",
    ) -> None:
        if micro_batches < 1:
            raise UsageError(f"{micro_batches} micro-batches are none", hint="give at least one")
        self.worker, self.loss, self.micro_batches = worker, loss, micro_batches
        self.parts = split(graph, worker.world, balance)
        _refuse_shared(self.parts)
        self.part = self.parts[worker.rank]
        self.device = workers.default_device()
        self.module = GraphModule(self.part.graph, keep=keep).to(self.device)
        self.last = worker.rank == worker.world - 1
        self.output_names = dict(zip(graph.outputs, graph.output_names, strict=True))
        missing = [n for v, n in self.output_names.items() if v not in self.parts[-1].gives]
        if missing:
            raise UnsupportedError(
                f"output {missing[0]!r} is not computed in the last stage", hint="train fewer stages"
            )
        maker = {v: i for i, part in enumerate(self.parts) for v in part.gives}
        self.links = [
            _Link(source, target, values)
            for target, part in enumerate(self.parts)
            for source in range(target)
            if (values := tuple(v for v in part.takes if maker.get(v) == source))
        ]

    def step(self, feed: Mapping[str, Tensor]) -> float:
        """One batch of stacked feeds, given to all workers: its mean loss, the same on each of them.
        Gradients are added to those of `module.parameters()`."""
        count = min(self.micro_batches, len(next(iter(feed.values()))))
        here = {name: t.to(self.device) for name, t in feed.items()}
        micro = [Shard(i, count)(here) for i in range(count)]
        runs = [self._forward(batch) for batch, _ in micro]
        total = torch.zeros((), device=self.device)
        for (batch, share), (given, outputs) in zip(reversed(micro), reversed(runs), strict=True):
            if self.last:
                named = {name: outputs[v] for v, name in self.output_names.items()}
                loss = self.loss(Seen(batch, named)) * share
                total += loss.detach()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            self._backward(given, outputs)
        if self.worker.world > 1:
            dist.broadcast(total, self.worker.world - 1)
        return float(total)

    def _forward(self, batch: Mapping[str, Tensor]) -> tuple[dict[Value, Tensor], dict[Value, Tensor]]:
        """What the stage takes from others, as leaves of its own graph of gradients, and what it gives."""
        rows = len(next(iter(batch.values())))
        given: dict[Value, Tensor] = {}
        for link in self.links:
            if link.target == self.worker.rank:
                for value in link.values:
                    shape, dtype = (rows, *value.type.shape), value.type.dtype.torch
                    tensor = torch.empty(shape, dtype=dtype, device=self.device)
                    dist.recv(tensor, link.source)
                    given[value] = tensor.requires_grad_(tensor.is_floating_point())
        names = self.part.names
        feed = {names[v]: given[v] if v in given else batch[names[v]] for v in self.part.takes}
        outputs, _ = self.module.stacked(feed)
        made = {v: outputs[names[v]] for v in self.part.gives}
        for link in self.links:
            if link.source == self.worker.rank:
                for value in link.values:
                    dist.send(made[value].detach().contiguous(), link.target)
        return given, made

    def _backward(self, given: Mapping[Value, Tensor], made: Mapping[Value, Tensor]) -> None:
        """Take the gradients of what was sent, and give back those of what was received."""
        roots: list[Tensor] = []
        gradients: list[Tensor] = []
        for link in reversed(self.links):
            if link.source == self.worker.rank:
                for value in link.values:
                    if made[value].is_floating_point():
                        gradient = torch.empty_like(made[value]).contiguous()
                        dist.recv(gradient, link.target)
                        if made[value].requires_grad:
                            roots.append(made[value])
                            gradients.append(gradient)
        if roots:
            torch.autograd.backward(roots, gradients)
        for link in reversed(self.links):
            if link.target == self.worker.rank:
                for value in link.values:
                    tensor = given[value]
                    if tensor.is_floating_point():
                        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                        dist.send(gradient.contiguous(), link.source)

    def tensors(self) -> dict[Value, Tensor]:
        """All stages' trained constants, values of the whole graph, on every worker."""
        own = self.module.tensors()
        everything: dict[Value, Tensor] = {}
        for rank, part in enumerate(self.parts):
            for value in trainable(part.graph):
                empty = torch.empty(value.type.shape, dtype=value.type.dtype.torch, device=self.device)
                tensor = own[value].contiguous() if rank == self.worker.rank else empty
                if self.worker.world > 1:
                    dist.broadcast(tensor, rank)
                everything[value] = tensor.cpu()
        return everything


def fit_stages(
    graph: Graph,
    samples: Samples,
    loss: Objective,
    *,
    epochs: int,
    rate: float,
    batch: int = 32,
    micro_batches: int = 4,
    balance: Balance = "bytes",
    seed: int = 0,
    optimizer: Optimizer = "adamw",
    weight_decay: float = 0.0,
    schedule: Schedule = "cosine",
    clip_norm: float | None = None,
    keep: Keep = "nothing",
    progress: Progress = tell,
) -> tuple[Graph, History]:
    """`fit` with one stage of the graph in each worker of the process group (`workers.joined`): the
    same steps that one process takes, and the same graph on every worker at the end."""
    stage = Stage(graph, loss, workers.here(), balance=balance, micro_batches=micro_batches, keep=keep)
    batches = Batches(samples, graph.input_types(), batch, seed)
    descent = make_optimizer(stage.module, optimizer, rate, weight_decay)
    parameters = [p for group in descent.param_groups for p in group["params"]]
    total = batches.per_epoch * epochs
    history = History()
    for epoch in range(epochs):
        for feeds in batches.epoch(epoch):
            set_rate(descent, rate * rate_factor(schedule, len(history.losses), total))
            descent.zero_grad()
            history.add(stage.step(feeds), batches.per_epoch)
            if clip_norm is not None:
                squares = [p.grad.square().sum() for p in parameters if p.grad is not None]
                norm = workers.total(torch.stack(squares).sum()).sqrt()
                nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
            descent.step()
            done = len(history.losses)
            progress(f"epoch {epoch + 1} of {epochs}, loss {history.losses[-1]:.4g}", done, total)
    return replace_weights(graph, stage.tensors()), history


def _refuse_shared(parts: Sequence[Part]) -> None:
    owner: dict[Value, int] = {}
    for i, part in enumerate(parts):
        for value in trainable(part.graph):
            if owner.setdefault(value, i) != i:
                raise UnsupportedError(
                    f"the constant {value.node.name or value.type} is used in stages {owner[value]} and {i}",
                    where=value.node.source,
                    hint="train fewer stages, or give each use a weight of its own",
                )
