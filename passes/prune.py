"""Sets the weights that matter least to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from hardy.compiler.cost import statistics
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph, Value
from hardy.compiler.notes import note
from hardy.compiler.pipeline import Pass
from hardy.passes.expected import as_target, note_expected
from hardy.passes.layers import Layer, layers, replace_weights, select
from hardy.passes.prune_channels import PruneChannels
from hardy.passes.scores import data_for, require_score, weight_scores
from hardy.passes.structures import CHANNELS, Structure, keep, parse_structure
from hardy.targets.target import Target


@dataclass(frozen=True)
class Prune(Pass):
    """Set the weights that matter least to zero: elements, N of M, blocks, or whole channels.

    sparsity: the share of zeros, 0..1; what N:M gives, else 0.5.
    structure: "element", "2:4" and the like along the input channels, "1x4" and the like (output by
        input channels), or "channels", which removes the share of the MACs with `prune_channels`. By
        default what the target runs fastest, "element" without a target.
    scope: "layer" prunes every layer alike, "global" by one threshold over all layers.
    score: "magnitude", "wanda" or "first_order"; see `hardy.passes.scores`.
    label: the name of the classes in the data, for first-order scores.
    calibration, samples: the data for scores, as `open_samples` takes it, and how many of its feeds to use.
    """

    exact: ClassVar[bool] = False

    sparsity: float | None = None
    structure: str | None = None
    scope: Literal["layer", "global"] = "layer"
    score: str = "magnitude"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    label: str = "label"
    calibration: object = None
    samples: int | None = None
    target: object = None

    def __post_init__(self) -> None:
        if self.sparsity is not None and not 0 <= self.sparsity <= 1:
            raise UsageError(f"the sparsity must lie in 0..1, got {self.sparsity}")
        if self.scope not in ("layer", "global"):
            raise UsageError(f"there is no scope {self.scope!r}", hint="there are layer and global")
        if self.structure not in (None, CHANNELS):
            self._share(parse_structure(self.structure))

    def run(self, graph: Graph) -> Graph:
        target = as_target(self.target)
        usable = target.describe().sparsity if target is not None else ()
        name = self.structure or next(iter(usable), "element")
        note("structure", name)
        if name == CHANNELS:
            return self._channels().run(graph)
        require_score(self.score, self.calibration)
        structure = parse_structure(name)
        chosen, refused = _fitting(select(layers(graph), self.only, self.skip), structure)
        masks = self._masks(graph, chosen, structure)
        new = {
            layer.weight: torch.where(masks[layer.weight], layer.data, 0.0)
            for layer in chosen
            if bool((layer.data[~masks[layer.weight]] != 0).any())
        }
        after = replace_weights(graph, new) if new else graph
        if refused:
            note("refused", refused)
        _report(graph, after, [layer.name for layer in chosen], target, name in usable)
        return after

    def _channels(self) -> PruneChannels:
        share = 0.5 if self.sparsity is None else self.sparsity
        return PruneChannels(
            macs=1 - share,
            score=self.score,
            only=self.only,
            skip=self.skip,
            label=self.label,
            calibration=self.calibration,
            samples=self.samples,
            target=self.target,
        )

    def _share(self, structure: Structure) -> float:
        given = structure.sparsity
        if given is None:
            return 0.5 if self.sparsity is None else self.sparsity
        if self.sparsity is not None and abs(self.sparsity - given) > 1e-6:
            raise UsageError(
                f"{self.structure} has a sparsity of {given:g}, not {self.sparsity:g}",
                hint="leave the option sparsity out",
            )
        return given

    def _masks(
        self, graph: Graph, chosen: Sequence[Layer], structure: Structure
    ) -> Mapping[Value, torch.Tensor]:
        """Which elements of each weight are kept."""
        distinct = list({layer.weight: layer for layer in chosen}.values())
        if not distinct:
            return {}
        data = data_for(graph, self.calibration, self.samples)
        scores = weight_scores(graph, chosen, self.score, data, self.label)
        ordered = [_matrix(layer, scores[layer.weight]) for layer in distinct]
        share = self._share(structure)
        if self.scope == "global":
            kept = keep(ordered, structure, share)
        else:
            kept = [mask for one in ordered for mask in keep([one], structure, share)]
        return {layer.weight: _restore(layer, k) for layer, k in zip(distinct, kept, strict=True)}


def _matrix(layer: Layer, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the weight's shape as [out, in, kernel positions]."""
    moved = tensor.movedim((layer.out_axis, layer.in_axis), (0, 1))
    return moved.reshape(*moved.shape[:2], -1)


def _restore(layer: Layer, matrix: torch.Tensor) -> torch.Tensor:
    """The inverse of `_matrix`."""
    shape = list(layer.weight.type.shape)
    kernel = [n for axis, n in enumerate(shape) if axis not in (layer.out_axis, layer.in_axis)]
    return matrix.reshape(*matrix.shape[:2], *kernel).movedim((0, 1), (layer.out_axis, layer.in_axis))


def _fitting(chosen: Sequence[Layer], structure: Structure) -> tuple[list[Layer], list[dict[str, Any]]]:
    """The layers that can have the structure, and the others with the reason."""
    fitting, refused = [], []
    for layer in chosen:
        out, inside, positions = _matrix(layer, layer.data).shape
        reason = structure.refuses((out, inside, positions))
        if reason:
            refused.append({"layer": layer.name, "reason": reason})
        else:
            fitting.append(layer)
    return fitting, refused


def _report(
    before: Graph, after: Graph, names: Sequence[str], target: Target | None, skips_zeros: bool
) -> None:
    """Note what became of each layer, and of the whole."""
    found = {layer.name: layer for layer in layers(after)}
    rows, done = [], {}
    for name in names:
        layer = found[name]
        share = _nonzero(layer)
        rows.append(
            {
                "layer": name,
                "zeros": 1 - share,
                "MACs": layer.macs,
                "without zeros": round(layer.macs * share),
            }
        )
        if skips_zeros:
            done[layer.node] = share
    if rows:
        note("layers", rows)
    (old_macs, old_bytes), (new_macs, new_bytes) = _without_zeros(before), _without_zeros(after)
    figures = {"MACs without zeros": (old_macs, new_macs), "bytes without zeros": (old_bytes, new_bytes)}
    note_expected(before, after, target, figures=figures, done=done)


def _nonzero(layer: Layer) -> float:
    """The share of a weight that is not zero."""
    return int(layer.data.count_nonzero()) / max(layer.data.numel(), 1)


def _without_zeros(graph: Graph) -> tuple[int, int]:
    """MACs and bytes of constants that are left when those of zero weights are not counted."""
    total = statistics(graph)
    found = list(layers(graph))
    macs = sum(layer.macs * (1 - _nonzero(layer)) for layer in found)
    distinct = {id(layer.weight.literal): layer for layer in found}.values()
    size = sum(layer.weight.type.nbytes * (1 - _nonzero(layer)) for layer in distinct)
    return round(total.macs - macs), round(total.bytes - size)
