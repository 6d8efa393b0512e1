"""The generated files: decoding, pragmas, scripts and the driver."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardy.compiler.errors import TargetError
from hardy.targets.fpga import simulate
from hardy.targets.fpga.board import BOARDS, find_board
from hardy.targets.fpga.config import CONFIGS, Config, find_config
from hardy.targets.fpga.dataflow.simulation import ap_int_headers
from hardy.targets.fpga.hls import generate, simulate_hls
from hardy.targets.fpga.hls.csim import AP_WARNINGS, WARNINGS, compile_cached, compiler
from hardy.targets.fpga.hls.generate import CSIM_SOURCE, cpp_files
from hardy.targets.fpga.hls.registers import MODULES, PAGE_BYTES, REGISTERS, offset
from hardy.targets.fpga.isa import encode, layouts
from tests.targets.fpga.hls.vectors import product

PYNQ_BOARD = find_board("pynq-z1")
SMALL = find_config("1x4")
HERE = Path(__file__).parent


def text(config: Config, path: str) -> str:
    return generate(config, PYNQ_BOARD)[path].decode()


def test_the_files_are_the_same_whenever_they_are_generated() -> None:
    assert dict(generate(SMALL, PYNQ_BOARD)) == dict(generate(SMALL, PYNQ_BOARD))


def test_no_placeholder_is_left() -> None:
    for board in BOARDS.values():
        for path, content in generate(find_config(board.config), board).items():
            assert not re.search(rb"@[a-z_.]+@", content), path


@pytest.mark.parametrize("name", CONFIGS)
def test_the_decoder_takes_fields_from_where_the_encoding_puts_them(name: str) -> None:
    config = CONFIGS[name]
    decoder = text(config, "src/vta_decode.h")
    for kind, layout in (("Gemm", layouts(config).gemm), ("Alu", layouts(config).alu)):
        body = decoder.split(f"inline {kind}Fields")[1].split("return fields")[0]
        found = re.findall(r"fields\.(\w+) = .*bits<(\d+)>\(instruction\.(low|high), (\d+)\)", body)
        assert [(f.name, f.width, f.low) for f in layout] == [
            (name, int(width), int(low) + 64 * (half == "high")) for name, width, half, low in found
        ]


def test_the_factor_that_slides_into_the_low_word_is_decoded_there() -> None:
    assert "fields.dst_out = bits<8>(instruction.low, 53);" in text(SMALL, "src/vta_decode.h")
    assert "fields.dst_out = bits<11>(instruction.high, 0);" in text(
        find_config("pynq-z1"), "src/vta_decode.h"
    )


def test_the_registers_are_those_of_published_bitstreams() -> None:
    compute = text(SMALL, "src/compute.cpp")
    for argument, at in (("done", "0x10"), ("uops", "0x20"), ("biases", "0x28")):
        assert f"#pragma HLS interface mode=s_axilite port={argument} bundle=control offset={at}\n" in compute
    readme = text(SMALL, "README.md")
    for address in ("0x43c00010", "0x43c01018", "0x43c02018", "0x43c03010"):
        assert address in readme


def test_ports_are_as_wide_as_the_board_allows_and_elements_are() -> None:
    def beats(config: str, board: str) -> dict[str, int]:
        constants = generate(find_config(config), find_board(board))["src/vta_config.h"].decode()
        return {n: int(v) for n, v in re.findall(r"int (\w+)_BEAT_BYTES = (\d+)", constants)}

    assert beats("pynq-z1", "pynq-z1") == {"INP": 8, "WGT": 8, "ACC": 8, "OUT": 8}
    assert beats("zcu104", "zcu104") == {"INP": 16, "WGT": 16, "ACC": 16, "OUT": 16}
    assert beats("1x4", "zcu104") == {"INP": 4, "WGT": 16, "ACC": 16, "OUT": 4}


def test_an_element_narrower_than_a_port_is_refused() -> None:
    narrow = Config("2x1", 1, 0, log_uop_buffer=9, log_inp_buffer=7, log_wgt_buffer=6, log_acc_buffer=9)
    with pytest.raises(TargetError, match="an element of INP has 2 bytes; a memory port has at least 4"):
        generate(narrow, PYNQ_BOARD)


@pytest.mark.parametrize("types", [(), ("ap",)], ids=["plain", "ap_int"])
def test_what_is_synthesized_is_free_of_warnings_in_the_older_standard(
    types: tuple[str], tmp_path: Path
) -> None:
    files = cpp_files(SMALL, PYNQ_BOARD)
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    # The open ap_int.h refuses to be synthesized, so that __SYNTHESIS__ goes with plain integers.
    mode = (
        (*AP_WARNINGS, "-isystem", str(ap_int_headers()))
        if types
        else ("-DHARDY_PLAIN_INTEGERS", "-D__SYNTHESIS__")
    )
    modules = [path for path in files if path.startswith("src/") and path.endswith(".cpp")]
    sources = [CSIM_SOURCE] if types else modules
    command = [compiler(), "-std=c++14", "-fsyntax-only", *WARNINGS, *mode, "-Isrc", "-Icsim", *sources]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_results_on_their_way_to_memory_are_forwarded() -> None:
    files = {**cpp_files(SMALL, PYNQ_BOARD), "write_delay.cpp": (HERE / "write_delay.cpp").read_bytes()}

    def differences(gemm: int, alu: int) -> list[int]:
        flags = ("-std=c++17", "-O1", *WARNINGS, "-DHARDY_PLAIN_INTEGERS", "-Isrc", "-Icsim")
        delays = (f"-DDELAY_GEMM={gemm}", f"-DDELAY_ALU={alu}")
        program = compile_cached(files, ["write_delay.cpp"], (*flags, *delays))
        return [int(n) for n in subprocess.run([program], capture_output=True, check=True).stdout.split()]

    # The distances that the pragmas promise to the scheduler; one more of each breaks results.
    assert "RAW distance=3 true" in text(SMALL, "src/gemm.h")
    assert "RAW distance=2 true" in text(SMALL, "src/alu.h")
    assert differences(3, 2) == [0, 0]
    assert min(differences(4, 3)) > 50


class Shell:
    """A Tcl interpreter in which the vendor's commands are recorded; what they give is a word."""

    def __init__(self, commands: str) -> None:
        tkinter = pytest.importorskip("tkinter", reason="the interpreter of Tcl comes with tkinter")
        self.tcl = tkinter.Tcl()
        self.calls: list[tuple[str, ...]] = []
        for name in commands.split():
            self.tcl.createcommand(name, lambda *words, name=name: self.call(name, *words))

    def call(self, *words: str) -> str:
        self.calls.append(words)
        if words[0] == "get_bd_intf_pins" and "-filter" in words:
            return "a/m_axi_data b/m_axi_data" if "m_axi" in words[-1] else "mem_0_PORTA mem_1_PORTA"
        if words[0] == "get_property":
            return "100%"
        return words[-1] if words[0].startswith("get_bd") else words[0]

    def run(self, script: bytes) -> list[tuple[str, ...]]:
        self.tcl.eval(script.decode())
        return self.calls


