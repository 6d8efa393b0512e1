"""Searches for the passes that make a model fastest or smallest at a bounded loss."""

from hardy.compiler.search.metrics import METRICS, Metric, find_metric
from hardy.compiler.search.recipes import RECIPES, Objective, Ranking, Recipe
from hardy.compiler.search.search import Goal, Search, Trial

__all__ = [
    "METRICS",
    "RECIPES",
    "Goal",
    "Metric",
    "Objective",
    "Ranking",
    "Recipe",
    "Search",
    "Trial",
    "find_metric",
]
