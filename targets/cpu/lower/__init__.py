"""Lowering: nodes and groups of the graph to kernels and calls."""
