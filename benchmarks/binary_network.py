"""A binary network on Fashion-MNIST beside its float twin, and the speed of binary convolutions.

python -m benchmarks.binary_network [--retrain] [--seconds S]

The twins share their structure: residual blocks whose shortcuts stay float (Liu et al., 2018,
arXiv:1808.00278). The float one has rectifiers where the other has signs. The binary one starts from
the float weights, first with binary activations, then with binary weights too, and learns from the
labels and from its twin's logits; the twin itself then learns for as many epochs more. Stem and
classifier stay float. Weights are kept in
`benchmarks/.cache`; speeds are ratios of medians of calls in turn, in processor time of one thread.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.distillation import graph_of, samples_of, score
from benchmarks.networks import CACHE, accuracy, trained
from examples.data import fashion_mnist
from examples.data.fashion_mnist import Images
from hardy.compiler.artifact import Artifact
from hardy.compiler.driver import compile
from hardy.compiler.models import trace
from hardy.compiler.timing import time_in_turn
from hardy.compiler.training import CrossEntropy, GraphModule, fit
from hardy.passes import Binarize
from hardy.targets.cpu import isa as isas
from hardy.targets.cpu.kernels.binary import binary_conv, totals
from hardy.targets.cpu.kernels.conv import Conv, conv2d
from hardy.targets.cpu.kernels.module import compile_kernels

BATCH = 128
WIDTH, BLOCKS = 64, 4
TEMPERATURE = 2.0
# Epochs and peak rates: float, binary activations, binary weights too; and as many more for the float twin.
STAGES = ((3, 4e-3), (1, 2e-3), (4, 4e-3))
MORE = (5, 4e-3)
# Channels and sizes of the convolutions that are timed alone, 3 x 3 with a border.
SHAPES = ((64, 28), (64, 14), (128, 28), (128, 14), (256, 14), (256, 7), (512, 7))


def signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def straight_through(x: Tensor) -> Tensor:
    """The signs, with the gradient of x where |x| <= 1."""
    inside = x.clamp(-1, 1)
    return inside + (signs(x) - inside).detach()


class Block(nn.Module):
    """A 3 x 3 convolution with batch normalization and a shortcut; `binary` says what is signs."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width, 1, 1))
        self.conv = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.binary: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        sign = straight_through if self.training else signs
        stride = self.conv.stride[0]
        y = x + self.shift
        y = sign(y) if "activations" in self.binary else F.relu(y)
        weight = self.conv.weight
        if "weights" in self.binary:
            alpha = weight.abs().mean((1, 2, 3))
            y = F.conv2d(y, sign(weight), None, stride, 1) * alpha[:, None, None]
        else:
            y = self.conv(y)
        return self.norm(y) + (F.avg_pool2d(x, stride) if stride > 1 else x)


class Network(nn.Module):
    """A stem of 5 x 5, blocks at 7 x 7 pixels, and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTH, 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.blocks = nn.Sequential(*[Block(WIDTH, 1 if i else 2) for i in range(BLOCKS)])
        self.classifier = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.norm(self.stem(x)))
        return self.classifier(F.relu(y).mean((2, 3)))

    def binarize(self, *what: str) -> Network:
        for block in self.blocks:
            block.binary = what
        return self


def train(module: Network, data: Images, epochs: int, rate: float, teacher: Tensor | None = None) -> None:
    """Adam with a one-cycle rate on the labels, and on a teacher's logits of the same images."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    steps = epochs * math.ceil(len(data) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    module.train()
    started, done = time.perf_counter(), 0
    for epoch in range(epochs):
        for rows in torch.randperm(len(data), generator=generator).split(BATCH):
            logits = module(data.x[rows])
            loss = F.cross_entropy(logits, data.y[rows])
            if teacher is not None:
                ours, theirs = (F.log_softmax(z / TEMPERATURE, 1) for z in (logits, teacher[rows]))
                taught = F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
                loss = loss + TEMPERATURE**2 * taught
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done % 100 == 0:
                spent = time.perf_counter() - started
                left = spent / done * (steps - done)
                print(
                    f"  epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}, {left:.0f} s left", flush=True
                )
    module.eval()


def logits_of(module: nn.Module, data: Images) -> Tensor:
    with torch.no_grad():
        return torch.cat([module(x) for x in data.x.split(500)])


def twins(retrain: bool) -> tuple[Network, Network]:
    """The float network and the binary one, from the cache where they are there."""
    torch.manual_seed(0)
    plain = Network()
    binary = copy.deepcopy(plain)
    paths = [CACHE / f"binary_network_{name}.safetensors" for name in ("float", "binary")]
    if not retrain and all(path.is_file() for path in paths):
        for module, path in zip((plain, binary), paths, strict=True):
            module.load_state_dict(load_file(path))
        return plain.eval(), binary.binarize("activations", "weights").eval()
    data = fashion_mnist.load("train")
    print("float twin", flush=True)
    train(plain, data, *STAGES[0])
    taught = logits_of(plain, data)
    binary.load_state_dict(plain.state_dict())
    print("binary activations", flush=True)
    train(binary.binarize("activations"), data, *STAGES[1], taught)
    print("binary activations and weights", flush=True)
    train(binary.binarize("activations", "weights"), data, *STAGES[2], taught)
    print("float twin, for as many epochs", flush=True)
    train(plain, data, *MORE)
    CACHE.mkdir(exist_ok=True)
    for module, path in zip((plain, binary), paths, strict=True):
        save_file(module.state_dict(), path)
    return plain, binary


