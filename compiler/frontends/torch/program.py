"""An exported program's operators as graph nodes."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from hardy.compiler.errors import GraphError, HardyError, ModelError, UnsupportedError
from hardy.compiler.frontends.emit import Emitter
from hardy.compiler.frontends.torch.activation import refuse_random
from hardy.compiler.frontends.torch.context import IMPORTERS, Context, refuse_type
from hardy.compiler.frontends.torch.create import evaluate
from hardy.compiler.frontends.torch.decompose import decompose
from hardy.compiler.frontends.torch.inplace import functional_name, mutates
from hardy.compiler.frontends.torch.source import source_of
from hardy.compiler.ir import Graph, Value
from hardy.compiler.literal import Literal
from hardy.compiler.types import DType, TensorType

# Options that say where and how a tensor is stored, which is not the graph's concern.
_STORAGE = ("device", "layout", "pin_memory", "memory_format", "non_blocking", "generator")


def to_graph(program: ExportedProgram, name: str, spelling: Mapping[str, str]) -> Graph:
    """A static, functional program as a graph; `spelling` maps names of inputs to what they are called."""
    return _Import(program, name, spelling).run()


class _Import:
    def __init__(self, program: ExportedProgram, name: str, spelling: Mapping[str, str]) -> None:
        self.program = program
        self.spelling = spelling
        self.e = Emitter(name)
        self._aliases: dict[Any, list[Any]] = {}
        self._shared: dict[tuple[Any, ...], Value] = {}

    def run(self) -> Graph:
        _refuse_state(self.program)
        env: dict[fx.Node, Any] = {}
        specs = self.program.graph_signature.input_specs
        placeholders = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        for node, spec in zip(placeholders, specs, strict=True):
            env[node] = self._placeholder(node, spec)
        return self.e.finish(self._outputs(self._nodes(self.program.graph_module, env)))

    def _placeholder(self, node: fx.Node, spec: Any) -> Value | None:
        if spec.kind is InputKind.USER_INPUT:
            if not isinstance(spec.arg, TensorArgument):
                return None  # a Python value that tracing has made part of the program
            label = self.spelling.get(spec.arg.name, spec.arg.name)
            return self.e.builder.input(label, type_of(node.meta["val"], f"input {label}"), source="input")
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            state = self.program.state_dict if spec.kind is InputKind.PARAMETER or spec.persistent else None
            data = (state if state is not None else self.program.constants)[spec.target]
            return self._constant(data, spec.target)
        raise UnsupportedError(f"the program takes {spec.kind.name.lower()} {spec.target!r} as an input")

    def _constant(self, data: Any, name: str) -> Value:
        """One constant for all names of the same memory."""
        if not isinstance(data, torch.Tensor):
            raise UnsupportedError(f"{name} is a {type(data).__name__}, not a tensor")
        if data.layout is not torch.strided:
            raise UnsupportedError(f"{name} is a {data.layout} tensor", hint="make it dense")
        if data.is_meta or isinstance(data, FakeTensor):
            raise ModelError(f"{name} has no data", hint="load the weights before tracing")
        key = (data.data_ptr(), data.dtype, tuple(data.shape), data.stride()) if data.numel() else (name,)
        if key not in self._shared:
            refuse_type(data.dtype, name)
            self._shared[key] = self.e.constant(Literal(data), name=name)
        return self._shared[key]

    def _nodes(self, module: fx.GraphModule, env: dict[fx.Node, Any]) -> Sequence[Any]:
        """Import a graph module's operators; what it returns."""
        last: dict[fx.Node, fx.Node] = {}
        for node in module.graph.nodes:
            for used in node.all_input_nodes:
                last[used] = node
        for node in module.graph.nodes:
            if node.op == "output":
                return fx.node.map_arg(node.args[0], env.__getitem__)
            if node.op == "get_attr":
                env[node] = self._attribute(module, str(node.target))
            elif node.op == "call_function":
                env[node] = self._call(node, env)
            for used in node.all_input_nodes:
                if last[used] is node:
                    env.pop(used, None)
        raise GraphError("the program has no output")

    def _attribute(self, module: fx.GraphModule, path: str) -> Any:
        found: Any = module
        for part in path.split("."):
            found = getattr(found, part)
        return self._constant(found, path) if isinstance(found, torch.Tensor) else found

    def _call(self, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
        target: Any = node.target
        if target is operator.getitem:
            return env[node.args[0]][node.args[1]]  # type: ignore[index]
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._higher_order(node, env)
        source = source_of(node.meta)
        self.e.source = source
        writes = mutates(node)
        importer = IMPORTERS.get(functional_name(node) if writes else str(target))
        try:
            types = result_types(node, source)
            c = Context(self.e, node, types, source)
            if importer is None:
                # What may draw random numbers is taken apart to see whether it does.
                random = torch.Tag.nondeterministic_seeded in target.tags
                if random and not node.all_input_nodes:
                    refuse_random(c)
                result = None if random else evaluate(c, env)
                if result is None:
                    result = self._decomposed(node, env, source)
            else:
                args = fx.node.map_arg(node.args, env.__getitem__)
                given = {k: v for k, v in node.kwargs.items() if k not in _STORAGE}
                result = importer(c, *args, **fx.node.map_arg(given, env.__getitem__))
        except HardyError as error:
            error.where = error.where or source
            raise
        _check(node, result, types, source)
        if writes:
            # Everything that names the written tensor now means the result.
            aliases = self._aliases.setdefault(node.args[0], [node.args[0]])
            aliases.append(node)
            self._aliases[node] = aliases
            env.update(dict.fromkeys(aliases, result))
        return result

    def _decomposed(self, node: fx.Node, env: Mapping[fx.Node, Any], source: str) -> Any:
        """Import an operator as the pieces that torch knows for it."""
        found = decompose(node)
        if found is None:
            raise UnsupportedError(
                f"operator {node.target} is not supported",
                where=source,
                hint="express it with other operators, or add an importer in compiler/frontends/torch",
            )
        pieces, tensors = found
        inner = dict(zip(pieces.graph.find_nodes(op="placeholder"), (env[t] for t in tensors), strict=True))
        for piece in pieces.graph.nodes:
            piece.meta["stack_trace"] = node.meta.get("stack_trace")
            piece.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
        results = list(self._nodes(pieces, inner))
        return results if isinstance(node.meta["val"], tuple | list) else results[0]

    def _higher_order(self, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
        """Regions that only change how autograd or autocast behave are part of the program."""
        name = str(node.target)
        args = list(fx.node.map_arg(node.args, env.__getitem__))
        source = source_of(node.meta)
        if name == "wrap_with_set_grad_enabled":
            _, body, *operands = args
        elif name == "wrap_with_autocast" and not args[2]:
            _, _, _, _, body, *operands = args
        else:
            what = "a region under autocast" if name == "wrap_with_autocast" else f"control flow ({name})"
            raise UnsupportedError(
                f"{what} is not supported", where=source, hint="trace the model without it, for fixed inputs"
            )
        assert isinstance(body, fx.GraphModule)
        inner = dict(zip(body.graph.find_nodes(op="placeholder"), operands, strict=True))
        return self._nodes(body, inner)

    def _outputs(self, results: Sequence[Any]) -> dict[str, Value]:
        specs = self.program.graph_signature.output_specs
        users = [r for r, s in zip(results, specs, strict=True) if s.kind is OutputKind.USER_OUTPUT]
        outputs: dict[str, Value] = {}
        spec = self.program.call_spec.out_spec
        if spec is None:
            raise UnsupportedError("the program does not say how its outputs are arranged")
        for name, value in zip(output_names(spec), users, strict=True):
            if isinstance(value, bool | int | float):
                dtype = torch.float64 if isinstance(value, float) else None
                value = self.e.constant(torch.tensor(value, dtype=dtype))
            if isinstance(value, Value):
                outputs[name] = value
            elif value is not None:
                raise UnsupportedError(f"output {name!r} is a {type(value).__name__}, not a tensor")
        if not outputs:
            raise UnsupportedError("the model returns no tensor")
        return outputs


def output_names(spec: pytree.TreeSpec) -> list[str]:
    """A name for each leaf: its keys, joined; `output` for one alone, `output_0` ... for a sequence."""
    leaves = pytree.tree_unflatten(range(spec.num_leaves), spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(leaves)[0]]
    names: list[str] = []
    for path in paths:
        parts = [_key(key) for key in path]
        if not parts or parts[0].isdigit():
            parts.insert(0, "output")
        name = base = "_".join(parts)
        repeat = 0
        while name in names:
            repeat += 1
            name = f"{base}_{repeat}"
        names.append(name)
    return names


def _key(key: Any) -> str:
    """A pytree key without its brackets."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def type_of(value: torch.Tensor, where: str) -> TensorType:
    """The static type of a traced tensor."""
    refuse_type(value.dtype, where)
    if any(not isinstance(n, int) for n in value.shape):
        raise UnsupportedError(
            f"the shape {list(map(str, value.shape))} depends on the data; shapes are static",
            where=where,
            hint="run this part outside, or use an operator that keeps the shape, such as torch.where",
        )
    if value.layout is not torch.strided:
        raise UnsupportedError(f"{value.layout} tensors are not supported", where=where)
    return TensorType(DType.of(value.dtype), tuple(value.shape))


def result_types(node: fx.Node, source: str) -> tuple[TensorType | None, ...]:
    """What torch says of a node's results; None for what is not a tensor."""
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else (value,)
    where = f"{node.target}" + (f", {source}" if source else "")
    return tuple(type_of(v, where) if isinstance(v, torch.Tensor) else None for v in values)


def _check(node: fx.Node, result: Any, types: tuple[TensorType | None, ...], source: str) -> None:
    """The importer must give the types that torch gives."""
    # A value is a tuple itself.
    results = result if isinstance(result, list) else [result]
    for value, expected in zip(results, types, strict=True):
        if value is not None and expected is not None and value.type != expected:
            raise GraphError(
                f"{node.target} was imported as {value.type}, torch gives {expected}", where=source
            )


def _refuse_state(program: ExportedProgram) -> None:
    """A graph keeps nothing from one run to the next: refuse buffers that change and are read."""
    signature = program.graph_signature
    changed = set(signature.buffers_to_mutate.values())
    if not changed:
        return
    # Buffers whose old value reaches an output, found backwards from the outputs.
    by_name = {n.name: n for n in program.graph.nodes}
    stack = [by_name[n] for n in signature.user_outputs if n in by_name]
    reached = set(stack)
    while stack:
        for used in stack.pop().all_input_nodes:
            if used not in reached:
                reached.add(used)
                stack.append(used)
    for node in reached:
        target = signature.inputs_to_buffers.get(node.name)
        if target in changed:
            raise UnsupportedError(
                f"buffer {target!r} changes from run to run, and the outputs depend on it",
                hint="call model.eval() if it holds training statistics; else make it an input and output",
            )
