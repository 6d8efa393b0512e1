"""What the CPU target lowers: the one table that both answers `supports` and lowers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hardy.compiler.errors import UnsupportedError
from hardy.compiler.ir import Builder, Constant, Graph, Input, Node, Op, Value
from hardy.compiler.ops import activation, binary, linear, norm, pool, quant, recurrent, reduce, shape
from hardy.compiler.ops.group import Group
from hardy.targets.cpu.kernels.emit import MAX_ELEMENTS
from hardy.targets.cpu.lower.binary import lower_binary, lower_pack
from hardy.targets.cpu.lower.binary import takes as binary_taken
from hardy.targets.cpu.lower.cluster import Cluster, cluster_of
from hardy.targets.cpu.lower.injective import is_injective, lower_injective
from hardy.targets.cpu.lower.integer import lower_integer
from hardy.targets.cpu.lower.integer import takes as integer_taken
from hardy.targets.cpu.lower.parts import lower_graph
from hardy.targets.cpu.lower.pooling import lower_pool
from hardy.targets.cpu.lower.product import lower_conv, lower_matmul
from hardy.targets.cpu.lower.recurrent import lower_recurrent
from hardy.targets.cpu.lower.reduce import lower_reduction
from hardy.targets.cpu.lower.rows import lower_rows
from hardy.targets.cpu.lower.rows import takes as rows_taken
from hardy.targets.cpu.lower.scan import lower_arg, lower_cumsum, lower_top_k
from hardy.targets.cpu.lower.scatter import lower_scatter
from hardy.targets.cpu.lower.weight_only import lower_weight_only
from hardy.targets.cpu.lower.weight_only import takes as weight_only_taken
from hardy.targets.cpu.program import Ref
from hardy.targets.cpu.select import Selector
from hardy.targets.target import YES, Support, no


@dataclass(frozen=True)
class Rule:
    """How an op that is more than a choice of elements is lowered.

    `lower` gets the cluster and its only node of this kind, and answers whether it could build a kernel
    of the whole cluster; alone, every node that `takes` accepts must succeed.
    """

    lower: Callable[[Selector, Cluster, Node], bool]
    takes: Callable[[Node], Support] = lambda node: YES


def _lower_recurrent(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    def lower_part(
        selector: Selector, graph: Graph, places: Mapping[Value, Ref], targets: Sequence[Ref]
    ) -> None:
        lower_graph(selector, graph, places, targets, supports, lower_cluster)

    return lower_recurrent(selector, cluster, anchor, lower_part)


RULES: dict[type[Op], Rule] = {
    reduce.ReduceSum: Rule(lower_reduction),
    reduce.ReduceProd: Rule(lower_reduction),
    reduce.ReduceMax: Rule(lower_reduction),
    reduce.ReduceMin: Rule(lower_reduction),
    linear.Matmul: Rule(lower_matmul),
    linear.Conv: Rule(lower_conv),
    quant.DequantizeMatmul: Rule(lower_weight_only, weight_only_taken),
    quant.IntegerMatmul: Rule(lower_integer, integer_taken),
    quant.IntegerConv: Rule(lower_integer, integer_taken),
    binary.BinaryMatmul: Rule(lower_binary, binary_taken),
    binary.BinaryConv: Rule(lower_binary, binary_taken),
    binary.PackBits: Rule(lower_pack),
    pool.MaxPool: Rule(lower_pool),
    pool.AvgPool: Rule(lower_pool),
    reduce.ArgMax: Rule(lower_arg),
    reduce.ArgMin: Rule(lower_arg),
    reduce.CumSum: Rule(lower_cumsum),
    reduce.TopK: Rule(lower_top_k),
    shape.ScatterElements: Rule(lower_scatter),
    shape.ScatterNd: Rule(lower_scatter),
    recurrent.Rnn: Rule(_lower_recurrent),
    recurrent.Gru: Rule(_lower_recurrent),
    recurrent.Lstm: Rule(_lower_recurrent),
    activation.Softmax: Rule(lower_rows, rows_taken),
    norm.LayerNorm: Rule(lower_rows, rows_taken),
    norm.RmsNorm: Rule(lower_rows, rows_taken),
}


def supports(node: Node) -> Support:
    """Whether the node can be lowered as it is."""
    if isinstance(node.op, Input | Constant):
        return YES
    large = next((v for v in (*node.operands, *node.values) if v.type.size > MAX_ELEMENTS), None)
    if large is not None:
        return no(f"{large.type} has more elements than 32-bit indices reach")
    if isinstance(node.op, Group):
        b = Builder()
        b.inline(node.op.body, node.operands)
        refused = (supports(n) for n in b._nodes)
        return next((answer for answer in refused if not answer), YES)
    rule = RULES.get(type(node.op))
    if rule is not None:
        return rule.takes(node)
    if is_injective(node):
        return YES
    if node.op.is_core():
        return no(f"the cpu target has no kernel for {node.op.name}")
    parts = cluster_of(node, is_injective).nodes
    if all(map(is_injective, parts)):
        return YES
    return no("it is decomposed")


def lower(selector: Selector, node: Node) -> None:
    """Append the calls that compute a node or group."""
    lower_cluster(selector, cluster_of(node, lambda n: is_injective(n) or type(n.op) in RULES))


def lower_cluster(selector: Selector, cluster: Cluster) -> None:
    """One kernel for the cluster where that can be, else several."""
    if _lower_whole(selector, cluster):
        return
    for part in cluster.runs(is_injective):
        if not _lower_whole(selector, part):
            raise UnsupportedError(
                f"the cpu target cannot lower {part.nodes[0].op.name}", where=part.nodes[0].source
            )


def _lower_whole(selector: Selector, cluster: Cluster) -> bool:
    anchors = [n for n in cluster.nodes if not is_injective(n)]
    if not anchors:
        lower_injective(selector, cluster)
        return True
    if len(anchors) == 2 and isinstance(anchors[1].op, binary.PackBits):
        # The only one that may follow another: as the end of its epilogue.
        anchors.pop()
    return len(anchors) == 1 and RULES[type(anchors[0].op)].lower(selector, cluster, anchors[0])
