"""ONNX files that are damaged or hostile: each is an error that names the cause."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from hardy.compiler.errors import ModelError
from hardy.compiler.frontends.onnx import load
from hardy.compiler.interpret import run


def info(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def make(nodes: list[onnx.NodeProto], *initializers: TensorProto) -> ModelProto:
    graph = helper.make_graph(nodes, "g", [info("x", 4)], [info("y", 4)], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def add(name: str = "w") -> list[onnx.NodeProto]:
    return [helper.make_node("Add", ["x", name], ["y"])]


# The file itself


@pytest.mark.parametrize(
    "content", [b"hello, I am a text file\n" * 10, b"\x89PNG\r\n\x1a\n" + bytes(100), b""]
)
def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"not an ONNX|no outputs") as caught:
        load(path)
    assert str(path) in caught.value.where


@pytest.mark.parametrize("kept", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path: Path, kept: float) -> None:
    weights = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    data = make(add(), weights).SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ModelError):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx: No such file"):
        load(tmp_path / "none.onnx")


# The graph


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [helper.make_node("Neg", ["a"], ["y"]), helper.make_node("Abs", ["x"], ["a"])]
    assert [n.op.name for n in load(make(nodes)).nodes] == ["input", "abs", "neg"]


def test_a_cycle_is_an_error_that_shows_it() -> None:
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"], name="first"),
        helper.make_node("Neg", ["a"], ["b"], name="second"),
        helper.make_node("Abs", ["b"], ["c"], name="third"),
        helper.make_node("Neg", ["c"], ["y"]),
    ]
    with pytest.raises(ModelError, match="the graph has a cycle") as caught:
        load(make(nodes))
    for name in ("first", "second", "third"):
        assert f"'{name}'" in caught.value.message
    assert "'y'" not in caught.value.message


def test_a_name_that_is_defined_twice_names_both_nodes() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"], name="n"), helper.make_node("Abs", ["x"], ["y"], name="a")]
    with pytest.raises(ModelError, match="'y' is defined twice: by onnx:Neg 'n' and onnx:Abs 'a'"):
        load(make(nodes))


def test_two_initializers_with_one_name_are_an_error() -> None:
    weights = numpy_helper.from_array(np.zeros(4, dtype=np.float32), "w")
    with pytest.raises(ModelError, match="two initializers have the name 'w'"):
        load(make(add(), weights, weights))


def test_a_name_that_nothing_defines_is_named() -> None:
    with pytest.raises(ModelError, match="nothing defines the name 'w'") as caught:
        load(make(add()))
    assert caught.value.where == "onnx:Add #0 -> 'y'"


def test_a_missing_operand_is_an_error_of_its_node() -> None:
    with pytest.raises(ModelError, match="Add misses operand 1"):
        load(make([helper.make_node("Add", ["x"], ["y"])]))


def test_shapes_that_do_not_fit_are_an_error_of_the_model_with_its_node() -> None:
    weights = numpy_helper.from_array(np.zeros(3, dtype=np.float32), "w")
    with pytest.raises(ModelError, match="do not broadcast") as caught:
        load(make(add(), weights))
    assert "onnx:Add #0 -> 'y'" in caught.value.where


def test_an_attribute_of_the_wrong_type_is_an_error() -> None:
    with pytest.raises(ModelError, match="'axis' must be INT, got FLOAT"):
        load(make([helper.make_node("Softmax", ["x"], ["y"], axis=0.5)]))


def test_deeply_nested_functions_end_in_an_error_and_not_in_a_crash() -> None:
    functions = [
        helper.make_function(
            "f",
            f"f{i}",
            ["a"],
            ["b"],
            [
                helper.make_node(
                    f"f{i + 1}" if i < 999 else "Neg", ["a"], ["b"], domain="f" if i < 999 else ""
                )
            ],
            [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)],
        )
        for i in range(1000)
    ]
    model = make([helper.make_node("f0", ["x"], ["y"], domain="f")])
    model.opset_import.append(helper.make_opsetid("f", 1))
    model.functions.extend(functions)
    with pytest.raises(ModelError, match="nest more than"):
        load(model)


# Tensors


def test_an_initializer_without_its_data_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"the data does not fill shape \[4\] of f32") as caught:
        load(make(add(), TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])))
    assert caught.value.where == "tensor 'w'"


def test_an_initializer_with_too_little_data_is_an_error() -> None:
    short = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], raw_data=bytes(12))
    with pytest.raises(ModelError, match="does not fill"):
        load(make(add(), short))


@pytest.mark.parametrize("dims", [[2**32, 2**32], [2**62, 4], [2**41]])
def test_a_shape_whose_product_overflows_is_an_error(dims: list[int]) -> None:
    with pytest.raises(ModelError, match="more than 2\\^40 elements"):
        load(make(add(), TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)))
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])], "g", [info("x", *dims)], [info("y", *dims)]
    )
    with pytest.raises(ModelError, match="more than 2\\^40 elements"):
        load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def test_a_computed_shape_that_overflows_is_an_error() -> None:
    shape = numpy_helper.from_array(np.array([2**30, 2**30, 4]), "s")
    with pytest.raises(ModelError, match="more than 2\\^40 elements"):
        load(make([helper.make_node("Expand", ["x", "s"], ["y"])], shape))


# External data


def external(location: str, offset: int | None = None, length: int | None = None) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": offset, "length": length}
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with weights in it, and a secret beside it."""
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "weights.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    return inside


