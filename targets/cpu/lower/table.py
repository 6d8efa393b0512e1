"""What the CPU target lowers: the one table that both answers `supports` and lowers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hardy.compiler.errors import UnsupportedError
from hardy.compiler.ir import Constant, Input, Node, Op
from hardy.compiler.ops import linear, pool, reduce
from hardy.compiler.ops.group import Group
from hardy.targets.cpu.kernels.emit import MAX_ELEMENTS
from hardy.targets.cpu.lower import generic
from hardy.targets.cpu.lower.cluster import Cluster, cluster_of
from hardy.targets.cpu.lower.injective import is_injective, lower_injective
from hardy.targets.cpu.lower.reduce import lower_reduction
from hardy.targets.cpu.select import Selector
from hardy.targets.target import YES, Support, no


@dataclass(frozen=True)
class Rule:
    """How an op that is more than a choice of elements is lowered.

    `lower` gets the cluster and its only node of this kind, and answers whether it could build a kernel of the
    whole cluster; alone, every node that `takes` accepts must succeed.
    """

    lower: Callable[[Selector, Cluster, Node], bool]
    takes: Callable[[Node], Support] = lambda node: YES


RULES: dict[type[Op], Rule] = {
    reduce.ReduceSum: Rule(lower_reduction),
    reduce.ReduceProd: Rule(lower_reduction),
    reduce.ReduceMax: Rule(lower_reduction),
    reduce.ReduceMin: Rule(lower_reduction),
    linear.Matmul: Rule(generic.lower_matmul),
    linear.Conv: Rule(generic.lower_conv),
    pool.MaxPool: Rule(generic.lower_pool),
    pool.AvgPool: Rule(generic.lower_pool),
}


def supports(node: Node) -> Support:
    """Whether the node can be lowered as it is."""
    if isinstance(node.op, Input | Constant):
        return YES
    large = next((v for v in (*node.operands, *node.values) if v.type.size > MAX_ELEMENTS), None)
    if large is not None:
        return no(f"{large.type} has more elements than 32-bit indices reach")
    if isinstance(node.op, Group):
        refused = (supports(n) for n in node.op.body.nodes)
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
    cluster = cluster_of(node, lambda n: is_injective(n) or type(n.op) in RULES)
    if not _lower_whole(selector, cluster):
        for part in cluster.runs(is_injective):
            if not _lower_whole(selector, part):
                raise UnsupportedError(f"the cpu target cannot lower {part.nodes[0].op.name}", where=node.source)


def _lower_whole(selector: Selector, cluster: Cluster) -> bool:
    anchors = [n for n in cluster.nodes if not is_injective(n)]
    if not anchors:
        lower_injective(selector, cluster)
        return True
    return len(anchors) == 1 and RULES[type(anchors[0].op)].lower(selector, cluster, anchors[0])
