"""The accelerator's data paths through yosys for 7-series parts, beside the resource model fitted to them.

    pip install pyosys
    python -m benchmarks.fpga_datapath [--block 8 16] [--lanes 16]

The matrix unit and the vector unit are written in Verilog as the HLS C++ describes them (`gemm.h`, `alu.h` of
hardy.targets.fpga.hls), with a register after the multipliers, one every two levels of adders, and one for
the result. A block of 16 takes minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hardy.targets.fpga.dataflow.resources import Resources
from hardy.targets.fpga.hls.resources import ALU_LANE, matrix_unit


def matrix_unit_verilog(block: int, paired: bool) -> str:
    """One row of inputs times `block` x `block` weights, added to `block` accumulators."""
    bits = 8 * block
    return "\n".join(
        [
            f"module top(input clk, reset, input [1:0] hit, input [{bits - 1}:0] inp,",
            f"  input [{bits * block - 1}:0] wgt, input [{4 * bits - 1}:0] stored,",
            f"  output reg [{4 * bits - 1}:0] after, output [{bits - 1}:0] out);",
            f"reg [{bits - 1}:0] i; reg [{bits * block - 1}:0] w;",
            f"reg [{4 * bits - 1}:0] s, last; reg [1:0] h; reg zero;",
            "always @(posedge clk) begin",
            "  i <= inp; w <= wgt; s <= stored; h <= hit; zero <= reset; last <= after;",
            "end",
            *(_paired_products(block) if paired else _products(block)),
            *(line for row in range(block) for line in _accumulator(row, block)),
            "endmodule",
        ]
    )


def _byte(word: str, number: int) -> str:
    return f"$signed({word}[{8 * number + 7}:{8 * number}])"


def _products(block: int) -> Iterator[str]:
    for row in range(block):
        for n in range(block):
            yield f"reg signed [15:0] m{row}_{n};"
            yield f"always @(posedge clk) m{row}_{n} <= {_byte('w', row * block + n)} * {_byte('i', n)};"


def _paired_products(block: int) -> Iterator[str]:
    for row in range(0, block, 2):
        for n in range(block):
            lower, upper = 8 * (row * block + n), 8 * ((row + 1) * block + n)
            yield f"wire signed [24:0] pair{row}_{n} = {{w[{upper + 7}], w[{upper + 7}:{upper}], 16'b0}}"
            yield f"  + {{{{17{{w[{lower + 7}]}}}}, w[{lower + 7}:{lower}]}};"
            yield f"reg signed [31:0] p{row}_{n};"
            yield f"always @(posedge clk) p{row}_{n} <= pair{row}_{n} * {_byte('i', n)};"
            yield f"wire signed [15:0] m{row}_{n} = p{row}_{n}[15:0];"
            yield f"wire signed [15:0] m{row + 1}_{n} = p{row}_{n}[31:16] + p{row}_{n}[15];"


def _accumulator(row: int, block: int) -> Iterator[str]:
    terms, bits, level = [f"m{row}_{n}" for n in range(block)], 16, 0
    while len(terms) > 1:
        sums = []
        bits += 1
        for n in range(0, len(terms), 2):
            name, value = f"t{row}_{level}_{n}", f"{terms[n]} + {terms[n + 1]}"
            if level % 2:
                yield f"reg signed [{bits - 1}:0] {name}; always @(posedge clk) {name} <= {value};"
            else:
                yield f"wire signed [{bits - 1}:0] {name} = {value};"
            sums.append(name)
        terms, level = sums, level + 1
    lane = f"[{32 * row + 31}:{32 * row}]"
    yield f"wire signed [31:0] b{row} = h[0] ? after{lane} : h[1] ? last{lane} : s{lane};"
    yield f"always @(posedge clk) after{lane} <= zero ? 0 : b{row} + {terms[0]};"
    yield f"assign out[{8 * row + 7}:{8 * row}] = after[{32 * row + 7}:{32 * row}];"


def vector_unit_verilog(lanes: int) -> str:
    """MIN, MAX, ADD and SHR on 32-bit lanes, with the forwarding of the last result."""
    wide = 32 * lanes - 1
    lines = [
        "module top(input clk, input [1:0] op, input use_imm, input [15:0] imm, input hit_a, hit_b,",
        f"  input [{wide}:0] stored_a, stored_b, output reg [{wide}:0] after,",
        f"  output [{8 * lanes - 1}:0] out);",
        f"reg [{wide}:0] a, b; reg ha, hb, u; reg [15:0] k; reg [1:0] o;",
        "always @(posedge clk) begin",
        "  a <= stored_a; b <= stored_b; ha <= hit_a; hb <= hit_b; u <= use_imm; k <= imm; o <= op;",
        "end",
    ]
    for n in range(lanes):
        lane = f"[{32 * n + 31}:{32 * n}]"
        lines += [
            f"wire signed [31:0] x{n} = ha ? after{lane} : a{lane};",
            f"wire signed [31:0] y{n} = u ? {{{{16{{k[15]}}}}, k}} : hb ? after{lane} : b{lane};",
            f"wire [4:0] left{n} = -y{n}[4:0];",
            f"wire signed [31:0] shifted{n} = y{n}[4] ? x{n} << left{n} : x{n} >>> y{n}[3:0];",
            f"wire less{n} = x{n} < y{n};",
            f"always @(posedge clk) after{lane} <= o == 0 ? (less{n} ? x{n} : y{n})",
            f"  : o == 1 ? (less{n} ? y{n} : x{n}) : o == 2 ? x{n} + y{n} : shifted{n};",
            f"assign out[{8 * n + 7}:{8 * n}] = after[{32 * n + 7}:{32 * n}];",
        ]
    return "\n".join([*lines, "endmodule"])


def synthesize(verilog: str) -> Resources:
    """What yosys makes of a module for 7-series parts, pins left out."""
    from pyosys import libyosys as yosys

    with tempfile.TemporaryDirectory(prefix="hardy-") as name:
        source, stat = Path(name, "top.v"), Path(name, "stat.json")
        source.write_text(verilog)
        design = yosys.Design()
        for log, command in (
            ("read.log", f"read_verilog -sv {source}"),
            ("synthesis.log", "synth_xilinx -family xc7 -top top -flatten -noiopad -noclkbuf"),
            (stat.name, "stat -json"),
        ):
            yosys.run_pass(f"tee -q -o {name}/{log} {command}", design)
        cells = json.loads(stat.read_text())["modules"]["\\top"]["num_cells_by_type"]
    return Resources(
        lut=sum(n for cell, n in cells.items() if cell.startswith("LUT")),
        ff=sum(n for cell, n in cells.items() if cell.startswith("FD")),
        dsp=cells.get("DSP48E1", 0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Data paths through yosys, beside the model.")
    parser.add_argument("--block", type=int, nargs="*", default=[8, 16])
    parser.add_argument("--lanes", type=int, nargs="*", default=[16])
    options = parser.parse_args()
    table = Table("data path", "LUT", "model", "FF", "model", "DSP", "model")
    rows = [
        (f"{block}x{block}{', two a DSP slice' if paired else ''}", matrix_unit_verilog(block, paired), model)
        for block in options.block
        for paired in (True, False)
        for model in [matrix_unit(1, block, paired)]
    ]
    rows += [(f"{lanes} ALU lanes", vector_unit_verilog(lanes), ALU_LANE * lanes) for lanes in options.lanes]
    for name, verilog, model in rows:
        made = synthesize(verilog)
        pairs = ((made.lut, model.lut), (made.ff, model.ff), (made.dsp, model.dsp))
        table.add_row(name, *(f"{value:,}" for pair in pairs for value in pair))
    Console().print(table)


if __name__ == "__main__":
    main()
