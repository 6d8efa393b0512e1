"""A third-party target, installed as its author's users would, from what the guide shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hardy
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.ops.activation import Relu, Softmax
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.types import DType, TensorType

HERE = Path(__file__).parent
GUIDE = HERE.parents[1] / "docs" / "new-target.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in it, built from the guide's own text."""
    source = tmp_path_factory.mktemp("source")
    (source / "pyproject.toml").write_text(blocks("toml")[0])
    (source / "hardy_accumulator.py").write_text("\n\n".join(blocks("python")))
    site = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "--target", site, source], check=True, timeout=120)
    return site


def hardy_command(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`hardy` in a process that sees the installed package."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", "from hardy.compiler.cli import main; main()", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def squeezed(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_guide_shows_the_whole_package() -> None:
    assert squeezed("\n".join(blocks("python"))) == squeezed((HERE / "hardy_accumulator.py").read_text())
    assert blocks("toml") == [(HERE / "pyproject.toml").read_text()]


def test_installed_target_is_listed(site: Path) -> None:
    listed = json.loads(hardy_command(site, "targets", "--json").stdout)["targets"]
    (row,) = [t for t in listed if t["name"] == "accumulator"]
    assert row == {
        "name": "accumulator",
        "device": "accumulator machine",
        "features": [],
        "summary": "an accumulator machine, simulated with NumPy",
        "missing": [],
    }


def test_installed_target_passes_the_conformance_kit(site: Path) -> None:
    done = hardy_command(site, "check-target", "accumulator", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0, [c for c in result["cases"] if c["verdict"] == "wrong"]
    assert result["counts"]["wrong"] == 0
    right = {(c["op"], c["dtype"]) for c in result["cases"] if c["verdict"] == "ok"}
    assert {("matmul", "f32"), ("softmax", "f64"), ("add", "i32"), ("silu", "f32")} <= right
    refused = [c for c in result["cases"] if c["verdict"] == "refused"]
    assert all(c["reason"] for c in refused)
    reasons = {c["op"]: c["reason"] for c in refused}
    assert "the machine has no instruction for conv" in reasons["conv"]


def test_conformance_kit_notices_a_wrong_result(site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(site, broken)
    module = broken / "hardy_accumulator.py"
    module.write_text(module.read_text().replace('"sub": np.subtract', '"sub": np.add'))
    shutil.rmtree(broken / "__pycache__", ignore_errors=True)
    done = hardy_command(broken, "check-target", "accumulator", "--op", "sub", "--op", "add", "--json")
    verdicts = {(c["op"], c["verdict"]) for c in json.loads(done.stdout)["cases"]}
    assert done.returncode == 1
    assert ("sub", "wrong") in verdicts
    assert ("add", "ok") in verdicts
    assert ("add", "wrong") not in verdicts


def classifier() -> Graph:
    rng = torch.Generator().manual_seed(1)
    b = Builder("classifier")
    x = b.input("x", TensorType(DType.f32, (4, 8)))
    first, bias, second = (b.constant(torch.randn(s, generator=rng)) for s in ((8, 16), (16,), (16, 3)))
    hidden = b(Relu(), b(Add(), b(Matmul(), x, first), bias))
    return b.finish({"scores": b(Softmax(1), b(Matmul(), hidden, second))})


MODEL = """
import torch

def model():
    torch.manual_seed(0)
    hidden, output = torch.nn.Linear(8, 16), torch.nn.Linear(16, 3)
    layers = torch.nn.Sequential(hidden, torch.nn.ReLU(), output, torch.nn.Softmax(1))
    return layers.eval(), (torch.zeros(4, 8),)
"""


def test_model_compiles_and_runs_on_the_installed_target(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "plugin_model.py").write_text(MODEL)
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    made = hardy_command(
        tmp_path / "site", "compile", "plugin_model:model", "-t", "accumulator", "-o", tmp_path / "a",
        "--dump", tmp_path / "dump", "--validate", "--json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (name,) = json.loads(made.stdout)["inputs"]
    assert any(f.read_text().startswith("; inputs") for f in (tmp_path / "dump").rglob("program.txt"))
    ran = hardy_command(
        tmp_path / "site",
        "run",
        tmp_path / "a",
        "--input",
        f"{name}={tmp_path / 'x.npy'}",
        "-o",
        tmp_path / "y.npz",
    )
    assert ran.returncode == 0, ran.stderr
    scope: dict[str, object] = {}
    exec(MODEL, scope)
    module, _ = scope["model"]()  # type: ignore[operator]
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    (actual,) = np.load(tmp_path / "y.npz").values()
    np.testing.assert_allclose(actual, expected, rtol=1.3e-6, atol=1e-5)


def test_artifact_of_a_target_that_is_not_installed_says_so(site: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(HERE))
    try:
        from hardy_accumulator import AccumulatorTarget
    finally:
        sys.path.remove(str(HERE))
    hardy.compile(classifier(), target=AccumulatorTarget(), out=tmp_path / "a")
    with pytest.raises(hardy.TargetError, match="no target 'accumulator'"):
        hardy.load(tmp_path / "a")
    loaded = hardy.load(tmp_path / "a", target=AccumulatorTarget())
    x = torch.randn(4, 8)
    expected = hardy.compile(classifier(), target="reference").run(x=x)["scores"]
    torch.testing.assert_close(loaded.run(x=x)["scores"], expected)


def test_two_packages_that_declare_one_target_are_refused(site: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(site, both)
    other = both / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[hardy.targets]\naccumulator = other:Other\n")
    done = hardy_command(both, "check-target", "accumulator", "--json")
    assert done.returncode == hardy.TargetError.exit_code
    assert "two packages declare a target 'accumulator'" in json.loads(done.stderr)["error"]


def test_broken_package_does_not_keep_other_targets_from_working(site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(site, broken)
    (broken / "hardy_accumulator.py").write_text("import a_library_that_is_not_there\n")
    shutil.rmtree(broken / "__pycache__", ignore_errors=True)
    listed = json.loads(hardy_command(broken, "targets", "--json").stdout)["targets"]
    (row,) = [t for t in listed if t["name"] == "accumulator"]
    assert "a_library_that_is_not_there" in row["error"]
    assert hardy_command(broken, "check-target", "reference", "--op", "neg").returncode == 0
    refused = hardy_command(broken, "check-target", "accumulator")
    assert refused.returncode == hardy.TargetError.exit_code
    assert "a_library_that_is_not_there" in refused.stderr
