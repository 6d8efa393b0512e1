"""Exported programs: free dimensions, .pt2 files and the files that must be refused."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from hardy.compiler.errors import ModelError, UnsupportedError, UsageError
from hardy.compiler.frontends.selftest import check_torch
from hardy.compiler.frontends.torch import load_pt2, trace
from hardy.compiler.ir import Graph


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.linear(x) + self.shift + y.reshape(x.shape[0], 2, 3).sum(1)


def program() -> ExportedProgram:
    batch = Dim("batch", min=2, max=10)
    return torch.export.export(
        Pairs().eval(),
        (torch.randn(3, 4), torch.randn(6, 3)),
        dynamic_shapes={"x": {0: batch}, "y": {0: 2 * batch}},
    )


def sizes(graph: Graph) -> list[tuple[int, ...]]:
    return [t.shape for t in graph.input_types().values()]


@pytest.mark.parametrize("place", ["symbol", "x.0", "y.0"])
def test_a_free_dimension_is_bound_by_its_symbol_or_by_where_it_stands(place: str) -> None:
    p = program()
    name = str(next(iter(p.range_constraints))) if place == "symbol" else place
    graph = trace(p, dims={name: 8 if place == "y.0" else 4})
    assert sizes(graph) == [(4, 4), (8, 3)]
    assert check_torch(p, None, graph).passed


def test_a_free_dimension_that_is_not_bound_is_listed() -> None:
    with pytest.raises(ModelError, match=r"x\.0 = s\d+, y\.0 = 2\*s\d+") as caught:
        trace(program())
    assert "--dim" in caught.value.hint


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"z.0": 3}, "no free dimension 'z.0'"),
        ({"x.0": 11}, "must be 2 to 10"),
        ({"y.0": 7}, "cannot be 7"),
        ({"x.0": 3, "y.0": 8}, "is bound to 3 and to 4"),
    ],
)
def test_sizes_that_do_not_fit_are_usage_errors(dims: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trace(program(), dims=dims)


def test_a_static_program_has_no_free_dimension() -> None:
    p = torch.export.export(nn.ReLU(), (torch.ones(2),))
    assert sizes(trace(p)) == [(2,)]
    with pytest.raises(UsageError, match="none"):
        trace(p, dims={"s0": 2})


def test_a_decomposed_program_gives_the_same_results() -> None:
    p = torch.export.export(Pairs().eval(), (torch.randn(3, 4), torch.randn(6, 3))).run_decompositions()
    assert check_torch(p, None, trace(p)).passed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.pt2"
    torch.export.save(program(), path)
    return path


def test_a_pt2_file_gives_the_graph_of_its_program(file: Path) -> None:
    p = load_pt2(file)
    graph = trace(p, dims={"x.0": 5})
    assert sizes(graph) == [(5, 4), (10, 3)]
    assert check_torch(p, None, graph).passed


def rewritten(
    path: Path, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes] | None = None
) -> Path:
    """A copy of an archive with records changed, left out (None) or added."""
    copy = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        root = source.namelist()[0].split("/")[0]
        for name in source.namelist():
            data = change(name, source.read(name))
            if data is not None:
                target.writestr(name, data)
        for name, data in (more or {}).items():
            target.writestr(f"{root}/{name}", data)
    return copy


def keep(name: str, data: bytes) -> bytes:
    return data


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "ran"))


def test_pickled_objects_are_refused_and_not_run(file: Path, tmp_path: Path) -> None:
    sign = tmp_path / "ran"
    bomb = pickle.dumps(Bomb(sign))
    changed = rewritten(file, lambda n, d: bomb if n.endswith("sample_inputs/model.pt") else d)
    with pytest.raises(UnsupportedError, match="pickled objects"):
        load_pt2(changed)
    assert not sign.exists()


def edited(data: bytes, edit: Callable[[dict[str, Any]], None]) -> bytes:
    tree = json.loads(data)
    edit(tree)
    return json.dumps(tree).encode()


def test_sizes_that_are_code_are_refused_and_not_run(file: Path, tmp_path: Path) -> None:
    sign = tmp_path / "ran"
    code = f"open({str(sign)!r}, 'w')"

    def edit(tree: dict[str, Any]) -> None:
        tree["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = code

    changed = rewritten(file, lambda n, d: edited(d, edit) if n.endswith("models/model.json") else d)
    with pytest.raises(ModelError, match="not arithmetic on sizes"):
        load_pt2(changed)
    assert not sign.exists()


def test_guards_in_a_file_are_not_compiled(file: Path, tmp_path: Path) -> None:
    sign = tmp_path / "ran"

    def edit(tree: dict[str, Any]) -> None:
        tree["guards_code"] = [f"open({str(sign)!r}, 'w')"]

    changed = rewritten(file, lambda n, d: edited(d, edit) if n.endswith("models/model.json") else d)
    p = load_pt2(changed)
    assert check_torch(p, None, trace(p, dims={"x.0": 3})).passed
    assert not sign.exists()


def test_objects_of_their_own_class_are_refused(file: Path) -> None:
    def edit(tree: dict[str, Any]) -> None:
        next(iter(tree["config"].values()))["path_name"] = "opaque_obj_0"

    changed = rewritten(file, lambda n, d: edited(d, edit) if n.endswith("constants_config.json") else d)
    with pytest.raises(UnsupportedError, match="object of its own class"):
        load_pt2(changed)


def test_compiled_code_is_refused(file: Path) -> None:
    changed = rewritten(file, keep, {"data/aotinductor/model/model.so": b"\x7fELF"})
    with pytest.raises(UnsupportedError, match="compiled code"):
        load_pt2(changed)


def test_a_damaged_or_foreign_file_is_a_model_error(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    cases = {
        "empty.pt2": b"",
        "text.pt2": b"not a zip archive",
        "cut.pt2": whole[: len(whole) // 2],
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelError, match=r"not a \.pt2 file"):
            load_pt2(tmp_path / name)
    with pytest.raises(ModelError, match="archive_format"):
        load_pt2(rewritten(file, lambda n, d: None if n.endswith("archive_format") else d))
    with pytest.raises(ModelError, match="one program called model"):
        load_pt2(rewritten(file, lambda n, d: None if n.endswith("models/model.json") else d))
    with pytest.raises(ModelError, match="not JSON"):
        load_pt2(rewritten(file, lambda n, d: b"{" if n.endswith("models/model.json") else d))
    with pytest.raises(ModelError, match="cannot read"):
        load_pt2(tmp_path / "missing.pt2")
