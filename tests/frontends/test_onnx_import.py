"""Importing ONNX models: types, names, provenance, control flow, functions and shape arithmetic."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hardy.compiler.errors import MismatchError, ModelError, UnsupportedError, UsageError
from hardy.compiler.frontends.onnx import ConstantRequiredError, control, load
from hardy.compiler.frontends.selftest import check_onnx, random_inputs
from hardy.compiler.interpret import run
from hardy.compiler.ir import Constant, Graph, Input
from hardy.compiler.types import DType, TensorType


def model(text: str, opset: int = 18, functions: str = "") -> onnx.ModelProto:
    domain = ', "local" : 1' if functions else ""
    return onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}{domain}]> {text} {functions}'
    )


def ops(graph: Graph) -> list[str]:
    """The ops in order, without inputs and constants."""
    return [n.op.name for n in graph.nodes if not isinstance(n.op, Input | Constant)]


def test_load_keeps_names_and_types_of_the_interface() -> None:
    graph = load(
        model("g (float[2,3] x, int32[3] k) => (float[2,3] y, int32[3] z) { y = Relu(x) z = Neg(k) }")
    )
    assert graph.name == "g"
    assert graph.input_types() == {"x": TensorType(DType.f32, (2, 3)), "k": TensorType(DType.i32, (3,))}
    assert graph.output_names == ("y", "z")


def test_every_node_says_which_onnx_node_it_came_from() -> None:
    proto = model("g (float[2] x) => (float[2] y) { a = Celu(x) y = Neg(a) }")
    proto.graph.node[1].name = "last"
    graph = load(proto)
    sources = {n.op.name: n.source for n in graph.nodes if not isinstance(n.op, Input)}
    assert sources["expm1"] == "onnx:Celu #0 -> 'a'"
    assert sources["neg"] == "onnx:Neg 'last'"
    assert all(n.source for n in graph.nodes)


def test_nodes_carry_the_tensor_names_of_the_model() -> None:
    graph = load(model("g (float[2] x) => (float[2] y) { hidden = Abs(x) y = Neg(hidden) }"))
    assert [n.name for n in graph.nodes] == ["x", "hidden", "y"]


def test_a_model_is_taken_as_bytes() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    assert ops(load(proto.SerializeToString())) == ops(load(proto)) == ["neg"]


# Free dimensions


FREE = "g (float[batch, 3] x, float[batch, length] m) => (float[batch, 3] y) { y = Relu(x) }"


def test_free_dimensions_are_bound_by_name() -> None:
    graph = load(model(FREE), dims={"batch": 4, "length": 7})
    assert graph.input_types()["x"].shape == (4, 3)
    assert graph.input_types()["m"].shape == (4, 7)


def test_free_dimensions_are_bound_by_whole_shapes() -> None:
    assert load(model(FREE), shapes={"x": (2, 3), "m": (2, 5)}).input_types()["m"].shape == (2, 5)


def test_unbound_dimensions_are_listed_with_the_flags_that_bind_them() -> None:
    with pytest.raises(ModelError) as caught:
        load(model(FREE), dims={"batch": 4})
    assert caught.value.message == "free dimensions are not bound: m: f32[batch,length]"
    assert caught.value.hint == "give --dim length=1"


def test_a_dimension_without_a_name_asks_for_a_shape() -> None:
    proto = model("g (float[1,3] x) => (float[1,3] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_value")
    with pytest.raises(ModelError, match="x: f32") as caught:
        load(proto)
    assert caught.value.hint == "give --shape x=1x3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": {"bach": 1}}, "no free dimension 'bach'"),
        ({"shapes": {"z": (1,)}}, "no input 'z'"),
        ({"shapes": {"x": (2, 4)}}, r"shape \[2, 4\] does not fit input 'x'"),
        ({"bind": {"z": np.zeros(1)}}, "no input 'z'"),
        ({"bind": {"x": np.zeros((2, 3))}}, "the value bound to 'x' is f64"),
        ({"dims": {"batch": -1}}, "must not be negative"),
    ],
)
def test_a_binding_that_does_not_fit_is_a_usage_error(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(model(FREE), **arguments)  # type: ignore[arg-type]


# Shape arithmetic and constants


def test_shape_arithmetic_leaves_no_nodes() -> None:
    text = """g (float[2,3,4] x) => (float[2,12] y)
    <int64[1] zero = {0}, int64[1] one = {1}, int64 first = {0}> {
        s = Shape(x)
        n = Gather(s, first)
        batch = Unsqueeze(n, zero)
        minus = Neg(one)
        target = Concat <axis = 0> (batch, minus)
        y = Reshape(x, target)
    }"""
    assert ops(load(model(text))) == ["reshape"]


def test_large_constants_are_left_to_the_folding_pass() -> None:
    weights = np.ones((100, 100), dtype=np.float32)
    proto = model("g (float[100] x) => (float[100] y) { t = Transpose(w) y = MatMul(x, t) }")
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    assert "transpose" in ops(load(proto))


def test_a_large_constant_is_evaluated_where_an_importer_needs_its_value() -> None:
    proto = model(
        "g (float[1] x) => (float[5000] y) { n = Neg(w) s = ReduceSum(n) r = Neg(s) "
        "z = Cast <to = 7> (r) one = Constant <value_ints = [1]> () q = Reshape(z, one) y = Expand(x, q) }"
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(5000, dtype=np.float32), "w"))
    assert load(proto).output_types()["y"].shape == (5000,)


def test_a_value_needed_at_compile_time_names_the_inputs_to_bind() -> None:
    proto = model(
        "g (float[6] x, int64[2] shape) => (float[n,m] y) { twice = Identity(shape) y = Reshape(x, twice) }"
    )
    with pytest.raises(ConstantRequiredError, match="depends on the input 'shape'") as caught:
        load(proto)
    assert caught.value.inputs == ("shape",)
    graph = load(proto, bind={"shape": np.array([2, 3])})
    assert graph.input_names == ("x",)
    assert graph.output_types()["y"].shape == (2, 3)


@pytest.mark.parametrize("op", ["NonZero", "Unique"])
def test_a_data_dependent_shape_is_refused_with_op_and_place(op: str) -> None:
    with pytest.raises(UnsupportedError, match=f"shape of {op}'s result depends on the data") as caught:
        load(model(f"g (float[3] x) => (y) {{ y = {op}(x) }}"))
    assert op in caught.value.where
    assert caught.value.hint


def test_a_data_dependent_op_of_a_constant_is_evaluated() -> None:
    proto = model(
        "g (float[2] x) => (float[2] y) <float[4] m = {0, 1, 0, 1}> "
        "{ p = NonZero(m) i = Squeeze(p) d = Cast <to = 1> (i) y = Add(x, d) }"
    )
    assert run(load(proto), {"x": torch.zeros(2)})["y"].tolist() == [1, 3]


def test_initializers_that_are_also_inputs_are_constants() -> None:
    proto = model("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }")
    assert load(proto).input_names == ("x",)


def test_a_sparse_initializer_becomes_dense() -> None:
    proto = model("g (float[2,2] x) => (float[2,2] y) { y = Add(x, s) }")
    values = numpy_helper.from_array(np.array([5.0, 7.0], dtype=np.float32), "s")
    indices = numpy_helper.from_array(np.array([[0, 1], [1, 0]]))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    assert run(load(proto), {"x": torch.zeros(2, 2)})["y"].tolist() == [[0, 5], [7, 0]]


# Control flow


BRANCHES = """g ({inputs}float[2] x) => (float[2] y) {before}{{
    y = If (c) <then_branch = t () => (float[2] a) {{ a = Neg(x) }},
                else_branch = e () => (float[2] b) {{ b = Abs(x) }}>
}}"""


@pytest.mark.parametrize(("condition", "expected"), [(1, ["neg"]), (0, ["abs"])])
def test_if_with_a_constant_condition_keeps_one_branch(condition: int, expected: list[str]) -> None:
    text = BRANCHES.format(inputs="", before=f"<bool c = {{{condition}}}> ")
    assert ops(load(model(text))) == expected


def test_if_with_an_unknown_condition_computes_both_branches_and_selects() -> None:
    graph = load(model(BRANCHES.format(inputs="bool c, ", before="")))
    assert sorted(ops(graph)) == ["abs", "neg", "where"]
    x = torch.tensor([1.0, -2.0])
    assert run(graph, {"c": torch.tensor(True), "x": x})["y"].tolist() == [-1, 2]
    assert run(graph, {"c": torch.tensor(False), "x": x})["y"].tolist() == [1, 2]


def test_if_whose_branches_differ_in_shape_asks_for_its_condition() -> None:
    text = """g (bool c, float[2] x) => (y) {
        y = If (c) <then_branch = t () => (float[2] a) { a = Neg(x) },
                    else_branch = e () => (float[4] b) { b = Concat <axis = 0> (x, x) }>
    }"""
    with pytest.raises(ConstantRequiredError) as caught:
        load(model(text))
    assert caught.value.inputs == ("c",)


LOOP = """g (float[2] x) => (float[2] y, float[n,2] rows) <int64 trips = {3}, bool go = {1}> {
    y, rows = Loop (trips, go, x) <body = b (int64 i, bool c, float[2] h)
                                          => (bool d, float[2] o, float[2] row) {
        d = Identity(c)
        f = Cast <to = 1> (i)
        o = Add(h, f)
        row = Neg(o)
    }>
}"""


def test_a_loop_with_a_constant_trip_count_is_unrolled() -> None:
    graph = load(model(LOOP))
    result = run(graph, {"x": torch.tensor([0.0, 10.0])})
    assert result["y"].tolist() == [3, 13]
    assert result["rows"].tolist() == [[0, -10], [-1, -11], [-3, -13]]


def test_a_loop_stops_when_its_condition_turns_false() -> None:
    text = LOOP.replace("d = Identity(c)", "two = Constant <value_int = 1> () d = Less(i, two)")
    assert run(load(model(text)), {"x": torch.zeros(2)})["rows"].shape == (2, 2)


def test_a_loop_that_would_unroll_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_UNROLLED", 100)
    with pytest.raises(UnsupportedError, match="Loop of 26 steps would unroll to 104 nodes"):
        load(model(LOOP.replace("int64 trips = {3}", f"int64 trips = {{{2**40}}}")))


def test_a_scan_is_unrolled() -> None:
    text = """g (float[2] h, float[3,2] x) => (float[2] y, float[3,2] rows) {
        y, rows = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] p) => (float[2] t, float[2] row) {
            t = Add(s, p)
            row = Identity(t)
        }> (h, x)
    }"""
    result = run(load(model(text)), {"h": torch.zeros(2), "x": torch.ones(3, 2)})
    assert result["y"].tolist() == [3, 3]
    assert result["rows"][:, 0].tolist() == [1, 2, 3]


def test_sequences_of_known_length_dissolve() -> None:
    text = """g (float[4] x) => (float[2] y) <int64[2] parts = {2, 2}, int64 at = {1}> {
        s = SplitToSequence <axis = 0> (x, parts)
        y = SequenceAt(s, at)
    }"""
    assert run(load(model(text)), {"x": torch.arange(4.0)})["y"].tolist() == [2, 3]


# Functions


def test_a_function_of_the_model_is_expanded_with_its_attributes() -> None:
    functions = """
    <domain: "local", opset_import: ["" : 18]>
    scaled <alpha> (a) => (b) { c = Elu <alpha: float = @alpha> (a) b = Neg(c) }
    """
    text = "g (float[2] x) => (float[2] y) { y = local.scaled <alpha = 3.0> (x) }"
    graph = load(model(text, functions=functions))
    assert ops(graph) == ["elu", "neg"]
    assert graph.nodes[1].op.alpha == 3.0  # type: ignore[attr-defined]
    assert graph.nodes[1].source == "onnx:local.scaled #0 -> 'y' / onnx:Elu #0 -> 'c'"


def test_a_function_that_calls_itself_is_an_error() -> None:
    functions = '<domain: "local", opset_import: ["" : 18, "local" : 1]> f (a) => (b) { b = local.f(a) }'
    with pytest.raises(ModelError, match="nest more than"):
        load(model("g (float[2] x) => (float[2] y) { y = local.f(x) }", functions=functions))


def test_an_op_without_an_importer_goes_through_the_body_of_its_schema() -> None:
    graph = load(model("g (float[1,2,3,3] x) => (float[1,2,3,3] y) { y = MeanVarianceNormalization(x) }"))
    x = torch.randn(1, 2, 3, 3)
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / x.var((0, 2, 3), correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(run(graph, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


def test_an_unknown_op_is_refused_with_its_name_and_place() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    proto.graph.node[0].op_type = "Frobnicate"
    with pytest.raises(UnsupportedError, match="Frobnicate") as caught:
        load(proto)
    assert caught.value.where == "onnx:Frobnicate #0 -> 'y'"


def test_a_random_op_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="random"):
        load(model("g () => (float[2] y) { y = RandomNormal <shape = [2]> () }"))


@pytest.mark.parametrize("name", ["uint16", "uint32", "uint64", "string"])
def test_element_types_that_hardy_lacks_are_named(name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"element type {name} does not exist"):
        load(model(f"g ({name}[2] x) => ({name}[2] y) {{ y = Identity(x) }}"))


# Versions of the standard


def test_softmax_before_opset_13_treats_all_later_axes_as_one() -> None:
    text = "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax <axis = 1> (x) }"
    x = torch.randn(2, 3, 4)
    flat = x.flatten(1).softmax(1).reshape(2, 3, 4)
    torch.testing.assert_close(run(load(model(text, 12)), {"x": x})["y"], flat)
    torch.testing.assert_close(run(load(model(text, 13)), {"x": x})["y"], x.softmax(1))


def test_axes_are_an_attribute_or_an_operand() -> None:
    old = model("g (float[2,1,3] x) => (float[2,3] y) { y = Squeeze <axes = [1]> (x) }", 11)
    new = model("g (float[2,1,3] x) => (float[2,3] y) <int64[1] a = {1}> { y = Squeeze(x, a) }", 13)
    assert load(old).output_types() == load(new).output_types()


def test_an_old_broadcast_attribute_lays_the_operand_along_its_axis() -> None:
    text = "g (float[2,3,4] x, float[3] b) => (float[2,3,4] y) { y = Add <axis = 1, broadcast = 1> (x, b) }"
    proto = model(text, 6)
    result = run(load(proto), {"x": torch.zeros(2, 3, 4), "b": torch.tensor([1.0, 2.0, 3.0])})
    assert result["y"][0, :, 0].tolist() == [1, 2, 3]


def test_an_op_that_changed_since_a_very_old_opset_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="too old"):
        load(model("g (float[2] x) => (float[2] y) { y = Reshape <shape = [2]> (x) }", 4))


def test_an_opset_from_the_future_is_refused() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    proto.opset_import[0].version = 10_000
    with pytest.raises(UnsupportedError, match="operator set 10000"):
        load(proto)


# The import tests itself


def test_the_self_test_names_what_it_compared_with() -> None:
    proto = model("g (float[2,3] x) => (float[2,3] y) { y = Gelu(x) }", 20)
    check = check_onnx(proto, load(proto))
    assert check.passed
    assert check.summary().startswith("import agrees with onnx")
    assert check.to_json()["outputs"].keys() == {"y"}


def test_the_self_test_finds_a_wrong_graph_and_names_the_output() -> None:
    right = model("g (float[2] x) => (float[2] a, float[2] y) { a = Neg(x) y = Exp(x) }")
    wrong = model("g (float[2] x) => (float[2] a, float[2] y) { a = Neg(x) y = Tanh(x) }")
    with pytest.raises(MismatchError, match="output 'y'"):
        check_onnx(right, load(wrong))


def test_a_self_test_that_cannot_run_says_so() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    graph = load(proto)
    proto.graph.node[0].op_type = "Frobnicate"
    check = check_onnx(proto, graph)
    assert not check.passed
    assert check.summary().startswith("import not checked: onnxruntime: ")


def test_random_inputs_are_fixed_by_their_seed_and_fit_their_types() -> None:
    types = {
        "x": TensorType(DType.f16, (50,)),
        "ids": TensorType(DType.i64, (50,)),
        "attention_mask": TensorType(DType.i64, (50,)),
        "flag": TensorType(DType.boolean, (50,)),
    }
    first, again = random_inputs(types, 1, 100), random_inputs(types, 1, 100)
    assert all(torch.equal(first[n], again[n]) for n in types)
    assert {n: DType.of(t.dtype) for n, t in first.items()} == {n: t.dtype for n, t in types.items()}
    assert first["ids"].max() > 1
    assert set(first["attention_mask"].tolist()) == {0, 1}


def test_a_graph_of_ten_thousand_nodes_imports_in_seconds() -> None:
    count = 10_000
    nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("t0", f"t{count}")]
    proto = helper.make_model(helper.make_graph(nodes[::-1], "chain", info[:1], info[1:]))
    assert len(load(proto).nodes) == count + 1
