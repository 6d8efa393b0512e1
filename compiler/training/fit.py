"""The training loop: gradient descent on a graph's weights, over one process or several."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hardy.compiler.calibration.data import Samples
from hardy.compiler.errors import HardyError, UsageError
from hardy.compiler.progress import Progress, tell
from hardy.compiler.text import print_graph
from hardy.compiler.training import workers
from hardy.compiler.training.batches import Batches, generator
from hardy.compiler.training.checkpoint import Checkpoint
from hardy.compiler.training.graph_module import GraphModule
from hardy.compiler.training.losses import Seen

# A scalar of what a step has seen, the mean over its samples; see `losses`.
Objective = Callable[[Seen], Tensor]
# Changes a batch of stacked feeds at random.
Augment = Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]
Schedule = Literal["constant", "cosine", "one_cycle"]
Optimizer = Literal["adamw", "sgd"]

MOMENTUM = 0.9
# One cycle (Smith and Topin, 2018, arXiv:1708.07120): the share of rising steps, and how far below
# its peak the rate starts and ends.
RISING, START, END = 0.3, 25.0, 1e4


@dataclass
class History:
    """The loss of each step so far, and of each epoch as the mean of its steps.

    `finetune` adds the loss over the first samples before and after.
    """

    losses: list[float] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    before: float | None = None
    after: float | None = None

    def improved(self) -> bool:
        """Whether the loss over the first samples fell."""
        return self.before is not None and self.after is not None and self.after < self.before

    def add(self, loss: float, per_epoch: int) -> None:
        """The loss of the next step; HardyError where it is NaN or infinite."""
        if not math.isfinite(loss):
            raise HardyError(
                f"the loss is {loss} in step {len(self.losses)}",
                hint="a lower rate or a bound on the gradients' norm (clip_norm) may help",
            )
        self.losses.append(loss)
        if len(self.losses) % per_epoch == 0:
            self.epochs.append(sum(self.losses[-per_epoch:]) / per_epoch)


def rate_factor(schedule: Schedule, step: int, total: int) -> float:
    """What the rate is multiplied by in a step (from 0) of `total`.

    "cosine" falls from 1 to 0, "one_cycle" rises for the first 30 % and then falls, both along cosines.
    """
    if schedule == "constant":
        return 1.0
    done = step / max(total - 1, 1)
    if schedule == "cosine":
        return _between(1.0, 0.0, step / max(total, 1))
    if schedule != "one_cycle":
        raise UsageError(f"there is no schedule {schedule!r}", hint="constant, cosine or one_cycle")
    if done < RISING:
        return _between(1 / START, 1.0, done / RISING)
    return _between(1.0, 1 / (START * END), (done - RISING) / (1 - RISING))


def _between(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


class Step(nn.Module):
    """Graph and loss as one module, whose forward is a step's loss."""

    def __init__(self, module: GraphModule, loss: Objective, vectorize: bool) -> None:
        super().__init__()
        self.module, self.loss, self.vectorize = module, loss, vectorize
        self.watch = tuple(getattr(loss, "watch", ()))
        nodes = set(module.graph.nodes)
        for value in self.watch:
            if value.node not in nodes:
                raise UsageError(
                    f"the loss watches a result of {value.op.name} that is not in the trained graph",
                    where=value.node.source,
                    hint="a graph with integer weights is trained as `float_weights(graph)`",
                )

    def forward(self, feed: Mapping[str, Tensor]) -> Tensor:
        outputs, values = self.module.stacked(feed, self.watch, self.vectorize)
        return self.loss(Seen(feed, outputs, dict(zip(self.watch, values, strict=True))))


