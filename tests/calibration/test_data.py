"""Samples: every form of data gives checked feeds, and bad data is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hardy.compiler.calibration import Samples, open_samples
from hardy.compiler.errors import InputError, UsageError
from hardy.compiler.types import DType, TensorType

ONE = {"x": TensorType(DType.f32, (2, 3))}
TWO = {"x": TensorType(DType.f32, (1, 3)), "ids": TensorType(DType.i64, (1, 4))}


def rows() -> Iterator[torch.Tensor]:
    yield torch.zeros(2, 3)
    yield torch.ones(2, 3)


def feeds(data: object, types: dict[str, TensorType]) -> list[dict[str, torch.Tensor]]:
    return [dict(f) for f in open_samples(data, types).feeds(types)]


def test_rows_of_an_array_fill_the_batch_and_the_rest_is_left_out() -> None:
    array = np.arange(15, dtype=np.float32).reshape(5, 3)
    found = feeds(array, ONE)
    assert [f["x"].tolist() for f in found] == [array[0:2].tolist(), array[2:4].tolist()]


def test_an_array_of_whole_inputs_gives_one_a_run() -> None:
    assert len(feeds(np.zeros((7, 2, 3), np.float32), ONE)) == 7


def test_an_input_of_rank_0_is_fed_from_a_vector() -> None:
    (first, second) = feeds({"s": np.array([1.0, 2.0], np.float32)}, {"s": TensorType(DType.f32, ())})
    assert (first["s"].shape, float(second["s"])) == ((), 2.0)


def test_a_file_feeds_every_input_and_carries_labels(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.ones((4, 3), np.float32), ids=np.ones((4, 4), np.int64), label=np.arange(4))
    found = feeds(path, TWO)
    assert [f["label"].tolist() for f in found] == [[0], [1], [2], [3]]
    assert found[0]["ids"].shape == (1, 4)


def test_an_array_of_scalars_feeds_a_scalar_input() -> None:
    types = {"x": TensorType(DType.f32, ())}
    assert [float(f["x"]) for f in feeds(np.array([1.0, 2.0], np.float32), types)] == [1.0, 2.0]


def test_a_folder_gives_the_feeds_of_its_files_in_order(tmp_path: Path) -> None:
    for name, value in (("b", 1.0), ("a", 0.0)):
        np.savez(tmp_path / f"{name}.npz", x=np.full((1, 2, 3), value, np.float32))
    assert [float(f["x"][0, 0]) for f in feeds(tmp_path, ONE)] == [0.0, 1.0]


def test_a_function_is_called_again_for_each_round() -> None:
    samples = open_samples(rows, ONE)
    assert len(list(samples.feeds(ONE))) == len(list(samples.feeds(ONE))) == 2
    assert len(list(samples.first(1).feeds(ONE))) == 1


def test_an_iterator_is_refused_since_it_ends_after_one_round() -> None:
    with pytest.raises(UsageError, match="once only"):
        open_samples(rows(), ONE)


def test_no_samples_are_an_error() -> None:
    with pytest.raises(InputError, match="holds no samples"):
        list(open_samples([], ONE).feeds(ONE))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (torch.zeros(3, 3), "must be f32"),
        (torch.zeros(2, 3, dtype=torch.float64), "must be f32"),
        (torch.full((2, 3), float("nan")), "NaN or infinity"),
        ({"y": torch.zeros(2, 3)}, "is missing"),
        ((torch.zeros(2, 3), torch.zeros(2)), "must hold 1 tensors"),
        (3, "must be a mapping"),
    ],
)
def test_a_bad_sample_is_named(sample: object, message: str) -> None:
    samples = Samples(lambda: [torch.zeros(2, 3), sample], "my data")
    with pytest.raises(InputError, match=message) as caught:
        list(samples.feeds(ONE))
    assert "sample 1 of my data" in caught.value.where


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.ones((4, 5), np.float32))
    with pytest.raises(InputError, match=r"array 'x' .* has shape \[4, 5\]"):
        feeds(path, ONE)


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="cannot read"):
        feeds(path, ONE)


@pytest.mark.parametrize(
    ("count", "of", "expected"),
    [(4, 8, [0, 2, 4, 6]), (3, 8, [0, 2, 4]), (9, 8, list(range(8))), (1, 8, [0])],
)
def test_some_feeds_are_taken_evenly_from_all(count: int, of: int, expected: list[int]) -> None:
    samples = Samples(lambda: iter(range(8)))
    assert list(samples.spread(count, of)) == expected


def test_feeds_beyond_a_limit_are_not_taken() -> None:
    assert list(Samples(lambda: iter(range(8)), limit=4).spread(2, 4)) == [0, 2]
