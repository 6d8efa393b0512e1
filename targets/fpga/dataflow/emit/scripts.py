"""What surrounds the C++: the project script of Vitis HLS, and the driver for the host."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np

from hardy.targets.fpga.board import Board
from hardy.targets.fpga.dataflow.emit.top import Port, ports
from hardy.targets.fpga.dataflow.pipeline import Pipeline
from hardy.targets.fpga.dataflow.trace import Interface, Traffic

TCL = """# vitis_hls -f build.tcl [csim] [cosim]: synthesis to an IP core, with simulations if asked.
open_project -reset project
set_top {name}
add_files src/top.cpp -cflags "-Isrc"
add_files -tb src/testbench.cpp -cflags "-Isrc -Wno-unknown-pragmas"
open_solution -reset solution -flow_target vivado
set_part {part}
create_clock -period {period:.3f}
# Addresses of 32 bits: buffers lie in the low 4 GB, and each is one register.
config_interface -m_axi_addr64=0
if {{[lsearch $argv csim] >= 0}} {{
  csim_design -argv "check [pwd]/vectors"
}}
csynth_design
if {{[lsearch $argv cosim] >= 0}} {{
  cosim_design -argv "check [pwd]/vectors"
}}
export_design -format ip_catalog -rtl verilog
exit
"""

DRIVER = '''"""Runs the accelerator {name} on a board with PYNQ.

    python driver.py accelerator.bit input.npy output.npy

Needs `pynq` and `numpy`, the bitstream made from the IP core, and the .npy and .json files next to this one.
Inputs and outputs are the integers of the network (see interface.json), with frames as their first axis.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


class Accelerator:
    """A loaded bitstream whose only accelerator is `{name}`."""

    def __init__(self, bitstream: str) -> None:
        from pynq import Overlay

        self.overlay = Overlay(bitstream)
        name = next(n for n, d in self.overlay.ip_dict.items() if "{name}" in d["type"])
        self.ip = getattr(self.overlay, name)
        self.interface = json.loads((HERE / "interface.json").read_text())
        self.orders = {{p["port"]: np.load(HERE / f"{{p['port']}}.npy") for p in self.ports}}

    @property
    def ports(self) -> list[dict]:
        return self.interface["inputs"] + self.interface["outputs"]

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of frames: each array is [frames, *shape] of its port."""
        from pynq import allocate

        frames = len(inputs[0])
        buffers = {{
            p["port"]: allocate((frames, self.orders[p["port"]].size), p["dtype"]) for p in self.ports
        }}
        try:
            for port, data in zip(self.interface["inputs"], inputs, strict=True):
                data = np.asarray(data)
                if port["bits"]:
                    data = np.unpackbits(data, axis=-1, count=port["bits"], bitorder="little")
                # Streams carry pixel after pixel, each with its channels.
                buffers[port["port"]][:] = data.reshape(frames, -1)[:, self.orders[port["port"]]]
            registers = self.ip.register_map
            for name, buffer in buffers.items():
                buffer.flush()
                setattr(registers, name, buffer.device_address)
            registers.frames = frames
            registers.CTRL.AP_START = 1
            while not registers.CTRL.AP_DONE:
                pass
            results = []
            for port in self.interface["outputs"]:
                buffer = buffers[port["port"]]
                buffer.invalidate()
                result = np.empty_like(buffer)
                result[:, self.orders[port["port"]]] = buffer
                results.append(np.array(result).reshape(frames, *port["shape"]))
            return results
        finally:
            for buffer in buffers.values():
                buffer.freebuffer()


if __name__ == "__main__":
    bitstream, source, result = sys.argv[1:]
    np.save(result, Accelerator(bitstream).run(np.load(source))[0])
'''


def build_script(name: str, board: Board, clock_mhz: float) -> str:
    return TCL.format(name=name, part=board.part, period=1000 / clock_mhz)


def driver(name: str, pipeline: Pipeline, traffic: Traffic) -> Mapping[str, bytes]:
    """The driver, what it must know of the ports, and the order of their elements."""
    named = {(p.process.tensor, p.is_input): p for p in ports(pipeline)}
    files: dict[str, bytes] = {"driver/driver.py": DRIVER.format(name=name).encode()}
    described: dict[str, list[dict[str, object]]] = {"inputs": [], "outputs": []}
    for key, is_input, interfaces in (("inputs", True, traffic.inputs), ("outputs", False, traffic.outputs)):
        for i in interfaces:
            port = named[i.tensor, is_input]
            described[key].append(_described(i, port))
            files[f"driver/{port.name}.npy"] = _npy(i)
    files["driver/interface.json"] = (json.dumps(described, indent=2) + "\n").encode()
    return files


def _described(interface: Interface, port: Port) -> dict[str, object]:
    return {
        "port": port.name,
        "value": interface.value.node.name,
        "dtype": port.stored.removesuffix("_t"),
        "shape": list(interface.value.type.shape[1:]),
        "bits": interface.bits,
    }


def _npy(interface: Interface) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, interface.order.reshape(-1).astype(np.int32))
    return buffer.getvalue()
