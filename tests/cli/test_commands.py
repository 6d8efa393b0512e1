"""The commands on good input: what they print, write and return."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hardy.targets.cpu.target import CpuTarget
from tests.cli.conftest import Hardy

MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(16, 9)

    def forward(self, x):
        return torch.nn.functional.gelu(self.linear(x))

def model():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(2, 16),)
"""


def test_compile_prints_tables_and_writes_the_artifact(hardy: Hardy, onnx_file: Path) -> None:
    done = hardy("compile", onnx_file, "-t", "reference", "-o", "out/deep/model", "--dim", "batch=2")
    assert done.code == 0, done.err
    assert "f32[2,16]" in done.out
    assert "largest difference" in done.out
    assert "reference" in done.out
    assert done.err == ""
    assert sorted(p.name for p in Path("out/deep/model").iterdir()) == [
        "graph.ir", "manifest.json", "passes", "report.json", "weights.safetensors",
    ]  # fmt: skip


def test_validate_says_how_far_the_program_is_from_the_reference(hardy: Hardy, onnx_file: Path) -> None:
    command = ["compile", onnx_file, "-t", "reference", "-o", "m", "--dim", "batch=2"]
    done = hardy(*command, "--validate")
    assert done.code == 0, done.err
    assert "program agrees with the reference: largest difference 0" in done.out
    assert hardy(*command, "--validate", "--json").json["program"] == {"y": 0.0}
    assert hardy(*command, "--json").json["program"] is None


def test_compile_prints_one_json_object(hardy: Hardy, onnx_file: Path) -> None:
    done = hardy(
        "compile",
        onnx_file,
        "-t",
        "reference",
        "-o",
        "m",
        "--shape",
        "x=3x16",
        "--passes",
        "fold_constants",
        "--json",
    )
    assert done.code == 0, done.err
    assert done.json["inputs"] == {"x": "f32[3,16]", "scale": "f32[]"}
    assert [row["name"] for row in done.json["passes"]] == ["fold_constants"]
    assert done.json["seconds"]["import"] > 0
    assert done.json["import"]["against"]
    assert len(done.json["digest"]) == 64


def test_compile_takes_a_function_of_a_module_below_the_current_folder(hardy: Hardy) -> None:
    Path("nets").mkdir()
    Path("nets/gelu.py").write_text(MODULE)
    done = hardy("compile", "nets.gelu:model", "-t", "reference", "-o", "m", "--json")
    assert done.code == 0, done.err
    assert list(done.json["outputs"].values()) == ["f32[2,9]"]


def test_compile_takes_a_pt2_file(hardy: Hardy) -> None:
    scope: dict[str, object] = {}
    exec(MODULE, scope)
    module, inputs = scope["model"]()  # type: ignore[operator]
    torch.export.save(torch.export.export(module, inputs), "net.pt2")
    done = hardy("compile", "net.pt2", "-t", "reference", "-o", "m", "--json")
    assert done.code == 0, done.err
    assert list(done.json["outputs"].values()) == ["f32[2,9]"]


def test_two_compilations_give_the_same_bytes(hardy: Hardy, onnx_file: Path) -> None:
    for out in ("a", "b"):
        assert hardy("compile", onnx_file, "-t", "reference", "-o", out, "--dim", "batch=2").code == 0
    files = [
        {p.relative_to(r): p.read_bytes() for p in Path(r).rglob("*") if p.is_file()} for r in ("a", "b")
    ]
    assert files[0] == files[1]


def test_bind_makes_an_input_a_constant(hardy: Hardy, onnx_file: Path) -> None:
    np.save("two.npy", np.float32(2))
    done = hardy(
        "compile",
        onnx_file,
        "-t",
        "reference",
        "-o",
        "m",
        "--dim",
        "batch=2",
        "--bind",
        "scale=two.npy",
        "--json",
    )
    assert done.code == 0, done.err
    assert done.json["inputs"] == {"x": "f32[2,16]"}


def test_dump_and_stop_after_show_the_graph_on_its_way(hardy: Hardy, onnx_file: Path) -> None:
    done = hardy(
        "compile", onnx_file, "-t", "reference", "--dim", "batch=2", "--dump", "dump",
        "--passes", "fold_constants,eliminate_dead_code,decompose", "--stop-after", "eliminate_dead_code",
        "--validate",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert sorted(p.name for p in Path("dump").iterdir()) == [
        "00-input.ir", "01-fold_constants.ir", "02-eliminate_dead_code.ir", "summary.json",
    ]  # fmt: skip


def test_run_writes_what_onnxruntime_computes(hardy: Hardy, artifact: Path, onnx_file: Path) -> None:
    x = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    np.save("x.npy", x)
    np.savez("rest.npz", scale=np.float32(1.5))
    done = hardy("run", artifact, "--input", "x=x.npy", "--input", "rest.npz", "-o", "out.npz")
    assert done.code == 0, done.err
    assert "f32[2,9]" in done.out
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(onnx_file))
    (expected,) = session.run(None, {"x": x, "scale": np.array(1.5, np.float32)})
    np.testing.assert_allclose(np.load("out.npz")["y"], expected, rtol=1.3e-6, atol=1e-5)


