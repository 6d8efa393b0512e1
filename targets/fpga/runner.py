"""Runs a packaged program for VTA on the functional simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.lower.layer import from_bytes
from hardy.targets.fpga.lower.layout import pack_activation, packed_shape, unpack_activation
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
        self._inputs: Sequence[Mapping[str, Any]] = part.manifest["inputs"]
        self._outputs: Sequence[Mapping[str, Any]] = part.manifest["outputs"]
        self._ranks = [v.type.rank for v in part.graph.outputs]

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        image = self._dram.copy()
        for place, tensor in zip(self._inputs, inputs, strict=True):
            raw = pack_activation(to_picture(tensor.numpy()), self._config).view(np.uint8).ravel()
            image[place["offset"] : place["offset"] + raw.size] = raw
        after = simulate(self._code, image, self._config)
        results = []
        for place, rank in zip(self._outputs, self._ranks, strict=True):
            n, c, rows, columns = place["shape"]
            packed = packed_shape((n, c, rows, columns), self._config)
            raw = after[place["offset"] : place["offset"] + int(np.prod(packed))]
            picture = unpack_activation(raw.view(np.int8).reshape(packed), (n, c, rows, columns))
            if place["wide"]:
                picture = from_bytes(picture)
            results.append(torch.from_numpy(from_picture(picture, rank).copy()))
        return tuple(results)
