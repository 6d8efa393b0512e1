"""Weights in coded form: exact, deterministic, small, and nothing but an error where they are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hardy
from hardy.compiler.artifact import Artifact
from hardy.compiler.artifact.coding import Segment, decode, encode, model, rans, read
from hardy.compiler.artifact.coding.fields import Reader, varint
from hardy.compiler.artifact.coding.stream import EXPANSION
from hardy.compiler.artifact.folder import sha256_of
from hardy.compiler.artifact.manifest import digest_of
from hardy.compiler.artifact.weights import read_weights, stored_weights, write_weights
from hardy.compiler.errors import ArtifactError, TargetError, UsageError
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.types import DType, TensorType
from hardy.targets.reference.target import ReferenceTarget
from hardy.targets.target import Package, Stage


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def round_trip(literal: Literal, segments: Sequence[Segment] = ()) -> bytes:
    """The stream, after a check that it gives the tensor back to the bit."""
    stream = encode(literal, segments)
    found = decode(stream, literal.digest)
    assert found.dtype == literal.tensor.dtype
    assert found.shape == literal.tensor.shape
    assert bits(found) == bits(literal.tensor)
    assert found.data_ptr() % 64 == 0
    assert literal.tensor.nbytes <= EXPANSION * len(stream)
    return stream


@st.composite
def literals(draw: st.DrawFn) -> Literal:
    """Tensors of every type: noise, few values, mostly zeros, runs; any bit patterns, NaN among them."""
    dtype = draw(st.sampled_from(list(DType)))
    shape = tuple(draw(st.lists(st.integers(0, 40), max_size=3)))
    count = int(np.prod(shape))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    width = dtype.torch.itemsize
    kind = draw(st.sampled_from(["noise", "few", "sparse", "runs", "same"]))
    values = rng.integers(0, 256, (draw(st.integers(1, 300)), width), np.uint8)
    if dtype is DType.boolean:
        values %= 2
    if kind == "noise":
        values = np.concatenate([values, rng.integers(0, 2, (count, width), np.uint8)])
    pick = rng.integers(0, 1 if kind == "same" else len(values), count)
    if kind == "sparse":
        values[0] = 0
        pick[rng.random(count) < 0.9] = 0
    if kind == "runs":
        pick = np.sort(pick)
    data = torch.from_numpy(values[pick].reshape(-1)).view(dtype.torch).reshape(shape)
    return Literal(data, dtype)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(literal=literals())
def test_any_tensor_comes_back_to_the_bit(literal: Literal) -> None:
    round_trip(literal)


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 2000),
    symbols=st.integers(2, 256),
    lanes=st.integers(1, 64),
    lags=st.lists(st.integers(1, 70), max_size=3, unique=True),
    seed=st.integers(0, 1000),
)
def test_coder_gives_symbols_back_for_every_model(
    count: int, symbols: int, lanes: int, lags: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sequence = np.minimum(rng.geometric(0.3, count) - 1, symbols - 1).astype(np.uint8)
    plan = model.Plan(tuple(lags), int(rng.integers(symbols)), min(lanes, count))
    arranged = model.arrange(sequence, plan.lanes, plan.centre)
    fitted = model.tabulate(arranged, symbols, plan)
    assert (fitted.frequencies.sum(1) == rans.TOTAL).all()
    states, words = rans.encode(arranged, fitted)
    found = rans.decode(states, words, fitted, len(arranged))
    assert np.array_equal(found.T.reshape(-1)[:count], sequence)


def pruned(rows: int, columns: int, density: float, values: int, seed: int = 0) -> torch.Tensor:
    """A matrix with so many distinct values besides zero."""
    rng = np.random.default_rng(seed)
    codebook = np.delete(np.linspace(-1, 1, values + 1), (values + 1) // 2).astype(np.float32)
    data = rng.choice(codebook, (rows, columns))
    data[rng.random((rows, columns)) >= density] = 0
    return torch.from_numpy(data)


@pytest.mark.parametrize(("density", "values"), [(0.05, 7), (0.3, 15), (1.0, 16), (0.01, 1)])
def test_clustered_weights_take_little_more_than_their_entropy(density: float, values: int) -> None:
    data = pruned(500, 400, density, values)
    _, counts = np.unique(data.numpy(), return_counts=True)
    p = counts / counts.sum()
    entropy = -(p * np.log2(p)).sum() * data.numel() / 8
    assert len(round_trip(Literal(data))) < 1.01 * entropy + 200


def test_neighbours_in_the_image_that_rows_look_at_make_weights_cheaper() -> None:
    """Blobs in images of 28 x 28: what is 28 elements before says more than what is in the row above."""
    rng = np.random.default_rng(0)
    images = np.zeros((100, 28, 28), np.float32)
    for image in images:
        for _ in range(3):
            y, x = rng.integers(0, 24, 2)
            image[y : y + 4, x : x + 4] = rng.choice([-1, 1]) * rng.integers(1, 4, (4, 4))
    literal = Literal(torch.from_numpy(images).reshape(100, 784))
    structured = round_trip(literal)
    (part, _, _), *_ = read(structured).parts
    assert 28 in part.model.lags  # type: ignore[attr-defined]
    order = torch.randperm(784, generator=torch.Generator().manual_seed(0))
    assert len(structured) < 0.7 * len(round_trip(Literal(literal.tensor[:, order].contiguous())))


def test_pruned_weights_of_many_values_are_stored_by_place_and_value() -> None:
    data = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    data[torch.rand(300, 200, generator=torch.Generator().manual_seed(1)) < 0.9] = 0
    stream = round_trip(Literal(data))
    assert read(stream).summary.startswith("sparse")
    assert len(stream) < 0.15 * data.nbytes


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 0.87), (torch.bfloat16, 0.72)])
def test_dense_floats_lose_the_noise_of_their_exponents(dtype: torch.dtype, most: float) -> None:
    data = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert len(round_trip(Literal(data))) < most * data.nbytes


def test_noise_costs_its_own_bytes_and_a_header() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 5000, np.uint8))
    assert len(round_trip(Literal(noise))) < 5030


def test_one_value_takes_no_more_than_the_least_share_of_its_bytes() -> None:
    assert len(round_trip(Literal(torch.full((1 << 20,), 2.5)))) == (4 << 20) // EXPANSION


def test_zeros_of_either_sign_and_every_nan_are_kept_apart() -> None:
    patterns = torch.tensor([0, -(2**31), 0x7FC00000, 0x7FC00001, -0x400000], dtype=torch.int32)
    data = patterns.repeat(100).view(torch.float32)
    assert len(torch.from_numpy(np.unique(data.view(torch.int32).numpy()))) == 5
    round_trip(Literal(data))


def test_tensor_of_bytes_is_coded_by_the_arrays_it_is_made_of() -> None:
    weight = pruned(100, 64, 0.2, 7)
    bias = torch.randn(10, generator=torch.Generator().manual_seed(0))
    table = torch.arange(-50, 50, dtype=torch.int8).repeat(3)
    pieces = [weight, bias, table]
    blob, segments = bytearray(), []
    for piece in pieces:
        segments.append(Segment(len(blob), DType.of(piece.dtype), tuple(piece.shape)))
        blob += bits(piece) + bytes(-piece.nbytes % 64)
    literal = Literal(torch.frombuffer(blob, dtype=torch.uint8))
    split = round_trip(literal, segments)
    assert [(count, width) for _, count, width in read(split).parts] == [(6400, 4), (16, 4), (300 + 20, 1)]
    assert len(split) < 0.5 * len(round_trip(literal))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([Segment(8, DType.f32, (2,))], "starts at 8, not at 0"),
        ([Segment(0, DType.f32, (2,)), Segment(6, DType.u8, (10,))], "whole elements up to byte 6"),
        ([Segment(0, DType.u8, (9,)), Segment(24, DType.u8, (1,))], "whole elements up to byte 16"),
    ],
)
def test_segments_that_do_not_make_up_the_tensor_are_refused(segments: list[Segment], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        encode(Literal(torch.arange(16, dtype=torch.uint8)), segments)


SAMPLES = {
    "codebook": Literal(pruned(40, 30, 0.3, 7)),
    "planes": Literal(torch.randn(600, generator=torch.Generator().manual_seed(0))),
    "sparse": Literal(torch.randn(900, generator=torch.Generator().manual_seed(0)).relu() * 1.5),
    "narrow": Literal(torch.arange(-8, 8, dtype=torch.int8).repeat(40), DType.i4),
}


STREAMS = {name: encode(literal) for name, literal in SAMPLES.items()}


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_stream_is_an_error_never_other_weights(name: str, data: st.DataObject) -> None:
    literal = SAMPLES[name]
    stream = bytearray(STREAMS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    stream = stream[: data.draw(st.integers(len(stream) // 2, len(stream)))]
    if bytes(stream) == STREAMS[name]:
        return
    try:
        found = decode(bytes(stream), literal.digest)
    except ArtifactError:
        return
    # A change that decodes to the same content, such as of a symbol that never occurs, is none.
    assert bits(found) == bits(literal.tensor)


@settings(max_examples=300, deadline=None)
@given(junk=st.binary(max_size=200), text=st.sampled_from(["f32[4]", "u8[1000]", "f64[9,9]", "i4[3]"]))
def test_any_bytes_are_an_error(junk: bytes, text: str) -> None:
    for stream in (junk, bytes([1, len(text)]) + text.encode() + junk):
        with pytest.raises(ArtifactError):
            decode(stream, "0" * 32)


def head(text: str, parts: int = 1) -> bytes:
    return bytes([1, len(text)]) + text.encode() + varint(parts)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "end 1 bytes too early"),
        (b"\2", "coded in form 2, this hardy reads form 1"),
        (head("f33[2]"), "not a tensor type"),
        (head("u8[1099511627776]"), "bytes are too few to code"),
        (head(f"u8[{'9' * 200}]"), "bytes are too few to code"),
        (head("u8[4]") + bytes([9, 1, 4]), "unknown kind 9"),
        (head("u8[4]") + bytes([0, 3, 4]), "width 3"),
        (head("u8[4]") + bytes([0, 1, 5]) + bytes(5), "more than"),
        (head("u8[4]") + bytes([0, 1, 3]) + bytes(3), "lack 1 bytes"),
        (head("u8[4]") + bytes([0, 1, 4]) + bytes(4) + b"\1", "go on after their end"),
        (head("u8[4]") + bytes([0, 1]) + b"\xff" * 9, "number without an end"),
        (head("u8[4]") + bytes([2, 1, 4]), "no planes"),
        (head("i16[4]") + bytes([2, 2, 4, 2]), "unknown kind 2"),
        (head("u8[4]") + bytes([1, 1, 4, 1, 7, 8, 4, 0]), "a model that does not exist"),
        (head("u8[4]") + bytes([1, 1, 4, 1, 7, 8, 0, 2]), "a model that does not exist"),
        (head("u8[4]") + bytes([1, 1, 4, 1, 7, 8, 1, 0, 0]), "depend on themselves"),
        (head("u8[4]") + bytes([1, 1, 4, 1, 7, 8, 0, 0]) + varint(16385), "probabilities above one"),
        (head("u8[4]") + bytes([1, 1, 4, 1, 7, 8, 0, 0, 5, 0, 0]), "cannot have 0 lanes"),
        (head("u8[4]") + bytes([1, 1, 4, 1, 7, 8, 0, 0, 5, 5, 0]), "cannot have 5 lanes"),
        (head("u8[4]") + bytes([1, 1, 4, 1, 7, 8, 0, 0, 5, 1, 100]), "bytes too early"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value.replace(" ", "-"),
)
def test_hostile_stream_is_refused_with_its_fault(stream: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read(stream + (bytes(50) if message.startswith("number") else b""))


def test_stream_cannot_ask_for_more_steps_than_its_bytes_pay_for() -> None:
    count = 70 * EXPANSION // 2
    stream = head(f"u8[{count}]") + bytes([1, 1]) + varint(count)
    stream += bytes([1, 7, 8, 0, 0]) + varint(9000) + bytes([1, 0]) + bytes(4)
    with pytest.raises(ArtifactError, match="take more than 4 bytes"):
        read(stream + bytes(100))


def test_numbers_of_any_size_are_read_back() -> None:
    for number in (0, 1, 127, 128, 300, 2**14, 2**40, 2**56 - 1):
        reader = Reader(memoryview(varint(number) + b"x"))
        assert reader.varint() == number
        assert reader.left == 1


@pytest.fixture
def network() -> Graph:
    """Two clustered layers with a dense bias, and constants of other types."""
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 64)))
    hidden = b(Add(), b(Matmul(), x, b.constant(pruned(64, 80, 0.2, 7), name="first")), b.constant(bias(80)))
    y = b(Matmul(), hidden, b.constant(pruned(80, 48, 0.5, 15, seed=1), name="second"))
    narrow = b.constant(Literal(SAMPLES["narrow"].tensor, DType.i4), name="narrow")
    return b.finish({"y": y, "narrow": narrow})


def bias(size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size))


X = torch.randn(2, 64, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_coded_artifact_is_smaller_and_computes_the_same_to_the_bit(
    network: Graph, tmp_path: Path, target: str
) -> None:
    sizes, results = [], []
    for form in ("raw", "coded"):
        path = tmp_path / form
        hardy.compile(network, target=target, out=path, weights=form)  # type: ignore[arg-type]
        sizes.append((path / "weights.safetensors").stat().st_size)
        results.append(hardy.load(path).run(x=X))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert sizes[1] < 0.2 * sizes[0]


def test_two_coded_builds_are_byte_identical_and_so_is_a_copy(network: Graph, tmp_path: Path) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

    for name in "ab":
        hardy.compile(network, target="reference", out=tmp_path / name, weights="coded")
    hardy.load(tmp_path / "a").save(tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_tensor_that_does_not_get_smaller_stays_raw_and_mapped(network: Graph, tmp_path: Path) -> None:
    hardy.compile(network, target="reference", out=tmp_path / "a", weights="coded")
    found = stored_weights(tmp_path / "a" / "weights.safetensors")
    forms = {str(weight.type): weight.form for weight in found.values()}
    assert forms["f32[64,80]"] == "8 values"
    assert forms["f32[80,48]"] == "16 values"
    assert forms["i4[640]"] == "16 values"
    noise = Literal(torch.from_numpy(np.random.default_rng(0).integers(0, 256, 999, np.uint8)))
    with (tmp_path / "w").open("wb") as file:
        write_weights({noise.digest: noise, "zeros": Literal(torch.zeros(9, 999))}, file.write, code=True)
    assert stored_weights(tmp_path / "w")[noise.digest].form == "raw"


def test_raw_is_the_default_and_other_forms_are_refused(network: Graph, tmp_path: Path) -> None:
    hardy.compile(network, target="reference", out=tmp_path / "a")
    assert {w.form for w in stored_weights(tmp_path / "a" / "weights.safetensors").values()} == {"raw"}
    with pytest.raises(UsageError, match="cannot be stored 'zip'"):
        hardy.compile(network, target="reference", weights="zip")  # type: ignore[arg-type]


def rewrite_weights(folder: Path, change: Callable[[dict[str, Any], bytearray], None]) -> None:
    """Change header and data of the weights file as somebody would who also makes all digests fit."""
    path = folder / "weights.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    change(header, body)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    manifest_path = folder / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    manifest["files"]["weights.safetensors"] = sha256_of(path)
    manifest["digest"] = digest_of(manifest)
    manifest_path.write_text(json.dumps(manifest))


def test_damaged_stream_in_an_artifact_is_named(network: Graph, tmp_path: Path) -> None:
    hardy.compile(network, target="reference", out=tmp_path / "a", weights="coded")

    def flip(header: dict[str, Any], body: bytearray) -> None:
        (name, *_) = [n for n in header if n.startswith("coded.")]
        body[header[name]["data_offsets"][1] - 5] ^= 1

    rewrite_weights(tmp_path / "a", flip)
    with pytest.raises(ArtifactError, match="coded weights") as caught:
        hardy.load(tmp_path / "a")
    assert "coded." in caught.value.where
    assert "weights.safetensors" in caught.value.where


def test_stream_under_the_name_of_other_weights_is_refused(network: Graph, tmp_path: Path) -> None:
    hardy.compile(network, target="reference", out=tmp_path / "a", weights="coded")

    def swap(header: dict[str, Any], body: bytearray) -> None:
        first, second, *_ = [n for n in header if n.startswith("coded.")]
        header[first], header[second] = header[second], header[first]

    rewrite_weights(tmp_path / "a", swap)
    with pytest.raises(ArtifactError, match="decode to other data than were coded"):
        hardy.load(tmp_path / "a")


def test_stream_that_is_no_bytes_or_comes_twice_is_refused(network: Graph, tmp_path: Path) -> None:
    path = tmp_path / "w"
    literal = SAMPLES["codebook"]
    stream = torch.frombuffer(bytearray(encode(literal)), dtype=torch.uint8)
    for tensors, message in (
        ({f"coded.{literal.digest}": Literal(torch.zeros(3))}, "not bytes"),
        ({f"coded.{literal.digest}": Literal(stream), literal.digest: literal}, "twice"),
    ):
        with path.open("wb") as file:
            write_weights(tensors, file.write)
        with pytest.raises(ArtifactError, match=message):
            read_weights(path)


def test_target_names_what_its_weights_are_made_of(network: Graph, tmp_path: Path) -> None:
    pieces = [pruned(64, 80, 0.2, 7), pruned(80, 48, 0.5, 15)]
    blob = torch.cat([torch.frombuffer(bytearray(bits(p)), dtype=torch.uint8) for p in pieces])
    parts = [Segment(0, DType.f32, (64, 80)), Segment(pieces[0].nbytes, DType.f32, (80, 48))]

    class Packed(ReferenceTarget):
        keeps_graph_weights = False

        def stages(self) -> tuple[Stage, ...]:
            package = Package({}, {"blob": blob}, {}, {"blob": parts})
            return (Stage("pack", lambda graph: package, lambda package: {}),)

    hardy.compile(network, target=Packed(), out=tmp_path / "a", weights="coded")
    (found,) = stored_weights(tmp_path / "a" / "weights.safetensors").values()
    assert found.form == "8 values, 16 values"
    assert found.elements == 64 * 80 + 80 * 48
    opened = Artifact.open(tmp_path / "a", Packed())
    assert torch.equal(opened._parts.weights["blob"], blob)


STRIPES = torch.zeros(40, 16)
STRIPES[::5, 3:7] = 0.5
STRIPES[:, ::8] = -0.25
# 640 elements, three values, one lane each looking 80 elements back.
CODEBOOK = bytes.fromhex(
    "010a6633325b34302c31365d010104800502000080be000000000000003f01015080800100da0a827100000514"
    "09c207044b854c0380c2670786c414040a431208d3be943becf29ff9279c1ea17abe9d079d07687eed3011b211"
    "0dabff560e560e560e2a2b303f1ab0"
)
SPARSE = bytes.fromhex(
    "01076633325b32305d01030414010001000080600101ab1b0100000005000000c03f000000c00000803e00004040000080bf"
)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (CODEBOOK, STRIPES),
        (SPARSE, torch.tensor([0, 0, 0, 1.5, 0, 0, 0, -2, 0, 0, 0, 0, 0.25, 3, -1, 0, 0, 0, 0, 0])),
        (b"\1\6i16[3]\1" + b"\2\2\3" + b"\0\1\2\3" + b"\0\0\1\2", torch.tensor([1, 258, 515]).short()),
        (b"\1\7i8[2,2]\1" + b"\1\1\4" + b"\0\7", torch.full((2, 2), 7, dtype=torch.int8)),
        (b"\1\6f32[1]\1" + b"\0\4\1" + b"\0\0\x20\xc0", torch.tensor([-2.5])),
    ],
    ids=["codebook", "sparse", "planes", "one value", "stored"],
)
def test_streams_of_the_documented_format_are_read(stream: bytes, expected: torch.Tensor) -> None:
    found = decode(stream, Literal(expected).digest)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("count", [1 << 18])
def test_decoding_takes_few_steps(count: int) -> None:
    """Steps, not seconds, are what the lanes bound."""
    part, elements, _ = read(encode(Literal(pruned(512, count // 512, 0.5, 15)))).parts[0]
    lanes = len(part.states)  # type: ignore[attr-defined]
    assert elements == count
    assert rans.steps_of(count, lanes) <= model.most_steps(len(part.write()))
    assert lanes > 100
