"""Classify a photo: a pretrained network compiled for this CPU, checked against PyTorch, timed beside it."""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import hardy
from examples.models import efficientnet_lite0
from hardy.compiler.cli.output import console, table
from hardy.compiler.cli.tables import pass_table
from hardy.compiler.timing import time_in_turn

PHOTOS = ("coffee", "chelsea", "rocket", "astronaut")
SIZE = 224


@dataclass(frozen=True)
class Answer:
    """What the compiled network said, its scores and PyTorch's, and the median time of each contender."""

    label: str
    probability: float
    scores: torch.Tensor
    expected: torch.Tensor
    milliseconds: dict[str, float]


def photo(name: str) -> torch.Tensor:
    """A photo that ships with scikit-image, as the network wants it: [1, 3, 224, 224], (x - 127) / 128."""
    import skimage.data
    from PIL import Image

    image = Image.fromarray(getattr(skimage.data, name)())
    scale = SIZE / 0.875 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), np.float32)
    return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None].contiguous()


def class_names() -> list[str]:
    """ImageNet's thousand, in order."""
    return (Path(__file__).parent / "data" / "imagenet_classes.txt").read_text().splitlines()


def onnxruntime_call(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], object] | None:
    """One run of the same module in onnxruntime; None where that is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # torch's older exporter needs no package besides onnx; it warns that it is the older one.
        warnings.simplefilter("ignore")
        path = os.path.join(folder, "model.onnx")
        torch.onnx.export(module, (x,), path, dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options)
    feeds = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feeds)


def main(target: str = "cpu", name: str = "coffee", threads: int = 1, seconds: float = 5.0) -> Answer:
    """Compile, run, compare, time."""
    screen = console()
    torch.set_num_threads(threads)
    module, x = efficientnet_lite0.load()[0], photo(name)
    artifact = hardy.compile(module, (x,), target=target)
    screen.print(pass_table(artifact.report["passes"]))

    (label,) = artifact.inputs
    (scores,) = artifact.run({label: x}).values()
    with torch.no_grad():
        expected = module(x)
    probability, best = scores.softmax(-1)[0].max(-1)
    answer = class_names()[int(best)]
    difference = (scores - expected).abs().max().item()
    screen.print(f"the photo {name!r} shows: {answer} ({float(probability):.1%})")
    screen.print(
        f"largest difference from PyTorch: {difference:.3g} of scores up to {expected.abs().max():.3g}"
    )

    def eager() -> object:
        with torch.no_grad():
            return module(x)

    runner = artifact.prepare()
    contenders: dict[str, Callable[[], object]] = {f"hardy ({artifact.target_name})": lambda: runner.run([x])}
    contenders["PyTorch eager"] = eager
    peer = onnxruntime_call(module, x)
    if peer is not None:
        contenders["onnxruntime"] = peer
    timings = time_in_turn(contenders, seconds=seconds)
    shown = table("", "median ms", "best ms", right=("median ms", "best ms"))
    for who, t in timings.items():
        shown.add_row(who, f"{t.median * 1e3:.2f}", f"{t.best * 1e3:.2f}")
    screen.print(shown)
    screen.print(f"{threads} thread{'s' * (threads > 1)} each, called in turn")
    return Answer(
        answer, float(probability), scores, expected, {n: t.median * 1e3 for n, t in timings.items()}
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--photo", default="coffee", choices=PHOTOS)
    parser.add_argument("--threads", type=int, default=1, help="for PyTorch and onnxruntime")
    given = parser.parse_args()
    main(given.target, given.photo, given.threads)
