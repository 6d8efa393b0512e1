"""`hardy finetune` and `hardy distill`: a model with trained weights, as an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hardy.compiler.cli.options import (
    Debug,
    Dims,
    Json,
    PassList,
    SampleCount,
    Shapes,
    allow_local_modules,
    read_binding,
)

Model = Annotated[str, typer.Argument(help="An .onnx or .pt2 file, an artifact, or package.module:function.")]
Data = Annotated[
    str,
    typer.Option(metavar="DATA", help="Samples: an .npz file, a folder of them, or package.module:function."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The artifact's folder.")]
TargetName = Annotated[
    str, typer.Option("--target", "-t", help="`reference` keeps a graph that can be compiled again.")
]
Label = Annotated[str | None, typer.Option(metavar="NAME", help="The classes' name in the data.")]
Output = Annotated[str | None, typer.Option(metavar="NAME", help="The output that is trained.")]
Temperature = Annotated[
    float | None, typer.Option(help="Compare the softmax of outputs / T, not the outputs themselves.")
]
Epochs = Annotated[int, typer.Option(min=1, help="How often to go through the data.")]
Rate = Annotated[float, typer.Option(help="The learning rate at its peak.")]
Batch = Annotated[int, typer.Option(min=1, help="Samples in a step, over all workers.")]
Seed = Annotated[int, typer.Option(min=0, help="What the order of the samples depends on.")]
Decay = Annotated[float, typer.Option(help="Weight decay, not of vectors.")]
Schedule = Annotated[
    Literal["constant", "cosine", "one_cycle"], typer.Option(help="How the rate changes on the way.")
]
Clip = Annotated[float | None, typer.Option(help="A bound on the norm of the gradients.")]
Keep = Annotated[
    Literal["nothing", "zeros", "ties"],
    typer.Option(help="What stays of the weights: which are zero, or which are equal."),
]
Scales = Annotated[bool, typer.Option("--learn-scales", help="Train the scales of quantized tensors too.")]
CheckpointFile = Annotated[
    str | None, typer.Option("--checkpoint", metavar="FILE", help="Continue from this file if it is there.")
]
Every = Annotated[int, typer.Option("--checkpoint-every", min=1, help="Steps between two checkpoints.")]


def finetune(
    model: Annotated[
        str, typer.Argument(help="An .onnx or .pt2 file, an artifact, or package.module:function.")
    ],
    data: Data,
    out: Out,
    label: Label = None,
    target: TargetName = "reference",
    dim: Dims = None,
    shape: Shapes = None,
    passes: PassList = None,
    samples: SampleCount = None,
    label_weight: Annotated[
        float, typer.Option(help="The rest is the weight of the model before the passes.")
    ] = 1.0,
    temperature: Temperature = None,
    output: Output = None,
    epochs: Epochs = 3,
    rate: Rate = 1e-4,
    batch: Batch = 32,
    seed: Seed = 0,
    weight_decay: Decay = 0.0,
    schedule: Schedule = "cosine",
    clip_norm: Clip = None,
    keep: Keep = "zeros",
    learn_scales: Scales = False,
    checkpoint: CheckpointFile = None,
    checkpoint_every: Every = 100,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a model on labels, or a compressed one to give what it gave before (--passes says how)."""
    options = dict(locals())
    _train(options, original=None, hidden=())


def distill(
    student: Annotated[
        str, typer.Argument(help="An .onnx or .pt2 file, an artifact, or package.module:function.")
    ],
    teacher: Annotated[str, typer.Option(metavar="MODEL", help="A model with the same inputs.")],
    data: Data,
    out: Out,
    label: Label = None,
    target: TargetName = "reference",
    dim: Dims = None,
    shape: Shapes = None,
    passes: PassList = None,
    samples: SampleCount = None,
    label_weight: Annotated[
        float, typer.Option(help="The weight of the labels; the teacher has the rest.")
    ] = 0.1,
    temperature: Temperature = None,
    output: Output = None,
    hidden: Annotated[
        list[str] | None,
        typer.Option(metavar="STUDENT=TEACHER", help="Match what these modules or nodes give as well."),
    ] = None,
    hidden_weight: Annotated[float, typer.Option(help="The weight of that.")] = 1.0,
    attention_weight: Annotated[
        float, typer.Option(help="Above 0, match what attention looks at as well.")
    ] = 0.0,
    remember: Annotated[
        bool, typer.Option("--remember", help="Run the teacher once on each sample and keep its outputs.")
    ] = False,
    epochs: Epochs = 10,
    rate: Rate = 1e-3,
    batch: Batch = 32,
    seed: Seed = 0,
    weight_decay: Decay = 0.0,
    schedule: Schedule = "one_cycle",
    clip_norm: Clip = None,
    keep: Keep = "zeros",
    learn_scales: Scales = False,
    checkpoint: CheckpointFile = None,
    checkpoint_every: Every = 100,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a model to give what a larger one gives, with labels or without."""
    from hardy.compiler.cli.options import pairs
    from hardy.compiler.models import import_model

    options = dict(locals())
    allow_local_modules()
    graph = import_model(teacher, None, read_binding(dim, shape, None), self_test=True).graph
    options["model"] = options.pop("student")
    matched = tuple(pairs("--hidden", hidden, str).items())
    _train(options, original=graph, hidden=matched)


# Options that are fields of the pass `finetune` under the same name.
_FIELDS = (
    *("label", "label_weight", "temperature", "output", "epochs", "rate", "batch", "seed", "weight_decay"),
    *("schedule", "clip_norm", "keep", "learn_scales", "checkpoint", "checkpoint_every"),
    *("hidden_weight", "attention_weight", "remember"),
)


def _train(options: dict[str, Any], original: Any, hidden: tuple[tuple[str, str], ...]) -> None:
    """Compile with the pass `finetune` between the listed passes and the target's own.

    Under `torchrun` all workers train, and the first writes and prints.
    """
    from hardy.compiler.cli.compile import print_compilation
    from hardy.compiler.cli.output import progress_bar
    from hardy.compiler.driver import compile_model
    from hardy.compiler.errors import UsageError
    from hardy.compiler.pass_list import split_list
    from hardy.compiler.training.workers import joined
    from hardy.passes import Finetune

    listed = split_list(options["passes"] or "")
    if "..." in listed:
        raise UsageError("the target's own passes follow the training", hint="leave `...` out of --passes")
    given = {name: options[name] for name in _FIELDS if name in options}
    trainer = Finetune(original=original, hidden=hidden, **given)
    allow_local_modules()
    binding = read_binding(options["dim"], options["shape"], None)
    with joined() as worker, progress_bar(options["json"] or worker.rank > 0, left=True) as progress:
        result = compile_model(
            options["model"],
            None,
            binding=binding,
            target=options["target"],
            passes=[*listed, trainer, ...],
            calibration=options["data"],
            samples=options["samples"],
            out=options["out"] if worker.rank == 0 else None,
            progress=progress,
        )
    if worker.rank == 0:
        print_compilation(result, options["out"], options["json"])
