"""The driver for PYNQ, on a board that is made of the vectors of the testbench."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardy.compiler.interpret import run
from hardy.targets.fpga.dataflow import Design, Options, generate
from hardy.targets.fpga.dataflow.simulation import FLAGS
from tests.targets.fpga.dataflow import networks

FRAMES = 3


@pytest.fixture(scope="module")
def design() -> Design:
    return generate(networks.cnn(10), "pynq-z1")


@pytest.fixture(scope="module")
def frames() -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(2)
    return [{"x": torch.randint(-128, 128, (1, 1, 10, 10), dtype=torch.int8)} for _ in range(FRAMES)]


@pytest.fixture
def folder(design: Design, frames: list[dict[str, torch.Tensor]], tmp_path: Path) -> Path:
    for path, data in {**design.files, **design.vectors(frames)}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path


class Buffer(np.ndarray[Any, Any]):
    """Memory that the accelerator sees."""

    device_address = 0

    def flush(self) -> None: ...

    def invalidate(self) -> None: ...

    def freebuffer(self) -> None: ...


class Control:
    """Starts the accelerator: checks its input, and writes what it is to compute."""

    AP_DONE = True

    def __init__(self, folder: Path, buffers: list[Buffer]) -> None:
        self.folder, self.buffers = folder, buffers

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        if name == "AP_START":
            given, result = self.buffers
            expected = np.fromfile(self.folder / "vectors" / "in_x.bin", given.dtype)
            assert np.array_equal(np.asarray(given).reshape(-1), expected)
            made = np.fromfile(self.folder / "vectors" / "out_0.bin", result.dtype)
            result[:] = made.reshape(result.shape)


def fake_pynq(folder: Path) -> types.ModuleType:
    module = types.ModuleType("pynq")
    buffers: list[Buffer] = []

    def allocate(shape: tuple[int, ...], dtype: str) -> Buffer:
        buffers.append(np.zeros(shape, dtype).view(Buffer))
        return buffers[-1]

    class Overlay:
        ip_dict = {"accelerator_0": {"type": "xilinx.com:hls:accelerator:1.0"}}  # noqa: RUF012  # as PYNQ has it

        def __init__(self, bitstream: str) -> None:
            registers = types.SimpleNamespace(CTRL=Control(folder, buffers))
            self.accelerator_0 = types.SimpleNamespace(register_map=registers)

    vars(module).update(allocate=allocate, Overlay=Overlay)
    return module


def test_the_driver_puts_elements_where_the_streams_take_them_and_back(
    folder: Path, frames: list[dict[str, torch.Tensor]], design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynq", fake_pynq(folder))
    source = (folder / "driver" / "driver.py").read_text()
    module: dict[str, Any] = {"__name__": "driver", "__file__": str(folder / "driver" / "driver.py")}
    exec(compile(source, "driver.py", "exec"), module)
    given = torch.stack([f["x"][0] for f in frames]).numpy()
    (made,) = module["Accelerator"]("accelerator.bit").run(given)
    expected = torch.cat([run(design.graph, f)["y"] for f in frames])
    assert np.array_equal(made, expected.numpy())


def test_the_testbench_accepts_right_vectors_and_names_a_wrong_element(folder: Path) -> None:
    source = folder / "src"
    command = ["g++", *FLAGS, "-DHARDY_PLAIN_INTEGERS", f"-I{source}"]
    command += [str(source / "top.cpp"), str(source / "testbench.cpp"), "-o", str(folder / "testbench")]
    subprocess.run(command, check=True)
    check = [str(folder / "testbench"), "check", str(folder / "vectors")]
    subprocess.run(check, check=True)
    expected = folder / "vectors" / "out_0.bin"
    data = bytearray(expected.read_bytes())
    data[0] ^= 1
    expected.write_bytes(bytes(data))
    failed = subprocess.run(check, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "element 0 is" in failed.stderr


def test_the_script_sets_part_clock_and_top() -> None:
    made = generate(networks.mlp((12, 8, 4)), "zcu104", Options(clock_mhz=250, name="mlp"))
    script = made.files["build.tcl"].decode()
    assert "set_top mlp" in script
    assert "set_part xczu7ev-ffvc1156-2-e" in script
    assert "create_clock -period 4.000" in script
