"""The three queues that run instructions, and the channels whose tokens order them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from hardy.targets.fpga.isa import Buffer, Instruction, Load, ProgramError, Store

# What every implementation holds: a command queue of the HLS and Chisel builds, a token counter of Chisel.
COMMAND_DEPTH = 512
TOKEN_DEPTH = 255


class Queue(IntEnum):
    """The units that run instructions, each in its order, beside one another."""

    LOAD = 0
    COMPUTE = 1
    STORE = 2


class Channel(IntEnum):
    """The token FIFOs between neighbouring queues; all are empty at the start."""

    LOAD_TO_COMPUTE = 0
    COMPUTE_TO_LOAD = 1
    COMPUTE_TO_STORE = 2
    STORE_TO_COMPUTE = 3

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


PRODUCER = (Queue.LOAD, Queue.COMPUTE, Queue.COMPUTE, Queue.STORE)
CONSUMER = (Queue.COMPUTE, Queue.LOAD, Queue.STORE, Queue.COMPUTE)

# What the bits mean for each queue: pop from previous and next, push to previous and next.
_MEANING: dict[Queue, tuple[Channel | None, ...]] = {
    Queue.LOAD: (None, Channel.COMPUTE_TO_LOAD, None, Channel.LOAD_TO_COMPUTE),
    Queue.COMPUTE: (
        Channel.LOAD_TO_COMPUTE,
        Channel.STORE_TO_COMPUTE,
        Channel.COMPUTE_TO_LOAD,
        Channel.COMPUTE_TO_STORE,
    ),
    Queue.STORE: (Channel.COMPUTE_TO_STORE, None, Channel.STORE_TO_COMPUTE, None),
}


@dataclass(frozen=True, slots=True)
class Links:
    """Where an instruction runs, and the channels it takes a token from before and sends one to after."""

    queue: Queue
    pops: tuple[Channel, ...]
    pushes: tuple[Channel, ...]


def queue_of(instruction: Instruction) -> Queue:
    """The queue that runs the instruction."""
    if isinstance(instruction, Store):
        return Queue.STORE
    if isinstance(instruction, Load) and instruction.buffer in (Buffer.INP, Buffer.WGT):
        return Queue.LOAD
    return Queue.COMPUTE


def links(number: int, instruction: Instruction) -> Links:
    """The queue and channels of an instruction; ProgramError where a token bit has no channel behind it."""
    queue, t = queue_of(instruction), instruction.tokens
    key = queue, t.pop_prev, t.pop_next, t.push_prev, t.push_next
    found = _LINKS.get(key)
    if found is None:
        raise ProgramError(
            f"the {queue.name.lower()} queue has no {'next' if queue == Queue.STORE else 'previous'} queue "
            "to exchange tokens with",
            where=f"instruction {number}, {instruction}",
        )
    return found


def _all_links() -> dict[tuple[Queue, bool, bool, bool, bool], Links]:
    table = {}
    for queue, meaning in _MEANING.items():
        for bits in range(16):
            flags = tuple(bool(bits >> n & 1) for n in range(4))
            if any(flag and channel is None for flag, channel in zip(flags, meaning, strict=True)):
                continue
            taken = [c for flag, c in zip(flags[:2], meaning[:2], strict=True) if flag and c is not None]
            sent = [c for flag, c in zip(flags[2:], meaning[2:], strict=True) if flag and c is not None]
            a, b, c, d = flags
            table[queue, a, b, c, d] = Links(queue, tuple(taken), tuple(sent))
    return table


_LINKS = _all_links()
