"""The models that benchmarks run: architectures with random weights, and pretrained ones from packages."""

from __future__ import annotations

from collections.abc import Callable

from tests.models.zoo import ZOO, Model

MODELS: dict[str, Callable[[], Model]] = dict(ZOO)