def test_run_prints_figures_as_json(hardy: Hardy, artifact: Path) -> None:
    row = hardy("run", artifact, "--random", "--json").json["outputs"]["y"]
    assert row["type"] == "f32[2,9]"
    assert row["least"] <= row["mean"] <= row["greatest"]
    assert len(row["first"]) == 4


def test_bench_times_the_artifact_beside_onnxruntime(hardy: Hardy, artifact: Path, onnx_file: Path) -> None:
    pytest.importorskip("onnxruntime")
    threads = torch.get_num_threads()
    try:
        done = hardy(
            "bench",
            artifact,
            "--seconds",
            "0.05",
            "--peer",
            f"onnxruntime={onnx_file}",
            "--threads",
            "1",
            "--json",
        )
    finally:
        torch.set_num_threads(threads)
    assert done.code == 0, done.err
    first, second = done.json["results"]
    assert first["name"] == "reference"
    assert second["name"].startswith("onnxruntime")
    assert 0 < first["best"] <= first["median"] <= first["p90"]


def test_bench_profiles_the_steps_of_a_program(hardy: Hardy, onnx_file: Path) -> None:
    hardy("compile", onnx_file, "-t", "cpu", "-o", "native.hardy", "--dim", "batch=2")
    done = hardy("bench", "native.hardy", "--seconds", "0.05", "--profile", "--json")
    assert done.code == 0, done.err
    assert len(done.json["profile"]) >= 1
    assert all(step["step"] and step["seconds"] > 0 for step in done.json["profile"])


def test_bench_says_when_a_target_cannot_profile(hardy: Hardy, artifact: Path) -> None:
    done = hardy("bench", artifact, "--seconds", "0.05", "--profile")
    assert done.code == 2
    assert "the target reference cannot time the steps" in done.err


def test_inspect_shows_a_model_without_running_passes(hardy: Hardy, onnx_file: Path) -> None:
    done = hardy("inspect", onnx_file, "--dim", "batch=2", "--json")
    assert done.code == 0, done.err
    assert done.json["ops"] == {"add": 1, "matmul": 1, "mul": 1, "relu": 1}
    assert done.json["passes"] == []
    assert done.json["statistics"]["parameters"] == 16 * 9 + 9


def test_inspect_shows_the_graph_around_a_pass(hardy: Hardy, onnx_file: Path) -> None:
    options = ("inspect", onnx_file, "--dim", "batch=2", "--passes", "eliminate_dead_code,decompose")
    shown = hardy(*options, "--pass", "decompose")
    assert shown.code == 0, shown.err
    before, after = shown.out.split("# after")
    assert "relu(" in before
    assert "relu(" not in after
    diff = hardy(*options, "--pass", "decompose", "--diff").out.splitlines()
    assert any(line.startswith("-") and "relu(" in line for line in diff)
    assert any(line.startswith("+") and "max(" in line for line in diff)
    unchanged = hardy(*options, "--pass", "eliminate_dead_code", "--json")
    assert unchanged.code == 2
    assert "02-decompose" in unchanged.error["hint"]


def test_inspect_shows_an_artifact(hardy: Hardy, onnx_file: Path) -> None:
    made = hardy(
        "compile", onnx_file, "-t", "reference", "-o", "m", "--dim", "batch=2", "--passes", "decompose"
    )
    assert made.code == 0, made.err
    summary = hardy("inspect", "m", "--json").json
    assert summary["target"] == "reference"
    assert summary["model"]["file"] == "affine.onnx"
    assert summary["passes"][0]["name"] == "decompose"
    assert "relu(" in hardy("inspect", "m", "--pass", "decompose", "--json").json["before"]
    assert "graph affine(" in hardy("inspect", "m", "--ir").out
    text = hardy("inspect", "m").out
    assert "matmul" in text
    assert "decompose" in text


