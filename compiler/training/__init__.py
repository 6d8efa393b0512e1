"""Trains graphs: their float constants become parameters, and go back into the graph afterwards."""

from hardy.compiler.training.graph_module import GraphModule

__all__ = ["GraphModule"]
