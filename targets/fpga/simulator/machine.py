"""The accelerator's state: its buffers and the DRAM, and what each instruction does to them.

Every access is checked against what the schedule knows to be done: reading what was never written, or what
another queue may still write or read, is refused, since the result would depend on the timing.
"""

from __future__ import annotations

from math import gcd
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.elements import element_bytes
from hardy.targets.fpga.isa import Alu, AluOpcode, Buffer, Gemm, Load, Store, layouts
from hardy.targets.fpga.queues import Queue, queue_of
from hardy.targets.fpga.schedule import Clock
from hardy.targets.fpga.simulator.hazards import too_close
from hardy.targets.fpga.simulator.kernels import Kernels, Operation, Param, State
from hardy.targets.fpga.simulator.rules import MAX_SHIFT

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int32]
T = TypeVar("T", bound=np.generic)


class AccessError(Exception):
    """What an instruction did that it may not; `simulate` says which instruction it was."""


class OverlapError(AccessError):
    """An access that no token orders after that of the instruction at `position` of `queue`."""

    def __init__(self, message: str, queue: Queue, position: int) -> None:
        super().__init__(message)
        self.queue = queue
        self.position = position


class Stamps:
    """Who wrote and read each element last, by place in its queue; 0 for nobody."""

    def __init__(self, size: int) -> None:
        self.written: Ints = np.zeros(size, np.int32)
        self.read: Ints = np.zeros(size, np.int32)


