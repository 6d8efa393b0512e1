"""Operators that write in place, where nothing else shares the memory they write to.

`relu_(x)` on a tensor of which no view exists is `relu(x)`, with x meaning the result from there on.
Anything subtler is left to torch's functionalization, which traces the whole program again.
"""

from __future__ import annotations

import torch
from torch import fx

from hardy.compiler.frontends.torch.context import IMPORTERS

# Composites that may or may not return (a view of) their operand are not to be trusted; these
# always compute a new tensor.
_NEW = frozenset(
    f"aten.{name}"
    for name in (
        "adaptive_avg_pool1d.default",
        "adaptive_avg_pool2d.default",
        "adaptive_avg_pool3d.default",
        "avg_pool1d.default",
        "batch_norm.default",
        "conv1d.default",
        "conv1d.padding",
        "conv2d.default",
        "conv2d.padding",
        "conv3d.default",
        "conv3d.padding",
        "conv_transpose1d.default",
        "conv_transpose2d.input",
        "conv_transpose3d.input",
        "embedding.default",
        "group_norm.default",
        "instance_norm.default",
        "layer_norm.default",
        "linear.default",
        "matmul.default",
        "max_pool1d.default",
        "max_pool2d.default",
        "max_pool3d.default",
        "relu6.default",
        "rms_norm.default",
        "scaled_dot_product_attention.default",
    )
)


def mutates(node: fx.Node) -> bool:
    """Whether an operator writes to an operand; dropout does not in eval mode."""
    if str(node.target) in ("aten.dropout_.default", "aten.feature_dropout_.default") and not node.args[2]:
        return False
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def functional_name(node: fx.Node) -> str:
    """The name of the operator that computes what an in-place operator writes."""
    packet, overload = str(node.target).rsplit(".", 1)
    return f"{packet.removesuffix('_')}.{overload}"


def is_simple(graph: fx.Graph) -> bool:
    """Whether every operator of a graph that writes in place can be imported as one that does not."""
    roots: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if mutates(node):
            written = node.args[0]
            if not isinstance(written, fx.Node) or functional_name(node) not in IMPORTERS:
                return False
            roots[node] = roots.get(written, written)
    position = {node: i for i, node in enumerate(graph.nodes)}
    last = {root: write for write, root in roots.items()}
    for alias in (*last, *roots):
        root = roots.get(alias, alias)
        if alias is root and not _makes_new(root):
            return False
        for user in alias.users:
            if user in roots:
                shared = user.args[0] is not alias or user.all_input_nodes.count(alias) != 1
            else:
                # A view that is taken before the last write would show what is written then.
                shared = not _makes_new(user) and position[user] < position[last[root]]
            if shared:
                return False
    return True


def _makes_new(node: fx.Node) -> bool:
    """Whether the result of a node shares no memory with its operands."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload) or mutates(node):
        return False
    if str(target) in _NEW:
        return True
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    return not composite and not target.is_view