def load_with(folder: Path, tensor: TensorProto) -> torch.Tensor:
    path = folder / "model.onnx"
    path.write_bytes(make(add(), tensor).SerializeToString())
    return run(load(path), {"x": torch.zeros(4)})["y"]


def test_external_data_is_read_from_its_offset(folder: Path) -> None:
    assert load_with(folder, external("weights.bin")).tolist() == [0, 1, 2, 3]
    assert load_with(folder, external("weights.bin", 16, 16)).tolist() == [4, 5, 6, 7]


def test_external_data_at_an_odd_offset_is_read(folder: Path) -> None:
    (folder / "odd.bin").write_bytes(b"\0" + np.arange(4, dtype=np.float32).tobytes())
    assert load_with(folder, external("odd.bin", 1)).tolist() == [0, 1, 2, 3]


def test_external_data_may_lie_in_a_folder_below(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "weights.bin").rename(folder / "data" / "w.bin")
    assert load_with(folder, external("data/w.bin")).tolist() == [0, 1, 2, 3]


def test_external_data_is_mapped_and_the_file_is_never_written(folder: Path) -> None:
    before = (folder / "weights.bin").read_bytes()
    path = folder / "model.onnx"
    path.write_bytes(make(add(), external("weights.bin")).SerializeToString())
    (literal,) = load(path).constants()
    literal.tensor.fill_(9)
    assert (folder / "weights.bin").read_bytes() == before


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "data/../../secret.bin", "/etc/passwd", "..\\secret.bin", "C:\\secret", "", "a\0b"],
)
def test_external_data_outside_the_folder_is_refused(folder: Path, location: str) -> None:
    with pytest.raises(ModelError, match="must be a relative path inside the model's folder"):
        load_with(folder, external(location))


def test_a_link_that_leaves_the_folder_is_refused(folder: Path) -> None:
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    with pytest.raises(ModelError, match="is a link that leaves"):
        load_with(folder, external("link.bin"))


def test_a_linked_folder_that_leaves_is_refused(folder: Path) -> None:
    (folder / "data").symlink_to(folder.parent)
    with pytest.raises(ModelError, match="is a link that leaves"):
        load_with(folder, external("data/secret.bin"))


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "link.bin").symlink_to("weights.bin")
    assert load_with(folder, external("link.bin")).tolist() == [0, 1, 2, 3]


def test_external_data_that_is_no_regular_file_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ModelError, match="is not a regular file"):
            load_with(folder, external(name))


def test_missing_external_data_is_named(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"'none\.bin' is missing"):
        load_with(folder, external("none.bin"))


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        (24, 16, "lie outside the file of 32 bytes"),
        (2**62, 16, "lie outside"),
        (-8, 16, "lie outside"),
        (0, 12, "length 12 does not fill"),
        (0, 2**63, "does not fill"),
    ],
)
def test_external_data_of_the_wrong_size_is_refused(
    folder: Path, offset: int, length: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_with(folder, external("weights.bin", offset, length))


def test_a_model_without_a_folder_has_no_external_data() -> None:
    with pytest.raises(ModelError, match="the model has no folder"):
        load(make(add(), external("weights.bin")).SerializeToString())