def test_the_synthesis_script_makes_an_ip_of_each_module_for_the_part_and_clock() -> None:
    shell = Shell(
        "open_project set_top add_files open_solution set_part create_clock config_interface csynth_design "
        "export_design close_project file exec exit cd"
    )
    calls = shell.run(generate(find_config("ultra96"), find_board("ultra96"))["hls.tcl"])
    assert [c[1] for c in calls if c[0] == "set_top"] == ["vta_fetch", "vta_load", "vta_compute", "vta_store"]
    assert {c[1] for c in calls if c[0] == "set_part"} == {"xczu3eg-sbva484-1-e"}
    assert {c[2] for c in calls if c[0] == "create_clock"} == {"3.003"}
    assert ("config_interface", "-m_axi_addr64=false") in calls


@pytest.mark.parametrize("name", BOARDS)
def test_the_system_script_connects_fifos_buffers_and_registers(name: str) -> None:
    board = find_board(name)
    shell = Shell(
        "create_project current_project set_property update_ip_catalog create_bd_design create_bd_cell "
        "get_bd_cells get_bd_pins get_bd_intf_pins get_bd_addr_segs connect_bd_net connect_bd_intf_net "
        "assign_bd_address regenerate_bd_layout validate_bd_design save_bd_design get_files make_wrapper "
        "add_files current_fileset launch_runs wait_on_run get_runs get_property file glob"
    )
    calls = shell.run(generate(find_config(board.config), board)["system.tcl"])
    cells = [c[-1] for c in calls if c[0] == "create_bd_cell"]
    assert {
        "fetch",
        "load",
        "compute",
        "store",
        "load_queue",
        "store_to_compute",
        "wgt_mem_0",
        "wgt_mem_1",
    } <= set(cells)
    joined = {c[1:] for c in calls if c[0] == "connect_bd_intf_net"}
    assert ("load/load_to_compute", "load_to_compute/S_AXIS") in joined
    assert ("load_to_compute/M_AXIS", "compute/load_to_compute") in joined
    pages = [c[2] for c in calls if c[:2] == ("assign_bd_address", "-offset")]
    first = 0x43C0_0000 if name == "pynq-z1" else 0xA000_0000
    assert pages == [f"{first + n * PAGE_BYTES:#010x}" for n in range(4)]