def fit(
    module: GraphModule,
    samples: Samples,
    loss: Objective,
    *,
    epochs: int,
    rate: float,
    batch: int = 32,
    seed: int = 0,
    optimizer: Optimizer = "adamw",
    weight_decay: float = 0.0,
    schedule: Schedule = "cosine",
    clip_norm: float | None = None,
    augment: Augment | None = None,
    vectorize: bool = True,
    device: str | torch.device | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress = tell,
) -> History:
    """Train a graph's weights, in place in the module; `module.to_graph()` then gives the graph.

    A step takes `batch` feeds of the graph's own inputs, together by vmap (one by one without
    `vectorize`); the order depends on `seed` alone. `loss` is a `losses.Loss` or any function of
    `Seen`. `weight_decay` (decoupled for "adamw") spares vectors. `clip_norm` bounds the norm of all
    gradients together. HardyError where the loss becomes NaN or infinite.

    In a process group (`workers.joined`) each worker takes its share of every batch, and all of them
    take the steps that one process would.
    """
    if epochs < 1 or not rate > 0:
        raise UsageError(f"{epochs} epochs at a rate of {rate} train nothing")
    shard = workers.here()
    device = workers.default_device() if device is None else torch.device(device)
    batches = Batches(samples, module.graph.input_types(), batch, seed)
    total = batches.per_epoch * epochs
    step = Step(module, loss, vectorize).to(device)
    descent = make_optimizer(step, optimizer, rate, weight_decay)
    parameters = [p for group in descent.param_groups for p in group["params"]]
    plan = {
        "graph": hashlib.sha256(print_graph(module.graph, sources=False).encode()).hexdigest(),
        "samples": batches.count,
        "epochs": epochs,
        "rate": rate,
        "batch": batch,
        "seed": seed,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "clip_norm": clip_norm,
    }
    history = History()
    if checkpoint is not None:
        state = checkpoint.restore(step, descent, plan)
        history = history if state is None else History(**state)
    run: nn.Module = step
    if shard.world > 1:
        # The same weights are used in every step, and perhaps not all of them.
        run = DistributedDataParallel(step, forward_sync_buffers=False, static_graph=True)
    per_epoch = batches.per_epoch
    for epoch in range(len(history.losses) // per_epoch, epochs):
        for feeds in batches.epoch(epoch, skip=len(history.losses) - epoch * per_epoch):
            done = len(history.losses)
            if augment is not None:
                feeds = augment(feeds, generator(seed, done, 1))
            own, share = shard(feeds)
            set_rate(descent, rate * rate_factor(schedule, done, total))
            value = run({name: t.to(device) for name, t in own.items()})
            history.add(float(workers.total(value.detach() * share)), per_epoch)
            descent.zero_grad()
            # The wrapper averages the workers' gradients; their shares need not be equal.
            (value * (share * shard.world)).backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, clip_norm)
            descent.step()
            done += 1
            if checkpoint is not None and shard.rank == 0 and checkpoint.due(done, total):
                checkpoint.save(step, descent, plan, asdict(history))
            progress(f"epoch {epoch + 1} of {epochs}, loss {history.losses[-1]:.4g}", done, total)
    return history


def mean_loss(
    module: GraphModule, samples: Samples, loss: Objective, batch: int = 32, vectorize: bool = True
) -> float:
    """The loss over samples, the mean of their batches by size, without training."""
    batches = Batches(samples, module.graph.input_types(), batch)
    step = Step(module, loss, vectorize)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    total = 0.0
    with torch.no_grad():
        for feeds in batches.epoch(0):
            rows = len(next(iter(feeds.values())))
            total += float(step({name: t.to(device) for name, t in feeds.items()})) * rows
    return total / batches.count


def set_rate(descent: torch.optim.Optimizer, rate: float) -> None:
    for group in descent.param_groups:
        group["lr"] = rate


def make_optimizer(module: nn.Module, name: Optimizer, rate: float, decay: float) -> torch.optim.Optimizer:
    """The optimizer of a module's parameters; vectors are spared weight decay."""
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        raise UsageError("the graph has no constants that can be trained")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=rate)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM)
    raise UsageError(f"there is no optimizer {name!r}", hint="adamw or sgd")
