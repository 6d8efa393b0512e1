"""Layers of integers compiled to programs for VTA."""