def test_coded_weights_are_smaller_and_inspect_shows_how(hardy: Hardy, onnx_file: Path) -> None:
    options = ("-t", "reference", "--dim", "batch=2", "--passes", "cluster(bits=2)", "--weights", "coded")
    made = hardy("compile", onnx_file, "-o", "m", *options)
    assert made.code == 0, made.err
    rows = {row["type"]: row for row in hardy("inspect", "m", "--json").json["weights"]}
    assert rows["f32[16,9]"]["weight"] == "w"
    assert rows["f32[16,9]"]["form"] == "4 values"
    assert rows["f32[16,9]"]["raw_bytes"] == 576
    assert rows["f32[16,9]"]["bytes"] < 150
    assert rows["f32[16,9]"]["bits"] == pytest.approx(8 * rows["f32[16,9]"]["bytes"] / 144, abs=0.01)
    assert "4 values" in hardy("inspect", "m").out
    assert hardy("run", "m", "--random", "-o", "out.npz").code == 0


def test_inspect_writes_onnx_that_the_checker_takes(hardy: Hardy, artifact: Path) -> None:
    done = hardy("inspect", artifact, "--onnx", "seen.onnx")
    assert done.code == 0, done.err
    onnx.checker.check_model(onnx.load("seen.onnx"), full_check=True)


def test_targets_lists_what_is_installed(hardy: Hardy) -> None:
    rows = {row["name"]: row for row in hardy("targets", "--json").json["targets"]}
    assert rows["reference"]["missing"] == []
    assert "error" not in rows["cpu"]
    shown = hardy("targets").out
    assert "reference: runs here" in shown
    # What a device has is for programs: a line of flags would fill the table.
    assert isinstance(rows["cpu"]["features"], list)
    assert all(feature not in shown.split() for feature in rows["cpu"]["features"])


def test_targets_say_what_is_missing(hardy: Hardy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuTarget, "check", lambda self: ["a compiler", "a core"])
    assert "cpu: missing here: a compiler; a core" in hardy("targets").out


def test_passes_lists_options_and_what_they_do(hardy: Hardy) -> None:
    rows = {row["name"]: row for row in hardy("passes", "--json").json["passes"]}
    assert rows["decompose"]["exact"] is True
    assert "supports" in rows["decompose"]["options"]
    assert all(row["summary"] for row in rows.values())
    assert "decompose" in hardy("passes").out


def test_check_target_covers_every_op_on_the_reference(hardy: Hardy) -> None:
    done = hardy("check-target", "reference", "--op", "matmul", "--op", "softmax", "--json")
    assert done.code == 0, done.err
    assert done.json["counts"]["wrong"] == done.json["counts"]["refused"] == 0
    assert {c["op"] for c in done.json["cases"]} == {"matmul", "softmax"}
    table = hardy("check-target", "reference", "--op", "softmax").out
    assert "softmax" in table
    assert "0 refused, 0 wrong" in table


def test_version_is_printed(hardy: Hardy) -> None:
    import hardy as package

    assert hardy("--version").out.strip() == package.__version__


def processor_seconds(code: str) -> float:
    """User and system time of a Python process, which a busy machine stretches less than the clock."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_help_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys\nfrom hardy.compiler.cli import _run\ncode = _run(['compile', '--help'])\n"
        "heavy = {'torch', 'numpy', 'onnx', 'tvm'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    assert min(processor_seconds(code) for _ in range(3)) < 0.5


def test_compile_quantizes_with_data_from_a_file(hardy: Hardy, onnx_file: Path) -> None:
    np.savez(
        "data.npz",
        x=np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32),
        scale=np.ones(6, np.float32),
    )
    command = ["compile", onnx_file, "-t", "reference", "-o", "m", "--dim", "batch=1", "--json"]
    done = hardy(
        *command, "--passes", "quantize(least_macs=0)", "--calibration", "data.npz", "--samples", "4"
    )
    assert done.code == 0, done.err
    (record,) = done.json["passes"]
    assert record["name"] == "quantize"
    assert record["notes"]["samples"] == 4
    done = hardy(*command, "--preset", "int8", "--calibration", "data.npz")
    assert done.code == 0, done.err
    assert done.json["passes"][-1]["name"] == "quantize"


def test_compile_takes_calibration_data_from_a_folder_and_a_function(
    hardy: Hardy, onnx_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    for part in range(2):
        np.savez(
            tmp_path / "parts" / f"{part}.npz", x=np.ones((3, 16), np.float32), scale=np.ones(3, np.float32)
        )
    (tmp_path / "samples_of_mine.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    yield {'x': np.ones((1, 16), np.float32), 'scale': np.ones((), np.float32)}\n"
    )
    command = ["compile", onnx_file, "-t", "reference", "-o", "m", "--dim", "batch=1", "--json"]
    for data, count in (("parts", 6), ("samples_of_mine:samples", 1)):
        done = hardy(*command, "--passes", "quantize(least_macs=0)", "--calibration", data)
        assert done.code == 0, done.err
        assert done.json["passes"][0]["notes"]["samples"] == count
