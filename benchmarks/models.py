"""The models that benchmarks run: architectures with random weights, and pretrained ones from packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from examples.models import crepe, efficientnet_lite0, minilm, smollm2
from tests.models.zoo import ZOO

Loaded = tuple[nn.Module, tuple[Tensor, ...] | Mapping[str, Tensor]]

MODELS: dict[str, Callable[[], Loaded]] = {
    **{name: lambda build=build: build(False) for name, build in ZOO.items()},
    "minilm": minilm.load,
    "efficientnet_lite0": efficientnet_lite0.load,
    "crepe": crepe.load_full,
    "smollm2": smollm2.load,
}
