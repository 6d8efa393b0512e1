"""The torch frontend: names, constants, provenance and what it refuses."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hardy.compiler.errors import ModelError, UnsupportedError, UsageError
from hardy.compiler.frontends.selftest import check_torch
from hardy.compiler.frontends.torch import trace
from hardy.compiler.frontends.torch.source import user_line
from hardy.compiler.ir import Constant, Graph
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.types import DType, TensorType
from hardy.compiler.verify import verify


def traced(module: nn.Module, inputs: object) -> Graph:
    """The graph of a module, verified and tested against eager."""
    graph = trace(module.eval(), inputs)
    verify(graph)
    check_torch(module, inputs, graph)
    return graph


class Nested(nn.Module):
    def forward(
        self,
        x: Tensor,
        Batch: dict[str, Tensor],  # noqa: N803
        *rest: Tensor,
        flag: bool = False,
        extra: object = None,
    ):
        total = x + Batch["ids"] + Batch["pair"][0] + rest[0]
        return {"sum": total * 2 if flag else total, "parts": (x - 1, [None, rest[0]]), "count": 3}


def test_inputs_are_named_as_in_forward_and_outputs_by_their_keys() -> None:
    x = torch.randn(2, 3)
    graph = trace(Nested(), (x, {"ids": x, "pair": [x]}, x))
    assert graph.input_names == ("x", "Batch_ids", "Batch_pair_0", "rest_0")
    assert graph.output_names == ("sum", "parts_0", "parts_1_1", "count")
    assert graph.output_types()["count"] == TensorType(DType.i64, ())


def test_python_values_and_none_are_part_of_the_program() -> None:
    x = torch.randn(2, 3)

    class Options(nn.Module):
        def forward(self, x: Tensor, scale: float, bias: Tensor | None, flip: bool) -> Tensor:
            y = x * scale if bias is None else x * scale + bias
            return y.flip(0) if flip else y

    graph = trace(Options(), (x, 2.5, None, True))
    assert graph.input_names == ("x",)
    assert "mul" in [n.op.name for n in graph.nodes]
    assert "reverse" in [n.op.name for n in graph.nodes]


def test_keyword_inputs_are_given_as_a_dict() -> None:
    class Keywords(nn.Module):
        def forward(self, *, left: Tensor, right: Tensor) -> Tensor:
            return left - right

    graph = traced(Keywords(), {"right": torch.ones(3), "left": torch.zeros(3)})
    assert set(graph.input_names) == {"left", "right"}


@dataclass
class Result:
    logits: Tensor
    hidden: Tensor | None = None


pytree.register_dataclass(Result)


def test_a_dataclass_output_gives_its_field_names() -> None:
    class WithResult(nn.Module):
        def forward(self, x: Tensor) -> Result:
            return Result(logits=x + 1)

    assert trace(WithResult(), torch.ones(2)).output_names == ("logits",)


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (lambda x: x + 1, ("output",)),
        (lambda x: (x + 1,), ("output_0",)),
        (lambda x: (x + 1, [x, x * 2]), ("output_0", "output_1_0", "output_1_1")),
        (lambda x: {"a": {"b": x}, "a_b": x}, ("a_b", "a_b_1")),
    ],
)
def test_output_names(outputs, names: tuple[str, ...]) -> None:
    class Returns(nn.Module):
        def forward(self, x: Tensor) -> object:
            return outputs(x)

    assert trace(Returns(), (torch.ones(2),)).output_names == names


def test_tied_weights_are_one_constant() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids))

    graph = traced(Tied(), (torch.tensor([[1, 2]]),))
    constants = [n for n in graph.nodes if isinstance(n.op, Constant)]
    assert [n.name for n in constants] == ["embed.weight"]


def test_parameters_are_not_copied_and_keep_their_names() -> None:
    linear = nn.Sequential(nn.Linear(8, 4))
    graph = traced(linear, (torch.randn(2, 8),))
    constants = {n.name: n.op.literal for n in graph.nodes if isinstance(n.op, Constant)}
    assert set(constants) == {"0.weight", "0.bias"}
    assert constants["0.weight"].tensor.data_ptr() == linear[0].weight.data_ptr()


def test_weights_without_data_are_refused_by_name() -> None:
    with torch.device("meta"):
        linear = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ModelError, match=r"0\.weight has no data"):
        trace(linear, (torch.randn(2, 4, device="meta"),))


def test_nodes_say_the_module_and_the_users_line() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + x  # the line

    lines, first = inspect.getsourcelines(Block.forward)
    number = first + next(i for i, line in enumerate(lines) if "the line" in line)
    graph = traced(nn.Sequential(Block()), (torch.randn(2, 4),))
    sources = [n.source for n in graph.nodes if isinstance(n.op, Add)]
    assert sources == [f"0.inner (test_torch_interface.py:{number})", f"0 (test_torch_interface.py:{number})"]


def test_user_line_skips_frames_of_torch_and_generated_code() -> None:
    inside = f'File "{torch.__file__}", line 3, in linear\n'
    assert (
        user_line(f'File "/a/model.py", line 12, in forward\n{inside}File "<eval>", line 5, in f\n')
        == "model.py:12"
    )
    assert user_line(inside) == ""


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(3), nn.Dropout(0.5), nn.LSTM(3, 3, num_layers=2, dropout=0.1)]
)
def test_training_mode_is_refused_with_what_to_do(layer: nn.Module) -> None:
    with pytest.raises(ModelError, match="training mode") as caught:
        trace(nn.Sequential(layer).train(), (torch.randn(2, 3),))
    assert "eval()" in caught.value.hint


def test_training_mode_of_layers_that_do_not_care_is_taken() -> None:
    trace(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Dropout(0.0)).train(), (torch.randn(2, 3),))


class Counter(nn.Module):
    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads = reads
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x + self.seen if self.reads else x * 2


def test_a_buffer_that_changes_and_reaches_an_output_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'seen' changes from run to run"):
        trace(Counter(reads=True), (torch.ones(2),))


def test_a_buffer_that_changes_unseen_is_left_alone() -> None:
    graph = traced(Counter(reads=False), (torch.ones(2),))
    assert [n.op.name for n in graph.nodes] == ["input", "constant", "mul"]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.unique(x),
        lambda x: torch.masked_select(x, x > 0),
    ],
)
def test_data_dependent_shapes_are_refused_with_the_line(call) -> None:
    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return call(x)

    with pytest.raises(UnsupportedError, match="depends on the data") as caught:
        trace(DataDependent(), (torch.randn(4),))
    assert "test_torch_interface.py:" in caught.value.where


def test_a_branch_on_data_is_refused_with_the_line() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x + 1
            return x

    with pytest.raises(UnsupportedError, match="depends on the data") as caught:
        trace(Branch(), (torch.randn(4),))
    assert "torch.where" in caught.value.hint


def test_an_unsupported_operator_is_named_with_the_line() -> None:
    class Svd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svdvals(x)

    with pytest.raises(UnsupportedError, match=r"aten\._linalg_svd") as caught:
        trace(Svd(), (torch.randn(4, 4),))
    assert "test_torch_interface.py:" in caught.value.where


def test_random_numbers_are_refused() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    with pytest.raises(UnsupportedError, match="random numbers"):
        trace(Noise(), (torch.randn(4),))


def test_random_numbers_of_a_seeded_generator_are_refused_too() -> None:
    generator = torch.Generator().manual_seed(0)

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(4, generator=generator)

    with pytest.raises((UnsupportedError, ModelError)):
        trace(Noise(), (torch.randn(4),))


def test_operators_of_known_tensors_are_computed_by_torch() -> None:
    class Window(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.kaiser_window(8) + torch.linalg.det(torch.eye(3) * 2)

    graph = traced(Window(), (torch.randn(8),))
    assert [n.op.name for n in graph.nodes if n.op.name not in ("input", "constant")] == ["mul", "add"]


def test_complex_numbers_are_refused() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x).abs()

    with pytest.raises(UnsupportedError, match="complex"):
        trace(Spectrum(), (torch.randn(8),))


def test_a_model_that_fails_on_its_inputs_says_why_and_where() -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x

    with pytest.raises(ModelError, match="cannot trace Wrong") as caught:
        trace(Wrong(), (torch.randn(2, 3),))
    assert "test_torch_interface.py:" in caught.value.where


@pytest.mark.parametrize("inputs", [None, 3, "x"])
def test_example_inputs_of_a_wrong_kind_are_a_usage_error(inputs: object) -> None:
    with pytest.raises(UsageError, match="example inputs"):
        trace(nn.ReLU(), inputs)


def test_a_module_takes_no_dims() -> None:
    with pytest.raises(UsageError, match="fix all dimensions"):
        trace(nn.ReLU(), (torch.ones(2),), dims={"batch": 2})


def test_writing_to_an_input_leaves_the_outputs_right() -> None:
    class Overwrite(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2).add_(1)

    x = torch.ones(3)
    traced(Overwrite(), (x,))
    assert x.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "call",
    [
        lambda a: (a.view(-1), a.add_(1)),
        lambda a: (a.relu_(), a.mul_(3), a.view(-1)),
        lambda a: (a.add_(a), a[0]),
        lambda a: (a[:, 1].fill_(7), a),
        lambda a: (a.t().mul_(2), a),
        lambda a: (torch.dropout(a.sigmoid_(), 0.5, False), a),
    ],
)
def test_writing_in_place_means_what_it_means_in_torch(call) -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> object:
            return call(x * 2)

    traced(InPlace(), (torch.randn(3, 4),))


def test_regions_without_gradients_and_disabled_autocast_are_part_of_the_program() -> None:
    class Regions(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                y = x.float() * 2
            return y + x

    traced(Regions(), (torch.randn(3),))