def compiled(module: nn.Module, batch: int) -> Artifact:
    # Of thousands of signs, some are of numbers that rounding moves across zero: no test against PyTorch.
    graph = trace(module, (torch.zeros(batch, 1, 28, 28),), self_test=False)
    return compile(graph, target="cpu")


def weights_bytes(artifact: Artifact) -> int:
    return sum(literal.type.nbytes for literal in artifact.graph.constants())


def compare_networks(plain: Network, binary: Network, seconds: float, console: Console) -> None:
    test = fashion_mnist.load("t10k")
    table = Table("network", "accuracy %", "compiled, accuracy %", "weights, bytes", "one image, us")
    singles = {name: compiled(module, 1) for name, module in (("float", plain), ("binary", binary))}
    image = test.x[:1]
    timing = time_in_turn(
        {name: lambda a=a: a.run({"x": image}) for name, a in singles.items()},
        seconds=seconds,
        clock=time.thread_time,
    )
    scores = {}
    for name, module in (("float", plain), ("binary", binary)):
        batch = compiled(module, 500)
        scores[name] = 100 * accuracy(lambda x, a=batch: a.run({"x": x})["output"], test)
        table.add_row(
            name,
            f"{100 * accuracy(module, test):.2f}",
            f"{scores[name]:.2f}",
            str(weights_bytes(singles[name])),
            f"{timing[name].median * 1e6:.0f}",
        )
    console.print(table)
    console.print(f"accuracy lost by the binary network: {scores['float'] - scores['binary']:.2f} points")
    sizes = [weights_bytes(singles[name]) for name in ("float", "binary")]
    times = [timing[name].median for name in ("float", "binary")]
    console.print(
        f"weights {sizes[0] / sizes[1]:.1f} times smaller, network {times[0] / times[1]:.2f} times faster"
    )


def compare_convolutions(seconds: float, console: Console) -> None:
    """Bare kernels: f32 in and out against packed bits in and counts out."""
    isa = isas.host()
    table = Table("channels", "size", "f32, us", "binary, us", "f32 / binary", title=f"3 x 3, {isa.name}")
    rng = np.random.default_rng(0)
    for channels, size in SHAPES:
        shape = Conv(1, size, size, channels, channels, (3, 3), (1, 1), (1, 1, 1, 1))
        packed = replace(shape, channels=channels // 8)
        kernels = {"f32": conv2d(shape, isa), "binary": binary_conv(packed, isa)}
        library = compile_kernels(kernels, isa)
        pixels = size * size
        weight = rng.standard_normal((channels, channels, 3, 3), np.float32)
        bits = rng.integers(0, 256, (channels, 3, 3, channels // 8), np.uint8)
        arrays = {
            "f32": [
                rng.standard_normal(pixels * channels, np.float32),
                kernels["f32"].pack(weight),
                np.zeros(pixels * channels, np.float32),
            ],
            "binary": [
                rng.integers(0, 256, pixels * channels // 8, np.uint8),
                kernels["binary"].pack(bits),
                totals(packed, channels, bits),
                np.zeros(pixels * channels, np.int32),
            ],
        }
        timing = time_in_turn(
            {name: library[name].bind(*given) for name, given in arrays.items()},
            seconds=seconds,
            most=100_000,
            clock=time.thread_time,
        )
        f32, binary = (timing[name].median * 1e6 for name in ("f32", "binary"))
        table.add_row(str(channels), f"{size} x {size}", f"{f32:.1f}", f"{binary:.1f}", f"{f32 / binary:.1f}")
    console.print(table)


def fine_tune_lenet(images: int, console: Console) -> None:
    """The pass `binarize` on LeNet-5, and one epoch of training on the graph that it gives."""
    plain = graph_of(trained("lenet_5"))
    test = fashion_mnist.load("t10k")
    samples = samples_of(fashion_mnist.load("train").part(0, images))
    table = Table("LeNet-5", "as the pass leaves it, %", "after an epoch, %")
    table.add_row("float", f"{score(plain, test):.2f}", "")
    for name, pass_ in (
        ("binary weights", Binarize(activations=False)),
        ("ternary weights", Binarize(activations=False, weights="ternary")),
        ("binary weights and activations", Binarize(input_scale="none")),
    ):
        graph = pass_.run(plain)
        before = score(graph, test)
        module = GraphModule(graph)
        fit(module, samples, CrossEntropy(), epochs=1, rate=1e-3, batch=64, schedule="one_cycle")
        table.add_row(name, f"{before:.2f}", f"{score(module.to_graph(), test):.2f}")
    console.print(table)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--retrain", action="store_true", help="train again what is in the cache")
    options.add_argument("--seconds", type=float, default=3.0, help="time for each comparison of speeds")
    options.add_argument("--images", type=int, default=10_000, help="images of the fine-tuned LeNet-5")
    given = options.parse_args()
    torch.set_num_threads(1)
    console = Console()
    plain, binary = twins(given.retrain)
    compare_networks(plain, binary, given.seconds, console)
    compare_convolutions(given.seconds, console)
    fine_tune_lenet(given.images, console)


if __name__ == "__main__":
    main()
