"""Puts chains of integer ops that are one layer of the accelerator into groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar

from hardy.compiler.errors import TargetError
from hardy.compiler.ir import Builder, Constant, Graph, Node, Value, remap
from hardy.compiler.ledger import ledger
from hardy.compiler.notes import note
from hardy.compiler.ops.group import Group
from hardy.compiler.pipeline import Pass
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.targets.fpga.chains import Chain, Users, find_chain, starts_chain
from hardy.targets.fpga.lower.layer import Layer
from hardy.targets.fpga.pictures import NoLayerError

KIND = "vta"


@dataclass(frozen=True)
class FormLayers(Pass):
    """Make a group of every chain of integer ops that the accelerator computes as one layer.

    A chain is a convolution, product or pool of i8, a bias, shifted residuals, `requantize_shift`, limits,
    and a max pool; see `chains.py`. `fits` says of a layer why the configuration cannot run it, or nothing.
    Integer ops that are no layer stay as they are; the report says why.
    """

    name: ClassVar[str] = "form_layers"

    fits: Callable[[Layer], str] = lambda layer: ""

    def run(self, graph: Graph) -> Graph:
        book = ledger()
        users = graph.users()
        outputs = set(graph.outputs)
        chains: dict[Node, Chain] = {}
        taken: set[Node] = set()
        refused: list[dict[str, str]] = []
        for node in graph.nodes:
            if node in taken or not starts_chain(node, users):
                continue
            chain, why = self._fitting(node, users, outputs)
            if chain is None:
                refused.append({"op": node.op.name, "where": node.name or node.source, "why": why})
            elif book.take(f"group {KIND}"):
                chains[chain.members[-1]] = chain
                taken.update(chain.members)
        if refused:
            note("no_layer", refused)
        return EliminateDeadCode().run(_grouped(graph, chains, taken)) if chains else graph

    def _fitting(self, node: Node, users: Users, outputs: Set[Value]) -> tuple[Chain | None, str]:
        """The longest chain that fits, or why there is none."""
        first = ""
        for pools in (True, False):
            try:
                chain = find_chain(node, users, outputs, pools)
                why = self.fits(chain.layer)
            except (NoLayerError, TargetError) as error:
                why = str(error)
            else:
                if not why:
                    return chain, ""
            first = first or why
        return None, first


def _grouped(graph: Graph, chains: Mapping[Node, Chain], taken: set[Node]) -> Graph:
    """Each group stands where its chain's last node stood."""
    b = Builder(graph.name)
    mapping: dict[Value, Value] = {}
    for node in graph.nodes:
        if node in chains:
            members = chains[node].members
            new = b.append(_group(members, mapping))
        elif node in taken:
            continue
        else:
            copied = remap(node, mapping)
            new = b.append(copied)
            if copied is node:
                continue
        mapping.update(zip(node.values, new, strict=True))
    return graph.with_nodes(b._nodes, [mapping.get(v, v) for v in graph.outputs])


def _group(members: Sequence[Node], mapping: Mapping[Value, Value]) -> Node:
    """Constants of the chain live inside the group, so that the group tells its whole layer."""
    body = Builder(KIND)
    inner: dict[Value, Value] = {}
    operands: list[Value] = []
    inside = set(members)
    for value in dict.fromkeys(v for n in members for v in n.operands if v.node not in inside):
        if isinstance(value.op, Constant):
            inner[value] = body.append(value.node)[0]
        else:
            inner[value] = body.input(f"x{len(operands)}", value.type)
            operands.append(mapping.get(value, value))
    for node in members:
        inner.update(zip(node.values, body.append(remap(node, inner)), strict=True))
    last = members[-1]
    sources = dict.fromkeys(s for n in members for s in n.source.split(" + ") if s)
    graph = body.finish({"y": inner[last.values[0]]})
    name = next((n.name for n in members if n.name), "")
    return Node(Group(KIND, graph), tuple(operands), last.types, name, " + ".join(sources))
