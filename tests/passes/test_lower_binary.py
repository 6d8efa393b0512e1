"""Products of signs as products of bits: which, exactly, and with comparisons in place of normalization."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hardy.compiler.driver import compile
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.models import trace
from hardy.compiler.ops.binary import Binarize, BinaryConv, BinaryMatmul, PackBits
from hardy.compiler.ops.elementwise import Abs, Add, Mul
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import BatchNorm
from hardy.compiler.types import DType, TensorType
from hardy.passes import Binarize as BinarizePass
from hardy.passes import LowerBinary
from hardy.targets.cpu.isa import by_name, missing_on_host
from tests.rewriting import expect, expect_unchanged, ops

SAME = ((1, 1), (1, 1))


class Signs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0)


def of_signs(module: nn.Module) -> nn.Module:
    """The module with weights of +1 and -1, and batch statistics that matter."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.copy_(torch.where(part.weight >= 0, 1.0, -1.0))
            if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
                part.weight.normal_()
                part.bias.normal_()
                part.running_mean.normal_(0, 3)
                part.running_var.uniform_(0.5, 20)
    return module.eval()


def network() -> Graph:
    """Straight: every normalization is followed by signs."""
    torch.manual_seed(0)
    module = nn.Sequential(
        *(Signs(), nn.Conv2d(5, 16, 3, 1, 1), nn.BatchNorm2d(16)),
        *(Signs(), nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.Hardtanh()),
        *(Signs(), nn.Flatten(), nn.Linear(24 * 16, 16), nn.BatchNorm1d(16)),
        *(Signs(), nn.Linear(16, 4)),
    )
    return trace(of_signs(module), (torch.zeros(1, 5, 8, 8),))


def test_a_matrix_product_of_signs_is_one_of_bits() -> None:
    expect(
        LowerBinary(),
        """\
        graph g(%x: f32[2,3]) {
          %w: f32[3,2] = constant([[1, 2], [-1, 2], [1, -2]])
          %0: f32[2,3] = binarize(%x)
          %1: f32[2,2] = matmul(%0, %w)
          return %1 as y
        }
        """,
        """\
        %0: u8[2,1] = pack_bits(%x)
        %w: u8[2,1] = constant([[5], [3]])
        %1: i32[2,2] = binary_matmul(%0, %w, length=3)
        %2: f32[2,2] = cast(%1, dtype=f32)
        %3: f32[2] = constant([1.0, 2.0])
        %4: f32[2,2] = mul(%2, %3)
        return %4 as y
        """,
    )


def test_a_normalization_before_signs_is_an_integer_comparison() -> None:
    # Counts of the first column are doubled, of the second halved and negated: 2 c - 3 >= 0, 1 - c / 2 >= 0.
    expect(
        LowerBinary(),
        """\
        graph g(%x: f32[1,4]) {
          %w: f32[4,2] = constant([[1, -1], [1, 1], [1, 1], [1, 1]])
          %s: f32[2] = constant([2, -0.5])
          %o: f32[2] = constant([-3, 1])
          %v: f32[2,1] = constant([[1], [1]])
          %0: f32[1,4] = binarize(%x)
          %1: f32[1,2] = matmul(%0, %w)
          %2: f32[1,2] = mul(%1, %s)
          %3: f32[1,2] = add(%2, %o)
          %4: f32[1,2] = binarize(%3)
          %5: f32[1,1] = matmul(%4, %v)
          return %5 as y
        }
        """,
        """\
        %0: u8[1,1] = pack_bits(%x)
        %w: u8[2,1] = constant([[15], [1]])
        %1: i32[1,2] = binary_matmul(%0, %w, length=4)
        %2: i32[2] = constant([2, -2])
        %3: u8[1,1] = pack_bits(%1, %2)
        %v: u8[1,1] = constant([[3]])
        %4: i32[1,1] = binary_matmul(%3, %v, length=2)
        %5: f32[1,1] = cast(%4, dtype=f32)
        return %5 as y
        """,
    )


def counts_and_bits(graph: Graph) -> list[str]:
    return [name for name in ops(graph) if name.startswith(("binar", "pack", "conv", "matmul", "batch"))]


def test_a_straight_network_keeps_no_normalization() -> None:
    graph = network()
    lowered = LowerBinary().run(graph)
    # The flattened tensor orders its elements by channel first, so its signs are made before it is packed.
    assert counts_and_bits(lowered) == [
        *("pack_bits", "binary_conv"),
        *("pack_bits", "binary_conv", "batch_norm", "binarize"),
        *("pack_bits", "binary_matmul"),
        *("pack_bits", "binary_matmul"),
    ]
    for seed in range(3):
        x = {"input": torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(seed))}
        assert torch.equal(run(graph, x)["output"], run(lowered, x)["output"])


