from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hardy.compiler.cli import _run


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.out)
        return value

    @property
    def error(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.err)
        return value


Hardy = Callable[..., Done]


@pytest.fixture
def hardy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hardy]:
    """Runs `hardy` in this process, in a folder of its own, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = _run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    yield run
    for name in set(sys.modules) - known:
        module = sys.modules[name]
        # Not by getattr: modules of torch make up any attribute that they are asked for.
        places = [vars(module).get("__file__"), *vars(module).get("__path__", ())]
        if any(Path(place).is_relative_to(tmp_path) for place in places if place):
            del sys.modules[name]


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """relu(x @ w + b), with a free batch dimension, and the constant input `scale`."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["s"]),
        helper.make_node("Mul", ["s", "scale"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "affine",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 9])],
        [
            numpy_helper.from_array(rng.normal(size=(16, 9)).astype(np.float32), "w"),
            numpy_helper.from_array(rng.normal(size=9).astype(np.float32), "b"),
        ],
    )
    path = tmp_path / "affine.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def artifact(hardy: Hardy, onnx_file: Path) -> Path:
    done = hardy("compile", onnx_file, "-t", "reference", "-o", "model.hardy", "--dim", "batch=2")
    assert done.code == 0, done.err
    return Path("model.hardy")
