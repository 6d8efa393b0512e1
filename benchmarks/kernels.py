"""Times kernels at the shapes of ResNet-50, MobileNetV2 and MiniLM beside oneDNN (torch) and onnxruntime.

    python -m benchmarks.kernels [--isa avx512] [--only resnet] [--seconds 0.3]

One thread, calls interleaved in one process, processor time; a ratio is the peer's median time over ours, so
above 1 means that ours is faster. Peers get constant weights, packed beforehand where their interface allows
it; onnxruntime's convolutions reorder their input and output, because the model holds one node.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

from hardy.targets.cpu.isa import Isa, by_name, host
from hardy.targets.cpu.kernels import math
from hardy.targets.cpu.kernels.batch_matmul import Strides, batch_matmul
from hardy.targets.cpu.kernels.conv import Conv, conv2d
from hardy.targets.cpu.kernels.depthwise import depthwise
from hardy.targets.cpu.kernels.elementwise import elementwise
from hardy.targets.cpu.kernels.kernel import Epilogue, Kernel
from hardy.targets.cpu.kernels.matmul import matmul
from hardy.targets.cpu.kernels.module import compile_kernels
from hardy.targets.cpu.kernels.pool import global_pool, pool2d
from hardy.targets.cpu.kernels.reduce import layer_norm, softmax
from hardy.targets.cpu.kernels.weight_only import Layout, weight_only_matmul
from hardy.targets.cpu.kernels.window import Window

Array = np.ndarray[Any, Any]
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
Call = Callable[[], object]
RANDOM = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """One kernel at one shape: its inputs, the output's shape and type, the peers' calls, its operations."""

    name: str
    kernel: Kernel
    inputs: tuple[Array, ...]
    shape: tuple[int, ...]
    dtype: str
    peers: dict[str, Call]
    operations: float


def aligned(array: Array) -> Array:
    """A copy that begins on a 64-byte boundary."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def normal(*shape: int) -> Array:
    return aligned(RANDOM.standard_normal(shape, dtype=np.float32))


def small_integers(dtype: str, *shape: int) -> Array:
    low, high = (0, 256) if dtype == "uint8" else (-128, 128)
    return aligned(RANDOM.integers(low, high, shape).astype(dtype))


