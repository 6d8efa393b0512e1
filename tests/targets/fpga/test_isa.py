"""Instructions and their encoding: the published layout, any configuration, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.config import CONFIGS, Config, find_config
from hardy.targets.fpga.isa import (
    Alu,
    AluOpcode,
    Buffer,
    Finish,
    Gemm,
    Instruction,
    Layout,
    Load,
    ProgramError,
    Store,
    Tokens,
    Uop,
    decode,
    decode_uops,
    encode,
    encode_uops,
    layouts,
)

PYNQ = find_config("pynq-z1")

# clip((A . B^T + bias) >> 6) of a 1 x 32 by 16 x 32 product; INP lies at 0x2000, WGT at 0x3000, ACC at
# 0x4000, OUT at 0x5000 and the micro-ops at 0x6000. The words are what VTA's own simulator and C simulation
# take.
GOLDEN: tuple[tuple[Instruction, str], ...] = (
    (Load(Buffer.UOP, 0, 0x6000 // 4, 3), "0000000060000000 0100030003000000"),
    (Load(Buffer.ACC, 5, 0x4000 // 64, 1), "8015000004000000 0100010001000000"),
    (Load(Buffer.INP, 0, 0x2000 // 16, 2), "0001000008000000 0100020002000000"),
    (
        Load(Buffer.WGT, 0, 0x3000 // 256, 2, tokens=Tokens(push_next=True)),
        "c00000c000000000 0100020002000000",
    ),
    (Gemm((0, 2), tokens=Tokens(pop_prev=True)), "0a00400008000200 0000000000000000"),
    (Alu(AluOpcode.SHR, (2, 3), imm=6), "0402600008000200 0000000000b00600"),
    (Alu(AluOpcode.MAX, (2, 3), imm=-128), "0402600008000200 00000000009080ff"),
    (
        Alu(AluOpcode.MIN, (2, 3), imm=127, tokens=Tokens(push_next=True)),
        "4402600008000200 0000000000807f00",
    ),
    (
        Store(5, 0x5000 // 16, 1, tokens=Tokens(pop_prev=True, push_prev=True)),
        "2916000014000000 0100010001000000",
    ),
    (Finish(Tokens(pop_next=True)), "1300000000000000 0000000000000000"),
)


@pytest.mark.parametrize(("instruction", "words"), GOLDEN, ids=lambda v: type(v).__name__)
def test_an_instruction_has_the_published_encoding(instruction: Instruction, words: str) -> None:
    assert encode([instruction], PYNQ).hex() == words.replace(" ", "")
    assert decode(bytes.fromhex(words), PYNQ) == (instruction,)


def test_a_microop_has_the_published_encoding() -> None:
    uops = Uop(5, 0, 0), Uop(5, 1, 1), Uop(5, 5, 0)
    assert encode_uops(uops, PYNQ).hex() == "050000000508400005280000"


def test_the_published_layout_of_the_boards() -> None:
    def low_bits(layout: Layout) -> dict[str, tuple[int, int]]:
        return {f.name: (f.low, f.width) for f in layout[5:]}

    loops = {
        "reset": (7, 1),
        "uop_begin": (8, 13),
        "uop_end": (21, 14),
        "loop_out": (35, 14),
        "loop_in": (49, 14),
        "dst_out": (64, 11),
        "dst_in": (75, 11),
        "src_out": (86, 11),
        "src_in": (97, 11),
    }
    assert low_bits(layouts(PYNQ).gemm) == {**loops, "wgt_out": (108, 10), "wgt_in": (118, 10)}
    assert low_bits(layouts(PYNQ).alu) == {
        **loops,
        "alu_opcode": (108, 3),
        "use_imm": (111, 1),
        "imm": (112, 16),
    }


def test_a_factor_slides_into_the_low_word_where_it_fits() -> None:
    fields = {f.name: f.low for f in layouts(find_config("1x4")).gemm}
    assert (fields["dst_out"], fields["dst_in"]) == (53, 64)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    batch, block = draw(st.integers(0, 2)), draw(st.integers(1, 5))
    uop, acc = draw(st.integers(1, 13)), draw(st.integers(1, 11))
    inp = draw(st.integers(1, 11))
    wgt = draw(st.integers(1, min(16, 32 - acc - max(acc, inp))))
    return Config(
        "drawn", batch, block, uop + 2, inp + batch + block, wgt + 2 * block, acc + batch + block + 2
    )


@st.composite
def programs(draw: st.DrawFn) -> tuple[Config, list[Instruction]]:
    config = draw(configs())
    table = layouts(config)

    def values(layout: Layout) -> dict[str, int]:
        return {f.name: draw(st.integers(f.least, f.greatest)) for f in layout}

    def pair(v: dict[str, int], name: str, ends: tuple[str, str] = ("out", "in")) -> tuple[int, int]:
        return v[f"{name}_{ends[0]}"], v[f"{name}_{ends[1]}"]

    def instruction() -> Instruction:
        tokens = Tokens(*draw(st.tuples(*[st.booleans()] * 4)))
        kind = draw(st.sampled_from(("load", "store", "gemm", "alu", "finish")))
        if kind in ("load", "store"):
            v = values(table.memory)
            place: Any = {k: v[k] for k in ("sram", "dram", "x_size", "y_size", "x_stride")}
            if kind == "store":
                return Store(**place, tokens=tokens)
            buffer = draw(st.sampled_from([b for b in Buffer if b != Buffer.OUT]))
            pads = {f"{axis}_pad": pair(v, f"{axis}_pad", ("before", "after")) for axis in "xy"}
            return Load(buffer, **place, **pads, tokens=tokens)
        if kind == "finish":
            return Finish(tokens)
        v = values(table.gemm if kind == "gemm" else table.alu)
        loops: Any = {
            "uops": pair(v, "uop", ("begin", "end")),
            "loops": pair(v, "loop"),
            "dst": pair(v, "dst"),
            "src": pair(v, "src"),
            "tokens": tokens,
        }
        if kind == "gemm":
            return Gemm(**loops, wgt=pair(v, "wgt"), reset=bool(v["reset"]))
        opcode = draw(st.sampled_from(AluOpcode))
        return Alu(opcode, **loops, imm=v["imm"] if v["use_imm"] else None)

    return config, [instruction() for _ in range(draw(st.integers(0, 4)))]


@given(programs())
def test_what_is_encoded_decodes_to_itself_in_any_configuration(
    drawn: tuple[Config, list[Instruction]],
) -> None:
    config, instructions = drawn
    assert list(decode(encode(instructions, config), config)) == instructions


@given(st.data())
def test_microops_decode_to_themselves(data: st.DataObject) -> None:
    config = data.draw(configs())
    dst, src, wgt = (st.integers(f.least, f.greatest) for f in layouts(config).uop)
    uops = data.draw(st.lists(st.builds(Uop, dst, src, wgt)))
    assert list(decode_uops(encode_uops(uops, config), config)) == uops


@given(configs())
def test_fields_do_not_overlap_nor_cross_a_word(config: Config) -> None:
    table = layouts(config)
    for layout, size in ((table.memory, 128), (table.gemm, 128), (table.alu, 128), (table.uop, 32)):
        taken = [bit for f in layout for bit in range(f.low, f.low + f.width)]
        assert len(taken) == len(set(taken))
        assert max(taken) < size
        assert all(f.low // 64 == (f.low + f.width - 1) // 64 for f in layout)


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        (Load(Buffer.INP, 1 << 16, 0, 1), "sram is 65536; it takes 0 to 65535"),
        (Load(Buffer.INP, 0, -1, 1), "dram is -1; it takes 0 to 4294967295"),
        (Load(Buffer.INP, 0, 0, 1, x_pad=(0, 16)), "x_pad_after is 16; it takes 0 to 15"),
        (Gemm((0, 1), loops=(1 << 14, 1)), "loop_out is 16384; it takes 0 to 16383"),
        (Gemm((0, 1), dst=(0, 2048)), "dst_in is 2048; it takes 0 to 2047"),
        (Alu(AluOpcode.ADD, (0, 1), imm=1 << 15), "imm is 32768; it takes -32768 to 32767"),
    ],
)
def test_a_value_that_its_field_cannot_hold_is_refused(instruction: Instruction, said: str) -> None:
    with pytest.raises(ProgramError) as caught:
        encode([Finish(), instruction], PYNQ)
    assert said in caught.value.message
    assert f"instruction 1, {type(instruction).__name__}" in caught.value.where


def test_a_microop_past_its_field_is_refused() -> None:
    with pytest.raises(ProgramError, match="wgt is 1024; it takes 0 to 1023"):
        encode_uops([Uop(0, 0, 1024)], PYNQ)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (b"\x05" + bytes(15), "there is no opcode 5"),
        (bytes([0, 3]) + bytes(14), "LOAD of memory type 6"),
        (bytes([1, 1]) + bytes(14), "STORE of memory type 2"),
        (b"\x04" + bytes(12) + b"\x70" + bytes(2), "there is no ALU operation 7"),
        (b"\x00", "multiple of 16 bytes"),
    ],
)
def test_words_that_are_no_instruction_are_refused(word: bytes, said: str) -> None:
    with pytest.raises(ProgramError, match=said):
        decode(word, PYNQ)


def test_bits_of_no_field_are_ignored_as_the_hardware_does() -> None:
    word = bytearray(encode([Finish()], PYNQ))
    word[8:] = b"\xff" * 8
    assert decode(bytes(word), PYNQ) == (Finish(),)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"log_uop_buffer": 16}, "loop counts need 65 bits, there are 64"),
        ({"log_wgt_buffer": 19}, "factors of GEMM need 66 bits, there are 64"),
        ({"log_acc_buffer": 18, "log_wgt_buffer": 16}, "operands of ALU need 68 bits, there are 64"),
        ({"log_inp_buffer": 14, "log_wgt_buffer": 19}, "indices of a micro-op need 33 bits, there are 32"),
        ({"log_uop_buffer": 2}, "micro-op buffer holds 2^0 elements"),
    ],
)
def test_a_configuration_that_outgrows_the_instruction_word_is_refused(
    change: dict[str, int], said: str
) -> None:
    with pytest.raises(TargetError) as caught:
        dataclasses.replace(PYNQ, name="large", **change)
    assert said in caught.value.message


def test_the_boards_have_the_published_sizes() -> None:
    sizes = (PYNQ.uop_depth, PYNQ.wgt_depth, PYNQ.inp_depth, PYNQ.acc_depth)
    assert sizes == (8192, 1024, 2048, 2048)
    elements = (PYNQ.uop_bytes, PYNQ.wgt_bytes, PYNQ.inp_bytes, PYNQ.acc_bytes, PYNQ.out_bytes)
    assert elements == (4, 256, 16, 64, 16)
    assert PYNQ.bitstream == "1x16_i8w8a32_15_15_18_17"


def test_a_configuration_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(TargetError) as caught:
        find_config("pynq-z3")
    assert all(name in caught.value.hint for name in CONFIGS)
