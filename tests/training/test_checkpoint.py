"""Checkpoints: training that was interrupted ends as if it had not been."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hardy.compiler.calibration import Samples
from hardy.compiler.errors import ArtifactError, UsageError
from hardy.compiler.text import print_graph
from hardy.compiler.training import Checkpoint, CrossEntropy, GraphModule, Keep, fit
from tests.training.nets import classes, perceptron


class KilledError(Exception):
    pass


def fitted(
    checkpoint: Checkpoint | None, stop: int | None = None, keep: Keep = "nothing", **options: object
) -> tuple[str, list[float], list[int]]:
    """The trained graph, the losses and the steps taken; killed after step `stop`."""
    steps: list[int] = []

    def progress(step: str, done: int, total: int) -> None:
        steps.append(done)
        if done == stop:
            raise KilledError

    module = GraphModule(perceptron(), keep=keep)
    options = {"epochs": 3, "rate": 0.01, "batch": 8, "schedule": "one_cycle"} | options
    history = fit(
        module,
        classes(40),
        CrossEntropy(),
        checkpoint=checkpoint,
        progress=progress,
        **options,  # type: ignore[arg-type]
    )
    return print_graph(module.to_graph()), history.losses, steps


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd", "keep": "ties"}, {"clip_norm": 0.1}])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path, options: dict[str, object]) -> None:
    expected, losses, _ = fitted(None, **options)  # type: ignore[arg-type]
    kept = Checkpoint(tmp_path / "run.safetensors", every=4)
    with pytest.raises(KilledError):
        fitted(kept, stop=11, **options)  # type: ignore[arg-type]
    graph, resumed, steps = fitted(kept, **options)  # type: ignore[arg-type]
    assert steps[0] == 9  # the three steps since the last checkpoint are taken again
    assert graph == expected
    assert resumed == losses
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_finished_run_takes_no_more_steps(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "deep" / "run.safetensors", every=100)
    first, losses, _ = fitted(kept)
    again, same, steps = fitted(kept)
    assert first == again
    assert losses == same
    assert steps == []


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "run.safetensors")
    fitted(kept)
    with pytest.raises(UsageError, match="of another run: rate, batch differ"):
        fitted(kept, rate=0.02, batch=4)


def test_a_file_that_is_no_checkpoint_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(ArtifactError, match="cannot read the checkpoint"):
        fitted(Checkpoint(path))
    assert path.read_bytes() == b"not safetensors"


def test_an_interval_of_no_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every 0 steps"):
        Checkpoint(tmp_path / "run.safetensors", every=0)


def test_the_learned_projections_of_a_loss_are_in_the_checkpoint(tmp_path: Path) -> None:
    from hardy.compiler.training import MatchHidden, Taught

    path = tmp_path / "run.safetensors"

    def once(stop: int | None) -> list[float]:
        torch.manual_seed(0)
        student, teacher = perceptron(4), perceptron(16, seed=1)
        pair = [n.values[0] for g in (student, teacher) for n in g.nodes if n.op.name == "relu"]
        unlabelled = Samples(lambda: [{"input": f["input"]} for f in classes(16)])

        def progress(step: str, done: int, total: int) -> None:
            if done == stop:
                raise KilledError

        loss = Taught(teacher, MatchHidden([(pair[0], pair[1])]))
        kept = Checkpoint(path, every=1)
        return fit(
            GraphModule(student),
            unlabelled,
            loss,
            epochs=2,
            rate=0.01,
            batch=4,
            checkpoint=kept,
            progress=progress,
        ).losses

    expected = once(None)
    path.unlink()
    with pytest.raises(KilledError):
        once(3)
    assert once(None) == expected
