"""ONNX models that come inside packages: `reference` and `cpu` agree with onnxruntime on every one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

import hardy
from examples.models.packages import folder_of
from hardy.compiler.frontends import onnx
from hardy.compiler.frontends.onnx.oracle import run_model
from hardy.compiler.frontends.selftest import random_inputs
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.tolerance import require_close


@dataclass(frozen=True)
class Packaged:
    """A model file inside a package, how its free dimensions are bound, and which inputs are parameters."""

    package: str
    install: str
    file: str
    shapes: dict[str, tuple[int, ...]]
    bind: dict[str, np.ndarray] = field(default_factory=dict)


OCR = ("rapidocr_onnxruntime", "--no-deps rapidocr-onnxruntime==1.4.4")
VAD = ("silero_vad", "--no-deps silero-vad==6.2.3")
RATE = {"sr": np.array(16000)}
SPEECH = {"input": (1, 576), "state": (2, 1, 128)}
MODELS = {
    "ocr_classifier": Packaged(*OCR, "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    "ocr_recogniser": Packaged(*OCR, "models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 160)}),
    "ocr_detector": Packaged(*OCR, "models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 160, 160)}),
    "magika": Packaged(
        "magika", "--no-deps magika==1.0.3", "models/standard_v3_3/model.onnx", {"bytes": (1, 2048)}
    ),
    "speech": Packaged(*VAD, "data/silero_vad.onnx", SPEECH, RATE),
    "speech_opset15": Packaged(*VAD, "data/silero_vad_16k_op15.onnx", SPEECH, RATE),
    "speech_opset18": Packaged(*VAD, "data/silero_vad_op18_ifless.onnx", SPEECH, RATE),
    "speech_half": Packaged(*VAD, "data/silero_vad_half.onnx", SPEECH),
    "speech_openvino": Packaged(*VAD, "data/silero_vad_openvino_16k.onnx", {}),
    "speech_sequence": Packaged(*VAD, "data/silero_vad_16k_sequence.onnx", {"input": (4, 576)}),
}
QUICK = ("ocr_classifier", "speech_opset15")
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MODELS]


def imported(name: str) -> tuple[Path, Graph, Packaged]:
    model = MODELS[name]
    try:
        path = folder_of(model.package, model.install) / model.file
    except ImportError as error:
        pytest.skip(str(error))
    return path, onnx.load(path, shapes=model.shapes, bind=model.bind), model


def inputs_of(graph: Graph, name: str) -> dict[str, torch.Tensor]:
    # Bytes of 0 and 1 alone make magika's float32 sums ill-conditioned; all values occur in files.
    return random_inputs(graph.input_types(), ids_below=256 if name == "magika" else 2)


@pytest.mark.parametrize("name", NAMES)
def test_packaged_model_agrees_with_onnxruntime(name: str) -> None:
    path, graph, model = imported(name)
    inputs = inputs_of(graph, name)
    against, expected, refusals = run_model(path, graph, inputs, model.bind)
    assert expected is not None, refusals
    assert against == "onnxruntime"
    compiled = hardy.compile(graph, target="cpu")
    for results in (run(graph, inputs), compiled.run(inputs)):
        for output, tensor in expected.items():
            require_close(f"{name} {output}", tensor, results[output], scaled=True)
