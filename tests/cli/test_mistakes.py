"""The commands on bad input: exit code, one readable message with the cause, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Hardy


def compile_to(out: str, *options: object) -> tuple[object, ...]:
    return ("compile", *options, "-o", out, "-t", "reference")


def test_file_that_is_no_onnx_is_named(hardy: Hardy) -> None:
    Path("model.onnx").write_text("this is no protobuf")
    done = hardy(*compile_to("m", "model.onnx"))
    assert done.code == 3
    assert "not an ONNX" in done.err
    assert "model.onnx" in done.err
    assert not Path("m").exists()


def test_truncated_onnx_is_named(hardy: Hardy, onnx_file: Path) -> None:
    data = onnx_file.read_bytes()
    for size in (0, 1, len(data) // 2, len(data) - 1):
        Path("cut.onnx").write_bytes(data[:size])
        done = hardy(*compile_to("m", "cut.onnx", "--dim", "batch=1"))
        assert done.code in (3, 5), (size, done)
        assert "Traceback" not in done.err
        assert not Path("m").exists()


def test_file_that_is_no_pt2_is_named(hardy: Hardy) -> None:
    Path("model.pt2").write_bytes(b"PK\x03\x04 not really")
    done = hardy(*compile_to("m", "model.pt2"))
    assert done.code == 3
    assert "model.pt2" in done.err


def test_missing_model_is_named(hardy: Hardy) -> None:
    done = hardy(*compile_to("m", "nowhere.onnx"))
    assert done.code == 3
    assert "there is no model nowhere.onnx" in done.err


def test_unbound_dimension_is_named(hardy: Hardy, onnx_file: Path) -> None:
    done = hardy(*compile_to("m", onnx_file))
    assert done.code == 3
    assert "batch" in done.err
    assert "--dim" in done.err
    assert not Path("m").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dim", "batch"], "--dim batch: expected NAME=VALUE"),
        (["--dim", "batch=x"], "--dim batch=x"),
        (["--dim", "batch=1", "--dim", "batch=2"], "names 'batch' twice"),
        (["--dim", "other=1"], "no free dimension 'other'"),
        (["--shape", "x=2xy"], "--shape x=2xy"),
        (["--shape", "z=2x3"], "no input 'z'"),
        (["--dim", "batch=1", "--passes", "no_such_pass"], "no pass 'no_such_pass'"),
        (["--dim", "batch=1", "--passes", "decompose(x=1)"], "no option 'x'"),
        (
            ["--dim", "batch=1", "--passes", "fold_constants(growth='a')"],
            "fold_constants's option growth must be int, got 'a'",
        ),
        (["--dim", "batch=1", "--passes", "fold_constants(growth=a)"], "element type: a"),
        (["--dim", "batch=1", "--passes", "group(policy=1)"], "FormGroups(policy=...)"),
        (["--dim", "batch=1", "--stop-after", "no_such_pass"], "no pass 'no_such_pass'"),
        (["--dim", "batch=1", "--weights", "zip"], "weights cannot be stored 'zip'"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_options_are_usage_errors(
    hardy: Hardy, onnx_file: Path, options: list[str], message: str
) -> None:
    done = hardy(*compile_to("m", onnx_file, *options))
    assert done.code == 2
    assert message in done.err
    assert not Path("m").exists()


def test_nothing_to_keep_is_a_usage_error(hardy: Hardy, onnx_file: Path) -> None:
    done = hardy("compile", onnx_file, "-t", "reference", "--dim", "batch=1")
    assert done.code == 2
    assert "-o DIR" in done.err


def test_unknown_target_lists_those_installed(hardy: Hardy, onnx_file: Path) -> None:
    done = hardy("compile", onnx_file, "-t", "abacus", "-o", "m", "--dim", "batch=1")
    assert done.code == 8
    assert "no target 'abacus'" in done.err
    assert "reference" in done.err
    assert hardy("check-target", "reference:fast").code == 8


def test_place_that_holds_something_else_is_left_alone(hardy: Hardy, onnx_file: Path) -> None:
    Path("m").mkdir()
    Path("m/thesis.tex").write_text("all of it")
    done = hardy(*compile_to("m", onnx_file, "--dim", "batch=1"))
    assert done.code == 2
    assert "not a hardy artifact" in done.err
    assert [p.name for p in Path("m").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "input 'x' is missing"),
        (["--input", "x=wide.npy", "--random"], "must be f32[2,16], got f32[2,17]"),
        (["--input", "x=double.npy", "--random"], "must be f32[2,16], got f64[2,16]"),
        (["--input", "z=x.npy", "--random"], "no input 'z'"),
        (["--input", "x=none.npy"], "cannot read none.npy"),
        (["--input", "x=text.npy"], "text.npy is not an .npy file"),
        (["--input", "x=pickle.npy"], "pickle.npy is not an .npy file"),
        (["--input", "x.npy"], "holds one array without a name"),
        (["--input", "text.npy"], "is not an .npz file"),
        (["--input", "x=both.npz"], "holds several arrays"),
        (["--input", "x=x.npy", "--input", "both.npz"], "'x' is given twice"),
    ],
)
def test_wrong_inputs_are_named(hardy: Hardy, artifact: Path, options: list[str], message: str) -> None:
    x = np.zeros((2, 16), np.float32)
    np.save("x.npy", x)
    np.save("wide.npy", np.zeros((2, 17), np.float32))
    np.save("double.npy", np.zeros((2, 16)))
    np.savez("both.npz", x=x, scale=np.float32(1))
    Path("text.npy").write_text("text")
    np.save("pickle.npy", np.array([{"a": 1}]), allow_pickle=True)
    done = hardy("run", artifact, *options, "-o", "out.npz")
    assert done.code == 7
    assert message in done.err
    assert "allow_pickle" not in done.err
    assert not Path("out.npz").exists()


def test_results_that_cannot_be_written_leave_nothing(hardy: Hardy, artifact: Path) -> None:
    done = hardy("run", artifact, "--random", "-o", "no/such/folder/out.npz")
    assert done.code == 2
    assert "cannot write" in done.err
    assert hardy("run", artifact, "--random", "-o", "out.txt").code == 2
    Path("out.npz").mkdir()
    assert hardy("run", artifact, "--random", "-o", "out.npz").code == 2
    assert not [p for p in Path().iterdir() if p.name.endswith(".tmp")]


def test_tampered_artifact_is_refused_by_every_command(hardy: Hardy, artifact: Path) -> None:
    path = artifact / "graph.ir"
    path.write_text(path.read_text().replace("add(", "sub("))
    for command in (["run", artifact, "--random"], ["bench", artifact], ["inspect", artifact]):
        done = hardy(*command)
        assert done.code == 6
        assert "graph.ir was changed" in done.err


def test_artifact_without_a_readable_manifest_is_damaged_not_a_model(hardy: Hardy, artifact: Path) -> None:
    (artifact / "manifest.json").write_text("{")
    for command in (["run", artifact, "--random"], ["bench", artifact], ["inspect", artifact]):
        done = hardy(*command)
        assert done.code == 6
        assert "the manifest is not JSON" in done.err
        assert "compile the model again" in done.err


def test_what_is_no_artifact_says_how_to_make_one(hardy: Hardy, onnx_file: Path) -> None:
    for place in (onnx_file, "nowhere", "."):
        done = hardy("run", place, "--random")
        assert done.code == 6
        assert "hardy compile MODEL -o DIR" in done.err


def test_artifact_of_a_target_that_is_not_installed_is_named(
    hardy: Hardy, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardy.targets.target.installed_targets", dict)
    done = hardy("run", artifact, "--random")
    assert done.code == 8
    assert "no target 'reference'" in done.err
    assert f"at: {artifact}" in done.err


def test_no_command_shows_the_help_and_no_empty_error(hardy: Hardy) -> None:
    done = hardy()
    assert done.code == 2
    assert "check-target" in done.out
    assert done.err == ""


def test_errors_are_json_with_json(hardy: Hardy) -> None:
    done = hardy(*compile_to("m", "nowhere.onnx", "--json"))
    assert done.out == ""
    assert done.error["exit_code"] == 3
    assert "nowhere.onnx" in done.error["error"]
    assert hardy("compile", "--json").error["exit_code"] == 2
    assert hardy("nonsense", "--json").error["exit_code"] == 2


def test_debug_shows_the_traceback(hardy: Hardy) -> None:
    with pytest.raises(Exception, match=r"nowhere\.onnx"):
        hardy(*compile_to("m", "nowhere.onnx", "--debug"))


def test_dump_to_a_place_that_cannot_be_written_is_named(hardy: Hardy, onnx_file: Path) -> None:
    Path("file").write_text("")
    done = hardy(*compile_to("m", onnx_file, "--dim", "batch=1", "--dump", "file/dump"))
    assert done.code == 1
    assert "Not a directory" in done.err
    assert not Path("m").exists()


# A process started in a shell's background ignores interrupts, and so would its children.
HEARS_INTERRUPTS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
"""

