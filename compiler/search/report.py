"""What a search leaves in its folder: the best artifact, all trials as JSON, and a picture."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from hardy.compiler.errors import UsageError
from hardy.compiler.search.recipes import Objective
from hardy.compiler.search.search import Search, Trial

BEST, TRIALS, PLOT = "best", "trials.json", "trials.svg"
_LABELS: dict[Objective, str] = {
    "latency": "time / original's",
    "size": "bytes / original's",
    "macs": "multiply-accumulates / original's",
}


def check_folder(folder: Path) -> None:
    """UsageError unless the folder is new, empty, or one of an earlier search, and pictures can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("the picture of the trials needs matplotlib", hint="pip install 'hardy[plots]'")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} exists and is a file", hint="choose another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / TRIALS).is_file():
        raise UsageError(f"{folder} exists and is not of a search", hint="choose another folder")


def write_best(search: Search, folder: Path) -> None:
    """The artifact to take, as it is known now; whole or not at all."""
    assert search.best is not None
    folder.mkdir(parents=True, exist_ok=True)
    if search.best.folder is None:
        search.best.save(folder / BEST)


def write_trials(search: Search, folder: Path, stopped: str = "") -> dict[str, Any]:
    """All trials so far as JSON, and a picture of them."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize(search, stopped)
    _replace(folder / TRIALS, json.dumps(summary, indent=1) + "\n")
    if any(t.drop is not None for t in search.trials):
        draw(search, folder / PLOT)
    return summary


def summarize(search: Search, stopped: str = "") -> dict[str, Any]:
    """The whole search as JSON: objective, budget, every trial, the Pareto front, what was chosen and why."""
    return {
        "objective": search.goal.objective,
        "budget": search.budget,
        "samples": {"calibration": search.calibration, "test": len(search.held)},
        "original": plain(search.original),
        "trials": [plain(t) for t in search.trials],
        "front": [plain(t) for t in search.front()],
        "chosen": None if search.chosen is None else plain(search.chosen),
        "kept_original": search.refusal(),
        "stopped": stopped,
    }


def plain(trial: Trial) -> dict[str, Any]:
    return dataclasses.asdict(trial)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    hidden = path.with_name(f".{path.name}.tmp")
    hidden.write_text(text)
    os.replace(hidden, path)


def draw(search: Search, path: Path) -> None:
    """Metric against objective: every trial with its interval, the front as a line, the budget."""
    from matplotlib.figure import Figure

    objective = search.goal.objective
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for trial in (search.original, *search.trials):
        if trial.drop is None or trial.metric is None:
            continue
        spread = [[trial.drop.high - trial.drop.mean], [trial.drop.mean - trial.drop.low]]
        chosen = trial is search.chosen
        axes.errorbar(
            trial.value(objective),
            trial.metric,
            yerr=spread,
            fmt="*" if chosen else "o",
            markersize=13 if chosen else 5,
            color="tab:green" if chosen else "tab:blue" if trial.within else "tab:gray",
            capsize=2,
        )
        name = trial.name + (f", {len(trial.spared)} spared" if trial.spared else "")
        axes.annotate(
            name, (trial.value(objective), trial.metric), (5, 5), textcoords="offset points", fontsize=7
        )
    front = search.front()
    axes.plot([t.value(objective) for t in front], [t.metric or 0.0 for t in front], "--", lw=0.8)
    assert search.original.metric is not None
    axes.axhline(search.original.metric - search.budget, color="tab:red", lw=0.8, label="budget")
    axes.set_xlabel(_LABELS[objective])
    axes.set_ylabel("metric")
    axes.legend()
    hidden = path.with_name(f".{path.name}.tmp")
    figure.savefig(hidden, format=path.suffix[1:], metadata={"Date": None})
    os.replace(hidden, path)
