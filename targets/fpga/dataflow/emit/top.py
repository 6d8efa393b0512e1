"""C++ of the accelerator itself: its ports, its FIFOs, its processes; and of its testbench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hardy.targets.fpga.dataflow.emit.layers import struct_name
from hardy.targets.fpga.dataflow.pipeline import Fifo, Pipeline, Process

HEADERS = ("depthwise.h", "product.h", "route.h", "window.h")


@dataclass(frozen=True)
class Port:
    """A port of the accelerator: its name, the process and the FIFO behind it, and the type of an element
    in memory."""

    name: str
    process: Process
    fifo: Fifo
    stored: str

    @property
    def is_input(self) -> bool:
        return self.process.kind == "load"

    @property
    def size(self) -> int:
        """Elements of a frame."""
        return self.fifo.lanes * self.fifo.tokens

    @property
    def token(self) -> str:
        """The type of a token of its stream."""
        return f"Vec<{self.fifo.type.cpp}, {self.fifo.lanes}>"


def ports(pipeline: Pipeline) -> list[Port]:
    """The ports in the order of the top function's parameters."""
    result = []
    for process in pipeline.processes:
        if process.kind in ("load", "store"):
            assert process.tensor is not None
            name = f"in_{process.tensor.producer}" if process.kind == "load" else f"out_{process.name[6:]}"
            fifo = pipeline.fifos[(process.reads + process.writes)[0]]
            result.append(Port(name, process, fifo, process.tensor.range.stored))
    return result


def signature(pipeline: Pipeline, name: str, streams: bool) -> str:
    """The declaration of the top function, without its end; C++ names where tokens are its parameters."""
    if streams:
        parameters = [f"hls::stream<{p.token}>& {p.name}" for p in ports(pipeline)]
        return f"void {name}({', '.join(parameters)}, int frames)"
    parameters = [f"{'const ' if p.is_input else ''}{p.stored}* {p.name}" for p in ports(pipeline)]
    return f'extern "C" void {name}({", ".join(parameters)}, int frames)'


def top_header(pipeline: Pipeline, name: str, streams: bool) -> str:
    what = "from stream to stream" if streams else "from memory to memory"
    includes = ['#include "fifo.h"', '#include "integers.h"'] if streams else ["#include <cstdint>"]
    lines = [f"// The accelerator: a number of frames, {what}.", "#pragma once", "", *includes, ""]
    return "\n".join([*lines, signature(pipeline, name, streams) + ";", ""])


def top_source(pipeline: Pipeline, name: str, weights: Sequence[str], frames: int, streams: bool) -> str:
    """The dataflow region; `weights` are the layers that have some."""
    includes = [*[f'#include "{h}"' for h in HEADERS], *[f'#include "weights_{w}.h"' for w in weights]]
    lines = ['#include "top.h"', "", '#include "layers.h"', *includes, ""]
    lines.append(signature(pipeline, name, streams) + " {")
    for i, port in enumerate(ports(pipeline)):
        if streams:
            lines.append(f"#pragma HLS interface axis port={port.name}")
            continue
        lines.append(
            f"#pragma HLS interface m_axi port={port.name} bundle=gmem{i} offset=slave "
            f"depth={port.size * frames}"
        )
        lines.append(f"#pragma HLS interface s_axilite port={port.name}")
    lines += [
        "#pragma HLS interface s_axilite port=frames",
        "#pragma HLS interface s_axilite port=return",
        "#pragma HLS dataflow",
    ]
    names = {n: f"s_{n}" for n in pipeline.fifos}
    outside = {p.fifo.name: p.name for p in ports(pipeline)} if streams else {}
    names.update(outside)
    for fifo in pipeline.fifos.values():
        if fifo.name in outside:
            continue
        lines.append(
            f'  hls::stream<Vec<{fifo.type.cpp}, {fifo.lanes}>, {fifo.depth}> s_{fifo.name}("{fifo.name}");'
        )
        lines.append(f"#pragma HLS aggregate variable=s_{fifo.name} compact=bit")
    lines.append("")
    named = {p.process.name: p.name for p in ports(pipeline)}
    inside = [p for p in pipeline.processes if not (streams and p.name in named)]
    lines += [f"  HARDY_PROCESS({_call(pipeline, p, names, named)});" for p in inside]
    return "\n".join([*lines, "  HARDY_WAIT();", "}", ""])


