"""A graph as a torch module: its float constants are parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from hardy.compiler.interpret import evaluate
from hardy.compiler.ir import Constant, Graph, Node, Value
from hardy.compiler.training import straight_through
from hardy.compiler.training.trainable import trainable
from hardy.passes.layers import replace_weights

# What training keeps of the weights as they are: nothing, which are zero, or which are equal.
Keep = Literal["nothing", "zeros", "ties"]


class Weight(nn.Module):
    """One constant: called, it gives the tensor that the graph computes with.

    With "zeros", elements that are zero stay zero, so that pruned weights stay pruned. With "ties",
    elements of one value keep sharing it, and zeros stay zero: the parameter is the codebook, and its
    gradients are sums over the elements (Han et al., 2016, arXiv:1510.00149, section 3). Vectors, such
    as biases, are free: no pass prunes or clusters them, and many start as zeros. A `positive` constant
    is learned as its logarithm, so that it moves in proportion to its size.
    """

    mask: Tensor
    index: Tensor

    def __init__(self, data: Tensor, keep: Keep, positive: bool = False) -> None:
        super().__init__()
        self.keep = keep = keep if data.ndim > 1 and not positive else "nothing"
        self.positive = positive
        self.shape = data.shape
        if positive:
            data = data.log()
        if keep == "ties":
            codebook, index = torch.unique(data.reshape(-1), return_inverse=True)
            self.register_buffer("index", index, persistent=False)
            self.register_buffer("mask", codebook != 0, persistent=False)
            data = codebook
        elif keep == "zeros":
            self.register_buffer("mask", data != 0, persistent=False)
        self.data = nn.Parameter(data.clone())

    def forward(self) -> Tensor:
        if self.keep == "nothing":
            return self.data.exp() if self.positive else self.data
        kept = self.data * self.mask
        return kept[self.index].reshape(self.shape) if self.keep == "ties" else kept


class GraphModule(nn.Module):
    """Runs a graph differentiably. `parameters()` are the constants in `train`, by default those that
    `trainable` finds, and those in `positive`, which stay above zero; `to_graph()` gives the graph back
    with what they have become.

    Steps such as rounding have the gradients of `straight_through`. Random ops and batch statistics do
    not exist in a graph, so that a run in training is the run of the compiled model.
    """

    def __init__(
        self,
        graph: Graph,
        train: Iterable[Value] | None = None,
        keep: Keep = "nothing",
        positive: Iterable[Value] = (),
    ) -> None:
        super().__init__()
        self.graph = graph
        above = dict.fromkeys(positive)
        self.trained = (*(trainable(graph) if train is None else train), *above)
        # Constants that are not trained, on the device that the graph runs on.
        self._fixed: dict[Node, Tensor] = {}
        self.weights = nn.ModuleList()
        for value in self.trained:
            assert value.literal is not None
            self.weights.append(Weight(value.literal.tensor, keep, value in above))

    def forward(
        self, feed: Mapping[str, Tensor], watch: Sequence[Value] = ()
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The outputs by name, and the watched values, for inputs of the graph's own types."""
        operands = [feed[name] for name in self.graph.input_names]
        results = self._run(operands, self._constants(), watch)
        return self._named(results)

    def batch(
        self, feed: Mapping[str, Tensor], watch: Sequence[Value] = ()
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The same for many feeds at once: every tensor has one axis more, in front."""
        constants = self._constants()

        def one(*operands: Tensor) -> tuple[Tensor, ...]:
            return self._run(operands, constants, watch)

        results = torch.func.vmap(one)(*[feed[name] for name in self.graph.input_names])
        return self._named(results)

    def stacked(
        self, feed: Mapping[str, Tensor], watch: Sequence[Value] = (), vectorize: bool = True
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What `batch` gives; a single feed runs by itself, and without `vectorize` each does, one after
        the other, which is slower and takes ops that vmap refuses."""
        rows = len(next(iter(feed.values())))
        if rows > 1 and vectorize:
            return self.batch(feed, watch)
        constants = self._constants()
        names = self.graph.input_names
        runs = [self._run([feed[n][i] for n in names], constants, watch) for i in range(rows)]
        return self._named([torch.stack(results) for results in zip(*runs, strict=True)])

    def _named(self, results: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        count = len(self.graph.output_names)
        return dict(zip(self.graph.output_names, results, strict=False)), list(results[count:])

    def _constants(self) -> dict[Value, Tensor]:
        return {value: weight() for value, weight in zip(self.trained, self.weights, strict=True)}

    def _run(
        self, operands: Sequence[Tensor], constants: Mapping[Value, Tensor], watch: Sequence[Value]
    ) -> tuple[Tensor, ...]:
        seen: dict[Value, Tensor] = {}
        wanted = set(watch)
        device = operands[0].device if operands else torch.device("cpu")

        def compute(node: Node, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
            if isinstance(node.op, Constant):
                own = constants.get(node.values[0])
                return (self._constant(node.op, node, device) if own is None else own,)
            return straight_through.compute(node, given)

        def see(value: Value, tensor: Tensor) -> None:
            if value in wanted:
                seen[value] = tensor

        # Ops that make tensors of their own, such as masks, make them on this device.
        with nullcontext() if device.type == "cpu" else device:
            outputs = evaluate(self.graph, operands, see, compute)
        return (*outputs, *[seen[v] for v in watch])

    def _constant(self, op: Constant, node: Node, device: torch.device) -> Tensor:
        if device.type == "cpu":
            return op.literal.tensor
        held = self._fixed.get(node)
        if held is None or held.device != device:
            held = self._fixed[node] = op.literal.tensor.to(device)
        return held

    def tensors(self) -> dict[Value, Tensor]:
        """What the trained constants have become."""
        with torch.no_grad():
            return {value: tensor.detach().clone() for value, tensor in self._constants().items()}

    def to_graph(self) -> Graph:
        """The graph with the present weights in place of its constants."""
        return replace_weights(self.graph, self.tensors())
