"""Runs a packaged program for VTA on the functional simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.lower.layer import from_bytes
from hardy.targets.fpga.lower.layout import Region
from hardy.targets.fpga.package import DRAM, INSTRUCTIONS
from hardy.targets.fpga.pictures import from_picture, to_picture
from hardy.targets.fpga.simulator import simulate
from hardy.targets.target import Loaded


class VtaRunner:
    """The files of a stage, run by the simulator, which reads just what a board would read."""

    def __init__(self, part: Loaded, config: Config) -> None:
        self._config = config
        self._code = (part.folder / INSTRUCTIONS).read_bytes()
        self._dram = np.fromfile(part.folder / DRAM, np.uint8)
        self._inputs = [_region(place) for place in part.manifest["inputs"]]
        self._outputs = [
            (_region(place), place["wide"], value.type.rank)
            for place, value in zip(part.manifest["outputs"], part.graph.outputs, strict=True)
        ]

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        image = self._dram.copy()
        for region, tensor in zip(self._inputs, inputs, strict=True):
            region.write(image, to_picture(tensor.numpy()), self._config)
        after = simulate(self._code, image, self._config)
        results = []
        for region, wide, rank in self._outputs:
            stored = region.read(after, self._config)
            picture = from_bytes(stored) if wide else stored
            results.append(torch.from_numpy(from_picture(picture, rank).copy()))
        return tuple(results)


def _region(place: Mapping[str, Any]) -> Region:
    n, c, rows, columns = place["shape"]
    return Region(place["offset"], (n, c, rows, columns))