SLOW_TARGET = f"""{HEARS_INTERRUPTS}
import time
from hardy.compiler.cli import main
from hardy.targets.reference import target
from hardy.targets.target import Stage

class Slow(target.ReferenceTarget):
    def stages(self):
        def wait(graph):
            print("waiting", flush=True)
            time.sleep(60)
        return (Stage("wait", wait, lambda x: dict()),)

target.ReferenceTarget.stages = Slow.stages
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_compilation_leaves_what_stood_there(
    artifact: Path, onnx_file: Path, number: signal.Signals, code: int
) -> None:
    before = {p: p.read_bytes() for p in artifact.rglob("*") if p.is_file()}
    arguments = ["compile", str(onnx_file), "-t", "reference", "-o", str(artifact), "--dim", "batch=2"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_TARGET, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "waiting"
        time.sleep(0.2)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code
    assert "Traceback" not in err
    assert {p: p.read_bytes() for p in artifact.rglob("*") if p.is_file()} == before
    assert not [p for p in artifact.absolute().parent.iterdir() if p.name.endswith(".tmp")]


WRITING = f"""{HEARS_INTERRUPTS}
import sys, time
from hardy.compiler.artifact.folder import NewFolder
from hardy.compiler.cli import main

write = NewFolder.write
def slow(self, relative, data):
    write(self, relative, data)
    print("wrote", relative, flush=True)
    time.sleep(60)

