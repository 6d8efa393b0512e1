"""Why no accelerator fits: what is missing, who takes it, and what would help."""

from __future__ import annotations

from collections.abc import Sequence

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.board import Board
from hardy.targets.fpga.dataflow.balance import balance
from hardy.targets.fpga.dataflow.folding import Option
from hardy.targets.fpga.dataflow.layers import Layer
from hardy.targets.fpga.dataflow.resources import Resources, block_rams

NAMES = ("LUTs", "flip-flops", "DSP slices", "block RAMs of 18 Kbit")


def too_slow(
    choices: Sequence[Sequence[Option]], budget: Resources, board: Board, interval: int, clock: float
) -> TargetError:
    """The rate that was asked for cannot be reached."""
    best = balance(choices, budget)
    assert best is not None
    fastest = max(o.cycles for o in best)
    return TargetError(
        f"{board.name} does not reach {clock * 1e6 / interval:,.0f} frames a second at {clock:g} MHz: an "
        f"interval of {interval} cycles is needed, the least that fits is estimated at {fastest}",
        hint=f"at most {clock * 1e6 / fastest:,.0f} frames a second, fewer bits, or a larger board",
    )


def too_large(
    layers: Sequence[Layer],
    choices: Sequence[Sequence[Option]],
    budget: Resources,
    board: Board,
    around: Resources,
) -> TargetError:
    """Not even the slowest folding fits: which resource, which layers, and how few bits would do."""
    least = [_least(options, budget) for options in choices]
    total = Resources()
    for option in least:
        total += option.resources
    over = [
        f"{mine:,} of {theirs:,} {name}"
        for mine, theirs, name in zip(total.amounts, budget.amounts, NAMES, strict=True)
        if mine > theirs
    ]
    largest = sorted(zip(layers, least, strict=True), key=lambda p: -p[1].resources.share(budget))[:3]
    shares = ", ".join(f"{layer.name} ({o.resources.share(budget):.0%})" for layer, o in largest)
    reserved = (
        f" (after {around.lut:,} LUTs and {around.bram} block RAMs for FIFOs and ports)" if around.lut else ""
    )
    return TargetError(
        f"the network does not fit {board.name}: even folded the most it is estimated to take "
        f"{'; '.join(over) or 'more together than each alone'}{reserved}",
        where=f"the largest layers: {shares}",
        hint=_help(layers, budget),
    )


def _least(options: Sequence[Option], budget: Resources) -> Option:
    return min(options, key=lambda o: o.resources.share(budget))


def _help(layers: Sequence[Layer], budget: Resources) -> str:
    """Whether weights of fewer bits would fit in the block RAMs."""
    weights = [(layer.weights, layer.w.bits) for layer in layers if layer.weights is not None]
    now = max((bits for _, bits in weights), default=0)
    for bits in (4, 2, 1):
        blocks = sum(block_rams(w.size, min(bits, own)) for w, own in weights)
        if bits < now and blocks <= budget.bram:
            plural = "s" if bits > 1 else ""
            return f"weights of {bits} bit{plural}: they take about {blocks} of {budget.bram} block RAMs"
    return "a larger board, or a smaller network: not even weights of one bit fit on the chip"
