"""Graphs as files of other tools."""
