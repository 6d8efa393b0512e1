"""Patterns over graphs, and the search that matches them.

A pattern is a tree of terms, built by `Pattern` in the way that graphs are built. Commutative ops
match in both orders of their operands.
"""