def _call(pipeline: Pipeline, process: Process, names: dict[str, str], named: dict[str, str]) -> str:
    """The call of a process's function in the library."""
    fifos = pipeline.fifos
    reads, writes = ([names[n] for n in ends] for ends in (process.reads, process.writes))
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


def testbench(pipeline: Pipeline, name: str, streams: bool) -> str:
    """Reads inputs from a folder; writes outputs there, or compares with those that are there."""
    inputs = [p for p in ports(pipeline) if p.is_input]
    outputs = [p for p in ports(pipeline) if not p.is_input]
    lines = [
        f'std::vector<{p.stored}> {p.name} = read<{p.stored}>(folder + "/{p.name}.bin");' for p in inputs
    ]
    lines.append(f"const int frames = int({inputs[0].name}.size() / {inputs[0].size});")
    lines += [f"std::vector<{p.stored}> {p.name}(std::size_t(frames) * {p.size});" for p in outputs]
    if streams:
        for p in ports(pipeline):
            lines.append(f'hls::stream<{p.token}, 1 << 30> s_{p.name}("{p.name}");')
        lines += [f"feed({p.name}, s_{p.name});" for p in inputs]
    arguments = [f"s_{p.name}" if streams else f"{p.name}.data()" for p in ports(pipeline)]
    lines.append(f"{name}({', '.join(arguments)}, frames);")
    if streams:
        lines += [f"drain(s_{p.name}, {p.name});" for p in outputs]
    lines.append("long wrong = 0;")
    lines += [f'wrong += finish(mode, folder + "/{p.name}.bin", {p.name});' for p in outputs]
    body = "\n".join(f"  {line}" for line in lines)
    return TESTBENCH.replace("STREAMS\n", STREAMS if streams else "").replace("BODY", body)


STREAMS = """/// The elements of a port as tokens, and back.
template <class T, int LANES, class Stored>
void feed(const std::vector<Stored>& data, hls::stream<Vec<T, LANES>>& stream) {
  for (std::size_t i = 0; i < data.size(); i += LANES) {
    Vec<T, LANES> token;
    for (int lane = 0; lane < LANES; ++lane) token.lane[lane] = T(data[i + lane]);
    stream.write(token);
  }
}

template <class T, int LANES, class Stored>
void drain(hls::stream<Vec<T, LANES>>& stream, std::vector<Stored>& data) {
  for (std::size_t i = 0; i < data.size(); i += LANES) {
    const Vec<T, LANES> token = stream.read();
    for (int lane = 0; lane < LANES; ++lane) data[i + lane] = Stored(token.lane[lane]);
  }
}

"""

TESTBENCH = """// testbench check FOLDER: runs the frames of FOLDER, compares with the results that are there.
// testbench write FOLDER: writes the results there.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "top.h"

template <class T>
std::vector<T> read(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) {
    std::fprintf(stderr, "cannot read %s\\n", path.c_str());
    std::exit(2);
  }
  std::vector<T> data;
  T one;
  while (std::fread(&one, sizeof(T), 1, file) == 1) data.push_back(one);
  std::fclose(file);
  return data;
}

/// Writes a result, or counts where it differs from what is expected.
template <class T>
long finish(const std::string& mode, const std::string& path, const std::vector<T>& result) {
  if (mode == "write") {
    std::FILE* file = std::fopen(path.c_str(), "wb");
    const bool written = file && std::fwrite(result.data(), sizeof(T), result.size(), file) == result.size();
    if (!written || std::fclose(file) != 0) std::fprintf(stderr, "cannot write %s\\n", path.c_str());
    return written ? 0 : 1;
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

STREAMS
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
