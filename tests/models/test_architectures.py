"""Well-known architectures: traced, and the results of `reference` and `cpu` agree with eager PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from hardy.compiler.frontends.selftest import check_torch
from hardy.compiler.frontends.torch import trace
from hardy.compiler.ops.recurrent import Recurrent
from hardy.compiler.tolerance import require_close
from hardy.compiler.verify import verify
from tests.models.zoo import ZOO, Model

pytest.importorskip("transformers", reason="pip install 'hardy[models]'")


def check_reference(model: Model) -> None:
    graph = trace(model.module, model.inputs)
    verify(graph)
    check = check_torch(model.module, model.inputs, graph)
    assert check.against == "eager PyTorch"
    assert check.passed, check.summary()


def check_cpu(model: Model) -> None:
    import hardy

    artifact = hardy.compile(model.module, model.inputs, target="cpu")
    given = model.inputs
    tensors: list[torch.Tensor] = list(given.values()) if isinstance(given, dict) else list(given)
    with torch.no_grad():
        result = model.module(**given) if isinstance(given, dict) else model.module(*given)
    expected = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    actual = artifact.run(dict(zip(artifact.inputs, tensors, strict=True)))
    for (name, got), want in zip(actual.items(), expected, strict=True):
        require_close(name, want, torch.as_tensor(got), scaled=True)


@pytest.mark.parametrize("name", ZOO)
def test_small_architecture_agrees_on_reference(name: str) -> None:
    check_reference(ZOO[name](True))


@pytest.mark.parametrize("name", ZOO)
def test_small_architecture_agrees_on_cpu(name: str) -> None:
    check_cpu(ZOO[name](True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_full_architecture_agrees_on_reference(name: str) -> None:
    check_reference(ZOO[name](False))


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_full_architecture_agrees_on_cpu(name: str) -> None:
    check_cpu(ZOO[name](False))


@pytest.mark.parametrize("name", ZOO)
def test_activations_keep_their_scale(name: str) -> None:
    model = ZOO[name](True)
    sizes: list[float] = []

    def look(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.is_floating_point():
            sizes.append(float(output.square().mean().sqrt()))

    for module in model.module.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_hook(look)
    given = model.inputs
    with torch.no_grad():
        _ = model.module(**given) if isinstance(given, dict) else model.module(*given)
    assert sizes
    assert all(1e-3 < size < 1e3 for size in sizes)


def test_no_recurrent_layer_is_unrolled() -> None:
    lstm = torch.nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True).eval()
    graph = trace(lstm, (torch.randn(2, 50, 8),))
    assert sum(isinstance(node.op, Recurrent) for node in graph.nodes) == 2
    assert len(graph.nodes) < 60