NewFolder.write = slow
main()
"""


def test_interrupt_while_writing_leaves_nothing(onnx_file: Path, tmp_path: Path) -> None:
    place = tmp_path / "new" / "model"
    arguments = ["compile", str(onnx_file), "-t", "reference", "-o", str(place), "--dim", "batch=2", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("wrote")
        assert [p.suffix for p in place.parent.iterdir()] == [".tmp"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert json.loads(err) == {"error": "interrupted", "exit_code": 130}
    assert not place.parent.exists()


def test_reader_that_goes_away_is_no_traceback(artifact: Path) -> None:
    code = "from hardy.compiler.cli import main; main()"
    command = [sys.executable, "-c", code, "inspect", str(artifact), "--ir"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "int8"], "has no calibration data"),
        (["--preset", "int7"], "there is no preset 'int7'"),
        (["--preset", "int8", "--passes", "simplify"], "one or the other"),
        (["--calibration", "data.npz"], "no pass takes the calibration data"),
        (["--preset", "int8", "--calibration", "data.npz"], "data.npz is not an .npz file"),
        (["--samples", "3"], "no pass takes the number of samples"),
    ],
)
def test_mistakes_with_calibration_data_are_named(
    hardy: Hardy, onnx_file: Path, options: list[str], message: str
) -> None:
    done = hardy("compile", onnx_file, "-t", "reference", "-o", "m", "--dim", "batch=300", "--json", *options)
    assert done.code == 2, done.err
    assert message in done.error["error"]
    assert not Path("m").exists()