def onnx_call(op: str, x: Array, constants: list[Array], **attributes: Any) -> Call:
    """A session of one node with constant weights, its input bound once."""
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(op, ["x", *names], ["y"], **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    result = onnx.TensorProto.INT32 if "Integer" in op else kind
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", result, None)],
        [numpy_helper.from_array(c, n) for c, n in zip(constants, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)


def conv_case(name: str, s: Conv, isa: Isa) -> Case:
    x = normal(1, s.height, s.width, s.channels)
    w, b = normal(s.out_channels, s.channels // s.groups, *s.kernel), normal(s.out_channels)
    kernel = conv2d(s, isa, bias=True)
    peers = conv_peers(x, w, b, s.stride[0], s.pads[0], s.groups)
    shape = (1, s.out_h, s.out_w, s.out_channels)
    return Case(
        name, kernel, (x, aligned(kernel.pack(w)), b), shape, "float32", peers, 2 * np.prod(shape) * w[0].size
    )


def depthwise_case(name: str, s: Window, isa: Isa) -> Case:
    x = normal(1, s.height, s.width, s.channels)
    w, b = normal(s.channels, 1, *s.kernel), normal(s.channels)
    kernel = depthwise(s, isa, bias=True)
    peers = conv_peers(x, w, b, s.stride[0], s.pads[0], s.channels)
    shape = (1, s.out_h, s.out_w, s.channels)
    return Case(
        name, kernel, (x, aligned(kernel.pack(w)), b), shape, "float32", peers, 2 * np.prod(shape) * w[0].size
    )


def conv_peers(x: Array, w: Array, b: Array, stride: int, pad: int, groups: int) -> dict[str, Call]:
    image = torch.from_numpy(x).permute(0, 3, 1, 2)
    weight, bias = torch.from_numpy(w), torch.from_numpy(b)
    options = ((pad, pad), (stride, stride), (1, 1), groups)
    packed = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *options, image.shape)
    planes = aligned(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    return {
        "onednn": lambda: torch.mkldnn_convolution(image, packed, bias, *options),
        "ort": onnx_call("Conv", planes, [w, b], strides=[stride] * 2, pads=[pad] * 4, group=groups),
    }


def matmul_case(name: str, m: int, n: int, k: int, isa: Isa) -> Case:
    x, w, b = normal(m, k), normal(k, n), normal(n)
    kernel = matmul(m, n, k, isa, bias=True)
    tx, tw, tb = (torch.from_numpy(a) for a in (x, w, b))
    peers = {"onednn": lambda: torch.addmm(tb, tx, tw), "ort": onnx_call("Gemm", x, [w, b])}
    return Case(name, kernel, (x, aligned(kernel.pack(w)), b), (m, n), "float32", peers, 2 * m * n * k)


def integer_case(name: str, m: int, n: int, k: int, isa: Isa) -> Case:
    x, w = small_integers("uint8", m, k), small_integers("int8", k, n)
    kernel = matmul(m, n, k, isa, x_dtype="uint8")
    peers = {"ort": onnx_call("MatMulInteger", x, [w])}
    return Case(name, kernel, (x, aligned(kernel.pack(w))), (m, n), "int32", peers, 2 * m * n * k)


def stored_case(name: str, m: int, n: int, k: int, bits: int, block: int, isa: Isa) -> Case:
    """A weight of u8 or u4 with zero points, beside the f32 product of this repository and of the peers."""
    layout, half = Layout(m, n, k, bits, block, isa), 1 << bits - 1
    x = normal(m, k)
    integers = RANDOM.integers(0, 2 * half, (n, k)).astype(np.uint8)
    zeros = RANDOM.integers(0, 2 * half, (n, layout.count)).astype(np.uint8)
    scale = normal(n, layout.count)
    signed = [(a.astype(np.int16) - half).astype(np.int8) for a in (integers, zeros)]
    parameters = [layout.pack_parameter(a) for a in (scale, signed[1])]
    packed = [aligned(a) for a in (layout.pack(signed[0]), *parameters)]
    w = normal(n, k)
    plain = matmul(m, n, k, isa, transposed=True)
    ours = compile_kernels({"f32": plain}, isa)["f32"]
    f32 = ours.bind(x, aligned(plain.pack(w)), aligned(np.zeros((m, n), np.float32)))
    tx, tw = torch.from_numpy(x), torch.from_numpy(w)
    constants = [a.reshape(n, -1) for a in (integers, scale, zeros)]
    if bits == 4:
        constants[0], constants[2] = (a[:, ::2] | a[:, 1::2] << 4 for a in (constants[0], constants[2]))
    constants[0] = constants[0].reshape(n, layout.count, -1)
    attributes = {"K": k, "N": n, "bits": bits, "block_size": block, "domain": "com.microsoft"}
    peers = {
        "our f32": f32,
        "onednn f32": lambda: F.linear(tx, tw),
        "ort": onnx_call("MatMulNBits", x, constants, **attributes),
    }
    kernel = weight_only_matmul(layout, zero="int8")
    return Case(name, kernel, (x, *packed), (m, n), "float32", peers, 2 * m * n * k)


def integer_conv_case(name: str, s: Conv, isa: Isa) -> Case:
    x = small_integers("uint8", 1, s.height, s.width, s.channels)
    w = small_integers("int8", s.out_channels, s.channels // s.groups, *s.kernel)
    kernel = conv2d(s, isa, x_dtype="uint8")
    planes = aligned(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    call = onnx_call("ConvInteger", planes, [w], strides=[s.stride[0]] * 2, pads=[s.pads[0]] * 4)
    shape = (1, s.out_h, s.out_w, s.out_channels)
    operations = 2 * np.prod(shape) * w[0].size
    return Case(name, kernel, (x, aligned(kernel.pack(w))), shape, "int32", {"ort": call}, operations)


# (size, channels, out channels, kernel, stride)
RESNET_CONVS = [
    (224, 3, 64, 7, 2),
    *((56, c, o, 1, 1) for c, o in ((64, 64), (64, 256), (256, 64), (256, 128))),
    (56, 64, 64, 3, 1),
    (56, 128, 128, 3, 2),
    (56, 256, 512, 1, 2),
    *((28, c, o, 1, 1) for c, o in ((128, 512), (512, 128), (512, 256))),
    (28, 128, 128, 3, 1),
    (28, 256, 256, 3, 2),
    (28, 512, 1024, 1, 2),
    *((14, c, o, 1, 1) for c, o in ((256, 1024), (1024, 256), (1024, 512))),
    (14, 256, 256, 3, 1),
    (14, 512, 512, 3, 2),
    (14, 1024, 2048, 1, 2),
    *((7, c, o, 1, 1) for c, o in ((512, 2048), (2048, 512))),
    (7, 512, 512, 3, 1),
]
# (size, channels, out channels)
MOBILENET_POINTWISE = [
    (112, 32, 16), (112, 16, 96), (56, 96, 24), (56, 24, 144), (56, 144, 24), (28, 144, 32), (28, 32, 192),
    (28, 192, 32), (14, 192, 64), (14, 64, 384), (14, 384, 64), (14, 384, 96), (14, 96, 576), (14, 576, 96),
    (7, 576, 160), (7, 160, 960), (7, 960, 160), (7, 960, 320), (7, 320, 1280),
]  # fmt: skip
# (size, channels, stride)
MOBILENET_DEPTHWISE = [
    (112, 32, 1), (112, 96, 2), (56, 144, 1), (56, 144, 2), (28, 192, 1), (28, 192, 2), (14, 384, 1),
    (14, 576, 1), (14, 576, 2), (7, 960, 1),
]  # fmt: skip


def square(size: int, c: int, o: int, k: int, stride: int) -> Conv:
    return Conv(1, size, size, c, o, (k, k), (stride, stride), (k // 2,) * 4)


def resnet(isa: Isa) -> Iterator[Case]:
    for size, c, o, k, stride in RESNET_CONVS:
        yield conv_case(f"conv {k}x{k}/{stride} {size} {c}->{o}", square(size, c, o, k, stride), isa)
    x = normal(1, 112, 112, 64)
    t = torch.from_numpy(x).permute(0, 3, 1, 2)
    window = Window(1, 112, 112, 64, (3, 3), (2, 2), (1, 1, 1, 1))
    peers = {"onednn": lambda: F.max_pool2d(t, 3, 2, 1)}
    yield Case(
        "max pool 3x3/2 112 64",
        pool2d(window, "max", isa),
        (x,),
        (1, 56, 56, 64),
        "float32",
        peers,
        56**2 * 576,
    )
    y = normal(1, 49, 2048)
    u = torch.from_numpy(y)
    yield Case(
        "global average 7 2048", global_pool(1, 49, 2048, "avg", isa), (y,), (1, 2048), "float32",
        {"onednn": lambda: u.mean(1)}, y.size,
    )  # fmt: skip
    yield matmul_case("matmul 1x1000x2048", 1, 1000, 2048, isa)


def mobilenet(isa: Isa) -> Iterator[Case]:
    yield conv_case("conv 3x3/2 224 3->32", square(224, 3, 32, 3, 2), isa)
    for size, c, o in MOBILENET_POINTWISE:
        yield conv_case(f"conv 1x1 {size} {c}->{o}", square(size, c, o, 1, 1), isa)
    for size, c, stride in MOBILENET_DEPTHWISE:
        window = Window(1, size, size, c, (3, 3), (stride, stride), (1, 1, 1, 1))
        yield depthwise_case(f"depthwise 3x3/{stride} {size} {c}", window, isa)
    yield matmul_case("matmul 1x1000x1280", 1, 1000, 1280, isa)


def minilm(isa: Isa) -> Iterator[Case]:
    for m, n, k in ((128, 384, 384), (128, 1536, 384), (128, 384, 1536), (128, 768, 768), (128, 768, 3072)):
        yield matmul_case(f"matmul {m}x{n}x{k}", m, n, k, isa)
    heads, tokens, depth = 12, 128, 32
    width = heads * depth
    q, k_ = normal(tokens, heads, depth), normal(tokens, heads, depth)
    tq, tk = (torch.from_numpy(a).permute(1, 0, 2) for a in (q, k_))
    scores = batch_matmul(
        tokens, tokens, depth, isa, transpose_b=True, rows=(width, width, tokens),
        batch=(Strides(heads, depth, depth, tokens * tokens),),
    )  # fmt: skip
    operations = 2 * heads * tokens * tokens * depth
    shape = (heads, tokens, tokens)
    peers: dict[str, Call] = {"onednn": lambda: torch.bmm(tq, tk.transpose(1, 2))}
    yield Case("attention q k", scores, (q, k_), shape, "float32", peers, operations)
    p = normal(heads, tokens, tokens)
    tp = torch.from_numpy(p)
    mix = batch_matmul(
        tokens, depth, tokens, isa, rows=(tokens, width, width),
        batch=(Strides(heads, tokens * tokens, depth, depth),),
    )  # fmt: skip
    peers = {"onednn": lambda: torch.bmm(tp, tk)}
    yield Case("attention p v", mix, (p, k_), (tokens, heads, depth), "float32", peers, operations)
    flat = p.reshape(-1, tokens)
    peers = {"onednn": lambda: torch.softmax(tp, -1), "ort": onnx_call("Softmax", flat, [], axis=-1)}
    yield Case(
        "softmax 1536x128", softmax(*flat.shape, isa), (flat,), flat.shape, "float32", peers, flat.size
    )
    x, gamma, beta = normal(128, 384), normal(384), normal(384)
    tx = torch.from_numpy(x)
    peers = {
        "onednn": lambda: F.layer_norm(tx, (384,)),
        "ort": onnx_call("LayerNormalization", x, [gamma, beta], axis=-1),
    }
    yield Case(
        "layer norm 128x384", layer_norm(128, 384, isa, eps=1e-5), (x,), x.shape, "float32", peers, x.size
    )
    wide = normal(128, 1536)
    tw = torch.from_numpy(wide)
    for name, peer in (("gelu", F.gelu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid)):
        function = getattr(math, name)
        epilogue = Epilogue(apply=lambda acc, _, f=function: f(acc))
        kernel = elementwise(128, 1536, isa, epilogue=epilogue)
        peers = {"onednn": lambda f=peer: f(tw)}
        yield Case(f"{name} 128x1536", kernel, (wide,), wide.shape, "float32", peers, wide.size)


def integers(isa: Isa) -> Iterator[Case]:
    for m, n, k in (
        (128, 384, 384),
        (128, 1536, 384),
        (128, 384, 1536),
        (128, 768, 3072),
        (3136, 64, 256),
        (196, 1024, 256),
    ):
        yield integer_case(f"u8 matmul {m}x{n}x{k}", m, n, k, isa)
    for size, c, o, k, stride in (
        (224, 3, 64, 7, 2),
        (56, 64, 64, 3, 1),
        (28, 128, 128, 3, 1),
        (14, 256, 256, 3, 1),
        (7, 512, 512, 3, 1),
    ):
        yield integer_conv_case(
            f"u8 conv {k}x{k}/{stride} {size} {c}->{o}", square(size, c, o, k, stride), isa
        )


def stored(isa: Isa) -> Iterator[Case]:
    """A weight that no cache holds."""
    n, k = 32768, 768
    for m in (1, 4, 8, 16):
        for bits, block in ((8, 128), (4, 128), (4, 32)):
            yield stored_case(f"u{bits}/{block} weight {m}x{n}x{k}", m, n, k, bits, block, isa)


GROUPS = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "minilm": minilm,
    "integers": integers,
    "stored": stored,
}


def measure(calls: list[Call], seconds: float) -> list[float]:
    """Median seconds of each call; the calls take turns."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 7:
        for call, into in zip(calls, times, strict=True):
            call()
            start = time.thread_time()
            call()
            into.append(time.thread_time() - start)
    return [float(np.median(t)) for t in times]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--isa", default=host().name)
    parser.add_argument("--only", default="", help="part of a group's or a case's name")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    isa = by_name(options.isa)
    for group, cases in GROUPS.items():
        start = time.perf_counter()
        chosen = [c for c in cases(isa) if options.only in f"{group} {c.name}"]
        if not chosen:
            continue
        compiled = compile_kernels({f"k{i}": c.kernel for i, c in enumerate(chosen)}, isa)
        print(f"\n{group}, {isa.name}: {len(chosen)} kernels built in {time.perf_counter() - start:.1f} s")
        total = {"ours": 0.0}
        for case, function in zip(chosen, compiled.values(), strict=True):
            ours = function.bind(*case.inputs, aligned(np.zeros(case.shape, case.dtype)))
            first, *others = measure([ours, *case.peers.values()], options.seconds)
            ratios = "  ".join(f"{p} {t / first:5.2f}" for p, t in zip(case.peers, others, strict=True))
            print(
                f"{case.name:30} {first * 1e6:8.1f} us {case.operations / first / 1e9:7.1f} Gop/s   {ratios}",
                flush=True,
            )
            total["ours"] += first
        print(f"{'sum':30} {total['ours'] * 1e6:8.1f} us")


if __name__ == "__main__":
    main()