class Machine:
    """Buffers and DRAM. `load`, `store`, `gemm` and `alu` run one instruction each, or raise AccessError.

    `clock` is how many instructions of each queue are known to be done, `position` the instruction's own
    place in its queue. The fields of the instruction were checked before (`rules.complaint`).
    """

    def __init__(self, config: Config, dram: Bytes, kernels: Kernels, spacing: int) -> None:
        self.dram = dram
        self._spacing = spacing
        self._config = config
        self._geometry = g = kernels.geometry
        self._inp = np.zeros((config.inp_depth, config.batch, g.depth), g.dot.x_dtype)
        self._wgt = np.zeros((config.wgt_depth, g.depth // g.dot.group, g.block, g.dot.group), g.dot.w_dtype)
        self._correction = np.zeros((config.wgt_depth, g.block), np.int32)
        self._acc = np.zeros((config.acc_depth, config.batch, config.block), np.int32)
        self._acc_state = np.zeros(config.acc_depth, np.int32)
        self._uops = np.zeros((config.uop_depth, 3), np.int32)
        self._uop_loaded = np.zeros(config.uop_depth, np.bool_)
        self._largest: dict[tuple[int, int], tuple[int, ...]] = {}
        self._stamps = {
            Buffer.INP: Stamps(config.inp_depth),
            Buffer.WGT: Stamps(config.wgt_depth),
            Buffer.OUT: Stamps(config.acc_depth),
        }
        # DRAM in granules that no element divides; every queue reads it, the store queue alone writes.
        self._granule = gcd(config.uop_bytes, config.out_bytes)
        granules = -(-dram.size // self._granule)
        self._dram_written: Ints = np.zeros(granules, np.int32)
        self._dram_read: dict[Queue, Ints] = {
            queue: np.zeros(granules, np.int32) for queue in (Queue.LOAD, Queue.COMPUTE)
        }
        self._params = np.zeros(len(Param), np.int32)
        inp, wgt, out = (self._stamps[b] for b in (Buffer.INP, Buffer.WGT, Buffer.OUT))
        sums = (self._acc, self._acc_state, out.read, out.written)
        operands = (self._inp, self._wgt, self._correction, inp.written, inp.read, wgt.written, wgt.read)
        self._run = kernels.compiled.bind(self._params, self._uops, *sums, *operands)

    def load(self, i: Load, clock: Clock, position: int) -> None:
        """DRAM to a buffer."""
        if i.x_size == 0:
            return
        queue, buffer = queue_of(i), i.buffer
        if i.y_size:
            written = self._granules(self._dram_written, i, buffer)
            _ordered(written, clock, Queue.STORE, "reads DRAM")
            self._granules(self._dram_read[queue], i, buffer)[...] = position
        place = slice(i.sram, i.sram + i.width * i.height)
        if buffer == Buffer.UOP:
            self._load_uops(i, place)
        elif buffer == Buffer.ACC:
            stamps = self._stamps[Buffer.OUT]
            _ordered(stamps.read[place], clock, Queue.STORE, "overwrites ACC elements")
            self._acc[place] = self._padded(i).view("<i4").reshape(-1, *self._acc.shape[1:])
            self._acc_state[place] = State.WRITTEN
            stamps.written[place] = position
        else:
            stamps = self._stamps[buffer]
            _ordered(stamps.read[place], clock, Queue.COMPUTE, f"overwrites {buffer.name} elements")
            elements = self._padded(i).view(np.int8)
            (self._load_inputs if buffer == Buffer.INP else self._load_weights)(place, elements)
            stamps.written[place] = position

    def _load_inputs(self, place: slice, elements: NDArray[np.int8]) -> None:
        c = self._config
        values = elements.reshape(-1, c.batch, c.block)
        self._inp[place, :, : c.block] = values.astype(np.int16) + self._geometry.dot.shift

    def _load_weights(self, place: slice, elements: NDArray[np.int8]) -> None:
        g = self._geometry
        tiles = elements.reshape(-1, g.block, g.block)
        if g.depth != g.block:
            tiles = np.pad(tiles, ((0, 0), (0, 0), (0, g.depth - g.block)))
        grouped = tiles.reshape(-1, g.block, g.depth // g.dot.group, g.dot.group)
        self._wgt[place] = grouped.transpose(0, 2, 1, 3)
        if g.dot.shift:
            self._correction[place] = tiles.sum(2, dtype=np.int32) * -g.dot.shift

    def _load_uops(self, i: Load, place: slice) -> None:
        words = self._padded(i).view("<u4").reshape(-1)
        for column, field in enumerate(layouts(self._config).uop):
            self._uops[place, column] = words >> field.low & field.mask
        self._uop_loaded[place] = True
        self._largest.clear()

    def _padded(self, i: Load) -> Bytes:
        """The window as bytes [elements, bytes of an element], zeros around it."""
        size = element_bytes(i.buffer, self._config)
        rows = _window(self.dram, i.dram * size, i.y_size, i.x_size * size, i.stride * size)
        if not any(i.x_pad + i.y_pad):
            return np.ascontiguousarray(rows).reshape(-1, size)
        whole = np.zeros((i.height, i.width * size), np.uint8)
        left = i.x_pad[0] * size
        whole[i.y_pad[0] : i.y_pad[0] + i.y_size, left : left + i.x_size * size] = rows
        return whole.reshape(-1, size)

    def _granules(self, stamps: Ints, i: Load | Store, buffer: Buffer) -> Ints:
        """The stamps of the DRAM that a load or store touches."""
        unit = element_bytes(buffer, self._config) // self._granule
        return _window(stamps, i.dram * unit, i.y_size, i.x_size * unit, i.stride * unit)

    def store(self, i: Store, clock: Clock, position: int) -> None:
        """Low bytes of ACC to DRAM."""
        if i.x_size == 0 or i.y_size == 0:
            return
        place = slice(i.sram, i.sram + i.x_size * i.y_size)
        stamps = self._stamps[Buffer.OUT]
        _ordered(stamps.written[place], clock, Queue.COMPUTE, "stores elements")
        if not np.all(state := self._acc_state[place] == State.STORABLE):
            first = i.sram + int(np.argmin(state))
            raise AccessError(
                f"the last writer of element {first} is no ALU operation and no GEMM without reset"
            )
        stamps.read[place] = position
        for queue, read in self._dram_read.items():
            _ordered(self._granules(read, i, Buffer.OUT), clock, queue, "overwrites DRAM")
        self._granules(self._dram_written, i, Buffer.OUT)[...] = position
        size = self._config.out_bytes
        low = self._acc[place].view(np.uint8)[..., ::4].reshape(i.y_size, i.x_size * size)
        target = _window(self.dram, i.dram * size, i.y_size, i.x_size * size, i.stride * size)
        if i.stride >= i.x_size:
            target[...] = low
        else:  # rows overlap: the later one stays
            for row in range(i.y_size):
                target[row] = low[row]

    def gemm(self, i: Gemm, clock: Clock, position: int) -> None:
        """Products into ACC, or zeros."""
        limits = [("ACC", i.dst, self._config.acc_depth)]
        if not i.reset:
            limits += [("INP", i.src, self._config.inp_depth), ("WGT", i.wgt, self._config.wgt_depth)]
        self._check_indices(i, limits)
        self._execute(Operation.RESET if i.reset else Operation.GEMM, i, i.wgt, 0, clock, position)

    def alu(self, i: Alu, clock: Clock, position: int) -> None:
        """Elementwise operations on ACC."""
        limits = [("ACC", i.dst, self._config.acc_depth)]
        if i.imm is None:
            limits.append(("ACC", i.src, self._config.acc_depth))
        self._check_indices(i, limits)
        imm, name = i.imm or 0, i.opcode.name
        if i.opcode == AluOpcode.SHR and imm < 0:
            name, imm = "SHL", -imm
        operation = Operation[f"{name}_{'TENSOR' if i.imm is None else 'IMM'}"]
        self._execute(operation, i, (0, 0), imm, clock, position)

    def _check_indices(self, i: Gemm | Alu, limits: list[tuple[str, tuple[int, int], int]]) -> None:
        """AccessError where a micro-op was never loaded, or where the loops take an index past its buffer."""
        begin, end = i.uops
        if i.uops not in self._largest:
            if not self._uop_loaded[begin:end].all():
                missing = begin + int(np.argmin(self._uop_loaded[begin:end]))
                raise AccessError(f"micro-op {missing} was never loaded")
            self._largest[i.uops] = tuple(self._uops[begin:end].max(axis=0).tolist())
        largest = self._largest[i.uops]
        for value, (buffer, (outer, inner), size) in zip(largest, limits, strict=False):
            last = value + (i.loops[0] - 1) * outer + (i.loops[1] - 1) * inner
            if last >= size:
                raise AccessError(f"{buffer} element {last} of a buffer of {size}")
        if self._spacing > 1 and (element := too_close(i, self._uops, self._spacing)) is not None:
            raise AccessError(f"ACC element {element} is used again within {self._spacing} micro-ops")

    def _execute(
        self, operation: Operation, i: Gemm | Alu, wgt: tuple[int, int], imm: int, clock: Clock, position: int
    ) -> None:
        begin, end = i.uops
        head = (operation, begin, end - begin, *i.loops, *i.dst, *i.src, *wgt, imm)
        self._params[:] = (*head, clock[Queue.LOAD], clock[Queue.STORE], position, 0, 0, 0, 0)
        before = self._acc_state.copy()
        self._run()
        if self._params[Param.FAULT]:
            self._explain(i, clock, before)

    def _explain(self, i: Gemm | Alu, clock: Clock, before: Ints) -> None:
        """Raises the AccessError of the first micro-op that touched what it may not."""
        outer, inner, number = (int(self._params[p]) for p in list(Param)[-3:])
        factors = (i.dst, i.src, i.wgt if isinstance(i, Gemm) else (0, 0))
        dst, src, wgt = (
            int(index) + outer * f[0] + inner * f[1]
            for index, f in zip(self._uops[number], factors, strict=True)
        )
        out = self._stamps[Buffer.OUT]
        _ordered(out.read[dst : dst + 1], clock, Queue.STORE, f"overwrites ACC element {dst}")
        if isinstance(i, Gemm):
            for buffer, index in ((Buffer.INP, src), (Buffer.WGT, wgt)):
                written = self._stamps[buffer].written[index : index + 1]
                if not written[0]:
                    raise AccessError(f"{buffer.name} element {index} is not loaded by then")
                _ordered(written, clock, Queue.LOAD, f"reads {buffer.name} element {index}")
        elif i.imm is None:
            if i.opcode == AluOpcode.SHR and before[dst] and before[src]:
                raise AccessError(f"a shift by ACC element {src}, which has values outside 0 to {MAX_SHIFT}")
            if not before[src]:
                raise AccessError(f"ACC element {src} was never written")
        raise AccessError(f"ACC element {dst} was never written")


def _ordered(stamps: Ints, clock: Clock, queue: Queue, what: str) -> None:
    """OverlapError where an instruction that touched the elements is not known to be done."""
    last = int(stamps.max(initial=0))
    if last > clock[queue]:
        raise OverlapError(what, queue, last)


def _window(data: NDArray[T], start: int, rows: int, width: int, stride: int) -> NDArray[T]:
    """A writable view [rows, width] of a line of data; the caller has checked its bounds."""
    if rows <= 1 or stride == width:
        return data[start : start + rows * width].reshape(rows, width)
    part = data[start : start + (rows - 1) * stride + width]
    return as_strided(part, (rows, width), (stride * data.itemsize, data.itemsize))