@pytest.mark.parametrize("name", ["avx512+vnni+vpopcntdq", "avx2", "portable"])
def test_the_compiled_network_has_every_bit_of_the_reference(name: str) -> None:
    if missing := missing_on_host(by_name(name)):
        pytest.skip(f"{name} needs {', '.join(missing)}")
    graph = network()
    artifact = compile(graph, target=f"cpu:{name}")
    for seed in range(3):
        x = {"input": torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(seed))}
        assert torch.equal(artifact.run(x)["output"], run(graph, x)["output"])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), channels=st.integers(1, 20), rectified=st.booleans())
def test_comparisons_of_counts_have_every_bit_of_the_floats(
    seed: int, channels: int, rectified: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)

    def vector(scale: float = 1.0) -> Tensor:
        return torch.randn(6, generator=rng) * scale

    b = Builder("g")
    x = b.input("x", TensorType(DType.f32, (1, channels, 4, 5)))
    weight = torch.randn(6, channels, 3, 3, generator=rng).sign()
    y = b(Conv((1, 1), SAME, (1, 1)), b(Binarize(), x), b.constant(weight))
    y = b(Mul(), y, b.constant(vector().reshape(6, 1, 1)))
    norm = [vector(), vector(), vector(channels), vector().abs()]
    y = b(BatchNorm(1e-5, 1), y, *map(b.constant, norm))
    y = b(Abs(), y) if rectified else y
    last = torch.randn(3, 6, 1, 1, generator=rng).sign()
    y = b(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), b(Binarize(), y), b.constant(last))
    graph = b.finish({"y": y})
    lowered = LowerBinary().run(graph)
    if not rectified:
        assert "batch_norm" not in ops(lowered)
    feed = {"x": torch.randn(1, channels, 4, 5, generator=rng)}
    assert torch.equal(run(graph, feed)["y"], run(lowered, feed)["y"])


def test_a_chain_that_someone_else_reads_stays() -> None:
    b = Builder("g")
    x = b.input("x", TensorType(DType.f32, (2, 8)))
    weight = b.constant(torch.ones(8, 8))
    y = b(Add(), b(Matmul(), b(Binarize(), x), weight), b.constant(torch.arange(8.0)))
    z = b(Matmul(), b(Binarize(), y), weight)
    lowered = LowerBinary().run(b.finish({"y": y, "z": z}))
    packs = [n for n in lowered.nodes if isinstance(n.op, PackBits)]
    assert [len(n.operands) for n in packs] == [1, 1]
    assert sum(isinstance(n.op, BinaryMatmul) for n in lowered.nodes) == 2


def product(weight: Tensor, make: object = None) -> str:
    rows = weight.tolist()
    return f"""\
        graph g(%x: f32[2,2]) {{
          %w: f32[2,2] = constant({rows})
          %0: f32[2,2] = {make or "binarize(%x)"}
          %1: f32[2,2] = matmul(%0, %w)
          return %1 as y
        }}
        """


def test_floats_zeros_and_several_magnitudes_stay_float() -> None:
    expect_unchanged(LowerBinary(), product(torch.ones(2, 2), "sign(%x)"))
    expect_unchanged(LowerBinary(), product(torch.tensor([[1.0, 0.0], [1.0, 0.0]])))
    expect_unchanged(LowerBinary(), product(torch.tensor([[1.0, 1.0], [2.0, 1.0]])))
    expect_unchanged(LowerBinary(), product(torch.tensor([[1.0, float("nan")], [1.0, 1.0]])))


def test_signs_padded_with_signs_are_signs() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(Signs(), nn.ConstantPad2d(1, 1.0), nn.Conv2d(9, 4, 3, bias=False))
    graph = trace(of_signs(module), (torch.zeros(1, 9, 5, 5),))
    lowered = LowerBinary().run(graph)
    assert any(isinstance(n.op, BinaryConv) for n in lowered.nodes)
    x = {"input": torch.randn(1, 9, 5, 5)}
    torch.testing.assert_close(run(lowered, x), run(graph, x))


def test_what_binarize_makes_is_lowered() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 3)),
    ).eval()
    graph = BinarizePass().run(trace(module, (torch.zeros(1, 1, 8, 8),)))
    lowered = LowerBinary().run(graph)
    names = ops(lowered)
    assert names.count("binary_conv") == names.count("binary_matmul") == 1
    x = {"input": torch.randn(1, 1, 8, 8)}
    torch.testing.assert_close(run(lowered, x), run(graph, x))