class FakeBoard(types.ModuleType):
    """PYNQ, and behind its registers the C simulation, at addresses that are not 0."""

    def __init__(self, config: Config) -> None:
        super().__init__("pynq")
        self.config = config
        self.registers: dict[int, int] = {}
        self.buffers: list[Any] = []

    def Overlay(self, bitstream: str) -> str:  # noqa: N802
        return bitstream

    def MMIO(self, address: int, size: int) -> FakePage:  # noqa: N802
        return FakePage(self, address, size)

    def allocate(self, shape: tuple[int], dtype: Any) -> Any:
        buffer = np.zeros(shape, dtype).view(FakeBuffer)
        buffer.physical_address = 0x1000_0000 * (1 + len(self.buffers))
        self.buffers.append(buffer)
        return buffer

    def at(self, address: int) -> Any:
        return next(b for b in self.buffers if b.physical_address == address)

    def write(self, address: int, value: int) -> None:
        page, register = 0x43C0_0000, self.registers
        register[address] = value
        if (address, value) == (page, 1):
            assert all(register[page + n * PAGE_BYTES] == 0x81 for n in (1, 2, 3)), "a module was not started"
            bases = [
                (r.module, r.argument) for r in REGISTERS if r.module != "fetch" and "done" not in r.argument
            ]
            values = {register[page + MODULES.index(m) * PAGE_BYTES + offset(m, a)] for m, a in bases}
            (dram,) = (self.at(v) for v in values)
            program = self.at(register[page + offset("fetch", "instructions")])
            assert register[page + offset("fetch", "instruction_count")] * 16 == program.size
            dram[:] = simulate_hls(program.tobytes(), np.array(dram), self.config)
            register[page + 2 * PAGE_BYTES + offset("compute", "done_out")] = 1
            register[page + 2 * PAGE_BYTES + offset("compute", "done_valid")] = 1

    def read(self, address: int) -> int:
        value = self.registers.get(address, 0)
        if address == 0x43C0_2000 + offset("compute", "done_valid"):
            self.registers[address] = 0
        return value


class FakePage:
    def __init__(self, board: FakeBoard, address: int, size: int) -> None:
        assert size == PAGE_BYTES
        self.board, self.address = board, address

    def write(self, at: int, value: int) -> None:
        self.board.write(self.address + at, value)

    def read(self, at: int) -> int:
        return self.board.read(self.address + at)


class FakeBuffer(np.ndarray[Any, Any]):
    physical_address: int

    def sync_to_device(self) -> None: ...
    def sync_from_device(self) -> None: ...
    def freebuffer(self) -> None: ...


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for path, content in generate(SMALL, PYNQ_BOARD).items():
        if path.startswith("driver/"):
            (tmp_path / Path(path).name).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "pynq", FakeBoard(SMALL))
    yield importlib.import_module("vta_driver")
    for name in ("vta_driver", "vta_registers"):
        sys.modules.pop(name, None)


def test_the_driver_runs_one_program_after_another(driver: Any) -> None:
    program, image = product(SMALL)
    accelerator = driver.Accelerator("vta.bit", image.size)
    for n in range(2):
        changed = encode(
            [replace(i, dram=i.dram + n) if hasattr(i, "sram") and i.sram == 8 else i for i in program], SMALL
        )
        accelerator.dram[:] = image
        assert accelerator.run(changed) >= 0
        np.testing.assert_array_equal(np.array(accelerator.dram), simulate(changed, image, SMALL))


def test_the_driver_gives_up_on_a_program_that_does_not_finish(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = driver.Accelerator("vta.bit", 64)
    monkeypatch.setattr(FakeBoard, "write", lambda self, address, value: None)
    with pytest.raises(TimeoutError, match="has not finished after 0 s"):
        accelerator.run(bytes(16), timeout=0)
    with pytest.raises(ValueError, match="multiple of 16 bytes"):
        accelerator.run(bytes(15))
