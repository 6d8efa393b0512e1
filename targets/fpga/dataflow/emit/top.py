"""C++ of the accelerator itself: its ports, its FIFOs, its processes; and of its testbench."""

from __future__ import annotations

from collections.abc import Sequence

from hardy.targets.fpga.dataflow.emit.layers import struct_name
from hardy.targets.fpga.dataflow.pipeline import Pipeline, Process

HEADERS = ("depthwise.h", "product.h", "route.h", "window.h")


def ports(pipeline: Pipeline) -> list[tuple[Process, str, str]]:
    """The processes at the ends: each with its port's name, and the type of an element in memory."""
    result = []
    for process in pipeline.processes:
        if process.kind in ("load", "store"):
            assert process.tensor is not None
            name = f"in_{process.tensor.producer}" if process.kind == "load" else f"out_{process.name[6:]}"
            result.append((process, name, process.tensor.range.stored))
    return result


def signature(pipeline: Pipeline, name: str) -> str:
    """The declaration of the top function, without its end."""
    parameters = [
        f"{'const ' if p.kind == 'load' else ''}{stored}* {port}" for p, port, stored in ports(pipeline)
    ]
    return f'extern "C" void {name}({", ".join(parameters)}, int frames)'


def top_header(pipeline: Pipeline, name: str) -> str:
    lines = ["// The accelerator: frames from memory, their results to memory.", "#pragma once", ""]
    return "\n".join([*lines, "#include <cstdint>", "", signature(pipeline, name) + ";", ""])


def top_source(pipeline: Pipeline, name: str, weights: Sequence[str], frames: int) -> str:
    """The dataflow region; `weights` are the layers that have some."""
    includes = [*[f'#include "{h}"' for h in HEADERS], *[f'#include "weights_{w}.h"' for w in weights]]
    lines = ['#include "top.h"', "", '#include "layers.h"', *includes, "", signature(pipeline, name) + " {"]
    for i, (process, port, _) in enumerate(ports(pipeline)):
        assert process.tensor is not None
        lines.append(
            f"#pragma HLS interface m_axi port={port} bundle=gmem{i} depth={process.tensor.size * frames}"
        )
        lines.append(f"#pragma HLS interface s_axilite port={port}")
    lines += [
        "#pragma HLS interface s_axilite port=frames",
        "#pragma HLS interface s_axilite port=return",
        "#pragma HLS dataflow",
    ]
    for fifo in pipeline.fifos.values():
        lines.append(
            f'  hls::stream<Vec<{fifo.type.cpp}, {fifo.lanes}>, {fifo.depth}> s_{fifo.name}("{fifo.name}");'
        )
        lines.append(f"#pragma HLS aggregate variable=s_{fifo.name} compact=bit")
    lines.append("")
    named = {process.name: port for process, port, _ in ports(pipeline)}
    lines += [f"  HARDY_PROCESS({_call(pipeline, p, named)});" for p in pipeline.processes]
    return "\n".join([*lines, "  HARDY_WAIT();", "}", ""])


def _call(pipeline: Pipeline, process: Process, named: dict[str, str]) -> str:
    """The call of a process's function in the library."""
    fifos = pipeline.fifos
    reads, writes = ([f"s_{n}" for n in names] for names in (process.reads, process.writes))
    if process.layer is not None:
        struct = struct_name(process.layer)
        if process.kind.startswith("window"):
            return f"{process.kind}<{struct}Window>(frames, {reads[0]}, {writes[0]})"
        weights = [f"{process.layer.name}_weights"] if process.layer.weights is not None else []
        arguments = ["frames", reads[0], writes[0], *weights, *reads[1:]]
        return f"{process.kind}<{struct}>({', '.join(arguments)})"
    if process.kind == "copies":
        arguments = ["frames", *reads, *writes]
        return f"copies<{fifos[process.reads[0]].tokens}>({', '.join(arguments)})"
    fifo = min((fifos[n] for n in (*process.reads, *process.writes)), key=lambda f: f.lanes)
    if process.kind in ("widen", "narrow"):
        numbers = f"{fifo.type.cpp}, {fifo.lanes}, {process.times}, {fifo.tokens // process.times}"
        return f"{process.kind}<{numbers}>(frames, {reads[0]}, {writes[0]})"
    numbers = f"{fifo.type.cpp}, {fifo.lanes}, {fifo.tokens}"
    if process.kind == "load":
        return f"load<{numbers}>(frames, {named[process.name]}, {writes[0]})"
    return f"store<{numbers}>(frames, {reads[0]}, {named[process.name]})"


def testbench(pipeline: Pipeline, name: str) -> str:
    """Reads inputs from a folder; writes outputs there, or compares with those that are there."""
    reads, calls, results = [], [], []
    for process, port, stored in ports(pipeline):
        assert process.tensor is not None
        calls.append(f"{port}.data()")
        if process.kind == "load":
            reads.append(f'  std::vector<{stored}> {port} = read<{stored}>(folder + "/{port}.bin");')
            reads.append(f"  const int frames = int({port}.size() / {process.tensor.size});")
        else:
            reads.append(f"  std::vector<{stored}> {port}(std::size_t(frames) * {process.tensor.size});")
            results.append(f'  wrong += finish(mode, folder + "/{port}.bin", {port});')
    # Every input has as many frames; the first one tells.
    seen = False
    lines = []
    for line in reads:
        if "const int frames" in line:
            if seen:
                continue
            seen = True
        lines.append(line)
    body = "\n".join([*lines, f"  {name}({', '.join(calls)}, frames);", "  long wrong = 0;", *results])
    return TESTBENCH.replace("BODY", body)


TESTBENCH = """// testbench check FOLDER: runs the frames of FOLDER and compares the results with those that are there.
// testbench write FOLDER: writes the results there.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "top.h"

template <class T>
std::vector<T> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\\n", path.c_str());
    std::exit(2);
  }
  std::vector<T> data(std::size_t(file.tellg()) / sizeof(T));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(data.data()), std::streamsize(data.size() * sizeof(T)));
  return data;
}

/// Writes a result, or counts where it differs from what is expected.
template <class T>
long finish(const std::string& mode, const std::string& path, const std::vector<T>& result) {
  if (mode == "write") {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(result.data()), std::streamsize(result.size() * sizeof(T)));
    return file ? 0 : 1;
  }
  const std::vector<T> expected = read<T>(path);
  if (expected.size() != result.size()) {
    std::fprintf(stderr, "%s has %zu elements, not %zu\\n", path.c_str(), expected.size(), result.size());
    return 1;
  }
  long wrong = 0;
  for (std::size_t i = 0; i < result.size(); ++i)
    if (expected[i] != result[i] && ++wrong <= 10)
      std::fprintf(stderr, "%s: element %zu is %ld, expected %ld\\n", path.c_str(), i, long(result[i]),
                   long(expected[i]));
  return wrong;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: testbench check|write FOLDER\\n");
    return 2;
  }
  const std::string mode = argv[1], folder = argv[2];
BODY
  if (wrong > 0) std::fprintf(stderr, "%ld elements differ\\n", wrong);
  return wrong > 0 ? 1 : 0;
}
"""
