"""The compiled library: reproducible, safe to call, refused where it cannot run, usable from C."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hardy import load as hardy_load
from hardy.compiler.driver import compile as hardy_compile
from hardy.compiler.errors import ArtifactError, TargetError
from hardy.compiler.interpret import evaluate
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.ops.activation import Relu
from hardy.compiler.ops.elementwise import Add, Mul
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.transcendental import Tanh
from hardy.compiler.tolerance import compare
from hardy.compiler.types import DType, TensorType
from hardy.targets.cpu import isa as isas
from hardy.targets.cpu import library
from hardy.targets.cpu.runner import CONSTANTS, HEADER, LIBRARY
from hardy.targets.cpu.stages import stages
from hardy.targets.cpu.target import CpuTarget
from hardy.targets.target import Package, find_target
from tests.targets.cpu.programs import compile_graph

F32 = DType.f32


def network() -> Graph:
    """A few layers with weights that are the same everywhere."""
    rng = torch.Generator().manual_seed(7)
    b = Builder("network")
    x = b.input("x", TensorType(F32, (1, 12, 10, 3)))
    weight = b.constant(torch.randn(8, 3, 3, 3, generator=rng))
    y = b(Relu(), b(Conv((1, 1), ((1, 1), (1, 1)), (1, 1), layout="channels_last"), x, weight))
    y = b(Matmul(), y, b.constant(torch.randn(8, 16, generator=rng) * 0.3))
    return b.finish({"y": b(Tanh(), b(Add(), y, b.constant(torch.randn(16, generator=rng))))})


def digests(package: Package) -> list[str]:
    files = [package.files[name] for name in sorted(package.files)]
    files.append(package.weights[CONSTANTS].numpy().tobytes())
    return [hashlib.sha256(data).hexdigest() for data in files]


def build(name: str) -> Package:
    result: object = network()
    for stage in stages(isas.by_name(name)):
        result = stage.run(result)
    assert isinstance(result, Package)
    return result


PRINT_DIGESTS = "from tests.targets.cpu.test_program import *; print(' '.join(digests(build('avx2'))))"


def test_library_is_the_same_bytes_in_another_process_and_folder(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": f"{root}/.src:{root}"}
    result = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == digests(build("avx2"))


def test_calls_from_many_threads_do_not_disturb_each_other() -> None:
    graph = network()
    runner = compile_graph(graph).runner
    inputs = [torch.randn(1, 12, 10, 3) for _ in range(32)]
    expected = [evaluate(graph, [x])[0] for x in inputs]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda x: runner.run([x])[0], inputs * 4))
    for e, a in zip(expected * 4, results, strict=True):
        assert compare(e, a, scaled=True).passed


def test_results_are_new_tensors_and_inputs_may_be_strided() -> None:
    graph = network()
    runner = compile_graph(graph).runner
    x = torch.randn(1, 3, 12, 10).permute(0, 2, 3, 1)
    (first,), (second,) = runner.run([x]), runner.run([torch.zeros(1, 12, 10, 3)])
    assert first.data_ptr() != second.data_ptr()
    assert compare(evaluate(graph, [x])[0], first, scaled=True).passed


def test_artifact_that_replaces_another_is_the_one_that_runs(tmp_path: Path) -> None:
    for factor in (2.0, 3.0):
        b = Builder()
        x = b.input("x", TensorType(F32, (4,)))
        graph = b.finish({"y": b(Add(), b(Mul(), x, b.scalar(factor, F32)), x)})
        hardy_compile(graph, target="cpu", out=tmp_path / "a")
        result = hardy_load(tmp_path / "a").run({"x": torch.ones(4)})
        assert result["y"].tolist() == [factor + 1] * 4


def test_saved_program_runs_without_the_code_generator(tmp_path: Path) -> None:
    hardy_compile(network(), target="cpu", out=tmp_path / "a")
    script = (
        "import sys, torch, hardy; "
        "a = hardy.load(sys.argv[1]); y = a.run(x=torch.zeros(1, 12, 10, 3))['y']; "
        "assert 'tvm' not in sys.modules and 'onnx' not in sys.modules; print(tuple(y.shape))"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a")],
        env={**os.environ, "PYTHONPATH": f"{root}/.src"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "(1, 12, 10, 16)\n", result.stderr


def test_profile_runs_every_call_by_itself() -> None:
    compiled = compile_graph(network())
    profile = compiled.runner.profile([torch.randn(1, 12, 10, 3)], repeats=3)
    assert [name for name, _ in profile] == compiled.steps
    assert all(seconds >= 0 for _, seconds in profile)


def test_artifact_for_a_richer_processor_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    artifact = hardy_compile(network(), target="cpu:avx2", out=tmp_path / "a")
    monkeypatch.setattr(isas, "missing_on_host", lambda isa: ["fma", "avx2"])
    with pytest.raises(ArtifactError, match="this machine lacks fma, avx2"):
        artifact.prepare()


def test_target_names_create_the_same_target_again() -> None:
    for name in ("cpu", "cpu:avx512", "cpu:avx512+vnni", "cpu:avx2", "cpu:portable"):
        target = find_target(name)
        assert find_target(target.name) == target
    with pytest.raises(TargetError, match="no instruction set"):
        find_target("cpu:mmx")


def test_description_depends_on_the_instruction_set_alone() -> None:
    device = CpuTarget.create("avx512+vnni").describe()
    assert device.peak[DType.f32] == 3.0e9 * 64
    assert device.peak[DType.i8] == 3.0e9 * 256
    assert device.quantization is not None


def test_check_says_that_no_linker_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDY_CC", "/nowhere/cc")
    target = CpuTarget.create("avx2")
    assert any("no C compiler" in problem for problem in target.check())
    with pytest.raises(TargetError, match="no C compiler"):
        library.link([], target.isa)


def test_every_stage_shows_its_result() -> None:
    result: object = network()
    shown: dict[str, str | bytes] = {}
    for stage in stages(isas.by_name("avx2")):
        result = stage.run(result)
        shown |= stage.dump(result)
    assert {"calls.txt", "memory.txt", "part0.py", "part0.ll", LIBRARY, HEADER} <= set(shown)
    assert "conv_1x12x10x8_0(t0, c0)" in str(shown["calls.txt"])


MAIN_C = r"""
#include <stdio.h>
#include <stdlib.h>
#include "program.h"
static void *load(const char *path, size_t bytes) {
    void *data = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    FILE *f = path ? fopen(path, "rb") : 0;
    if (f && fread(data, 1, bytes, f) != bytes) exit(2);
    return data;
}
int main(int argc, char **argv) {
    void *tensors[] = {load("x.bin", atol(argv[1])), load(0, atol(argv[2]))};
    if (hardy_main(tensors, load("constants.bin", atol(argv[3])), load(0, atol(argv[4])))) return 1;
    FILE *f = fopen("y.bin", "wb");
    return fwrite(tensors[1], 1, atol(argv[2]), f) != (size_t)atol(argv[2]);
}
"""


def test_c_program_runs_the_library_without_python(tmp_path: Path) -> None:
    command = library.linker(isas.host())
    assert command is not None
    graph = network()
    package = compile_graph(graph).package
    for name, data in package.files.items():
        Path(tmp_path, name).write_bytes(data)
    x = torch.randn(1, 12, 10, 3)
    Path(tmp_path, "x.bin").write_bytes(x.numpy().tobytes())
    constants = package.weights[CONSTANTS].numpy().tobytes()
    Path(tmp_path, "constants.bin").write_bytes(constants)
    Path(tmp_path, "main.c").write_text(MAIN_C)
    flags = ["-O1", "-o", "main", "main.c", f"./{LIBRARY}", "-Wl,-rpath,$ORIGIN"]
    subprocess.run([command, *flags], cwd=tmp_path, check=True)
    (expected,) = evaluate(graph, [x])
    sizes = (x.nbytes, expected.nbytes, len(constants), package.manifest["arena_bytes"])
    subprocess.run(["./main", *map(str, sizes)], cwd=tmp_path, check=True)
    actual = np.frombuffer(Path(tmp_path, "y.bin").read_bytes(), np.float32).reshape(expected.shape)
    assert compare(expected, torch.from_numpy(actual.copy()), scaled=True).passed
