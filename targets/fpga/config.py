"""Configurations of VTA, the tensor accelerator: block size and buffers, and what follows from them.

A configuration is a hardware build. The instruction encoding, the depth of every buffer and the size of their
elements all follow from it (apache/tvm-vta, `config/vta_config.py`). Data types are fixed: 8-bit inputs,
weights and outputs, 32-bit accumulators and micro-ops.
"""

from __future__ import annotations

from dataclasses import dataclass

from hardy.compiler.errors import TargetError

WORD_BITS = 64
UOP_BITS = 32
SRAM_FIELD_BITS = 16
LOOP_BITS = 14


@dataclass(frozen=True)
class Config:
    """One build of the accelerator: log2 of the batch, of the block, and of each buffer's bytes.

    The multiplier array takes `batch` x `block` inputs and `block` x `block` weights a cycle. Raises
    TargetError for a build whose indices do not fit the instruction word (128 bits in two words of 64,
    micro-ops of 32).
    """

    name: str
    log_batch: int = 0
    log_block: int = 4
    log_uop_buffer: int = 15
    log_inp_buffer: int = 15
    log_wgt_buffer: int = 18
    log_acc_buffer: int = 17

    def __post_init__(self) -> None:
        if self.log_batch < 0 or self.log_block < 0:
            raise TargetError(f"configuration {self.name}: batch and block are at least 1")
        for buffer, depth in self._log_depths().items():
            if not 1 <= depth <= SRAM_FIELD_BITS:
                raise TargetError(
                    f"configuration {self.name}: the {buffer} buffer holds 2^{depth} elements; "
                    f"it must hold 2^1 to 2^{SRAM_FIELD_BITS}"
                )
        uop, inp, wgt, acc = self._log_depths().values()
        for what, bits, limit in (
            ("opcode, tokens, micro-op range and loop counts", 8 + 2 * uop + 1 + 2 * LOOP_BITS, WORD_BITS),
            ("the index factors of GEMM", 2 * (acc + inp + wgt), WORD_BITS),
            ("the index factors and operands of ALU", 4 * acc + 20, WORD_BITS),
            ("the indices of a micro-op", acc + max(acc, inp) + wgt, UOP_BITS),
        ):
            if bits > limit:
                raise TargetError(
                    f"configuration {self.name}: {what} need {bits} bits, there are {limit}",
                    hint="use smaller buffers or larger blocks",
                )

    def _log_depths(self) -> dict[str, int]:
        return {
            "micro-op": self.log_uop_depth,
            "input": self.log_inp_depth,
            "weight": self.log_wgt_depth,
            "accumulator": self.log_acc_depth,
        }

    @property
    def batch(self) -> int:
        """Rows of an input, accumulator and output element."""
        return 1 << self.log_batch

    @property
    def block(self) -> int:
        """Columns of an input, accumulator and output element; rows and columns of a weight element."""
        return 1 << self.log_block

    @property
    def log_uop_depth(self) -> int:
        return self.log_uop_buffer - 2

    @property
    def log_inp_depth(self) -> int:
        return self.log_inp_buffer - self.log_batch - self.log_block

    @property
    def log_wgt_depth(self) -> int:
        return self.log_wgt_buffer - 2 * self.log_block

    @property
    def log_acc_depth(self) -> int:
        return self.log_acc_buffer - self.log_batch - self.log_block - 2

    @property
    def uop_depth(self) -> int:
        """Micro-ops that the buffer holds."""
        return 1 << self.log_uop_depth

    @property
    def inp_depth(self) -> int:
        """Input elements that the buffer holds."""
        return 1 << self.log_inp_depth

    @property
    def wgt_depth(self) -> int:
        """Weight elements that the buffer holds."""
        return 1 << self.log_wgt_depth

    @property
    def acc_depth(self) -> int:
        """Accumulator elements that the buffer holds; the output buffer holds as many elements."""
        return 1 << self.log_acc_depth

    @property
    def uop_bytes(self) -> int:
        """Bytes of a micro-op."""
        return UOP_BITS // 8

    @property
    def inp_bytes(self) -> int:
        """Bytes of an input element: i8[batch, block]."""
        return self.batch * self.block

    @property
    def wgt_bytes(self) -> int:
        """Bytes of a weight element: i8[block out, block in]."""
        return self.block * self.block

    @property
    def acc_bytes(self) -> int:
        """Bytes of an accumulator element: i32[batch, block]."""
        return 4 * self.batch * self.block

    @property
    def out_bytes(self) -> int:
        """Bytes of an output element: i8[batch, block]."""
        return self.batch * self.block

    @property
    def bitstream(self) -> str:
        """The name under which builds of this configuration are published."""
        buffers = (self.log_uop_buffer, self.log_inp_buffer, self.log_wgt_buffer, self.log_acc_buffer)
        return f"{self.batch}x{self.block}_i8w8a32_{'_'.join(map(str, buffers))}"


# The three boards share VTA's published build; the others are small ones, for tests and small parts.
CONFIGS = {
    config.name: config
    for config in (
        Config("pynq-z1"),
        Config("ultra96"),
        Config("zcu104"),
        Config("1x4", 0, 2, log_uop_buffer=10, log_inp_buffer=10, log_wgt_buffer=11, log_acc_buffer=12),
        Config("1x8", 0, 3, log_uop_buffer=12, log_inp_buffer=12, log_wgt_buffer=14, log_acc_buffer=14),
        Config("2x8", 1, 3, log_uop_buffer=12, log_inp_buffer=13, log_wgt_buffer=14, log_acc_buffer=15),
    )
}


def find_config(name: str) -> Config:
    """The configuration of a name; TargetError lists those that exist."""
    try:
        return CONFIGS[name]
    except KeyError:
        raise TargetError(
            f"no configuration is called {name!r}", hint=f"use one of {', '.join(CONFIGS)}"
        ) from None
