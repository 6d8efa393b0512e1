"""The tables that `compile` and `inspect` share."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hardy.compiler.cli.output import change, count, duration, size, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hardy.compiler.ir import Graph
    from hardy.compiler.types import TensorType


def pass_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What each pass did, from records of a run or of an artifact's report (which have no times).

    Neighbours that changed nothing share a row.
    """
    timed = any("seconds" in row for row in rows)
    right = ("nodes", "parameters", "weights", "MACs", "time")
    columns = ["pass", "nodes", "parameters", "weights", "MACs", "rewrites"] + ["time"] * timed
    result = table(*columns, right=right)
    result.columns[0].min_width = max((len(row["name"]) for row in rows), default=0)
    result.columns[-1].no_wrap = timed
    for changed, group in itertools.groupby(rows, lambda row: bool(row["changed"] or row["notes"])):
        members = list(group)
        for some in [[row] for row in members] if changed else [members]:
            seconds = sum(row.get("seconds", 0.0) for row in some)
            result.add_row(*_cells(some), *([duration(seconds)] if timed else []))
    return result


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row of the table for one pass, or for several that changed nothing."""
    row = rows[-1]
    before, after = row["before"], row["after"]
    rewrites = ", ".join(f"{name} {n}" for name, n in row["rewrites"].items())
    return [
        row["name"] if len(rows) == 1 else f"({len(rows)} passes)",
        change(before["nodes"], after["nodes"], lambda n: f"{n:,}"),
        change(before["parameters"], after["parameters"]),
        change(before["bytes"], after["bytes"], size),
        change(before["macs"], after["macs"]),
        rewrites or ("" if row["changed"] else "nothing to do"),
    ]


def print_passes(screen: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table of passes, then what each noted: a line for a figure, a table for a list of rows."""
    screen.print(pass_table(rows))
    for row in rows:
        for key, value in row["notes"].items():
            title = f"{row['name']}: {key.replace('_', ' ')}"
            if _is_rows(value):
                screen.print(_rows_table(title, value))
            else:
                screen.print(f"{title}: {_figures(value)}")


def _is_rows(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _rows_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    right = [c for c in columns if all(not isinstance(row.get(c), str) for row in rows)]
    result = table(*columns, right=right, title=title)
    for row in rows:
        result.add_row(*[_figures(row[c]) if c in row else "" for c in columns])
    return result


def _figures(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_figures(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_figures, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


# Rows of the largest weights that people see.
_LARGEST = 12


def weight_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """How the tensors of an artifact are stored: the largest, and all together."""
    result = table(
        "weight", "type", "stored as", "in memory", "on disk", "bits an element",
        right=("in memory", "on disk", "bits an element"),
    )  # fmt: skip
    for row in rows[:_LARGEST]:
        cells = [size(row["raw_bytes"]), size(row["bytes"]), f"{row['bits']:.2f}"]
        result.add_row(row["weight"], row["type"], row["form"], *cells)
    total = [size(sum(row[key] for row in rows)) for key in ("raw_bytes", "bytes")]
    result.add_row(f"all {len(rows)}", "", "", *total, "")
    return result


def interface_table(inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType]) -> Table:
    result = table("", "name", "type")
    for side, types in (("input", inputs), ("output", outputs)):
        for name, t in types.items():
            result.add_row(side, name, str(t))
    return result


def op_counts(graph: Graph) -> Counter[str]:
    """How often each op occurs, inside groups too; inputs and constants left out."""
    from hardy.compiler.ir import Constant, Graph, Input

    counts: Counter[str] = Counter()
    pending: list[Graph] = [graph]
    while pending:
        for node in pending.pop().nodes:
            if isinstance(node.op, Input | Constant):
                continue
            bodies = [a for a in vars(node.op).values() if isinstance(a, Graph)]
            pending += bodies
            kind = getattr(node.op, "kind", "")
            counts[f"{node.op.name} ({kind})" if bodies and kind else node.op.name] += 1
    return counts


def op_table(counts: Mapping[str, int]) -> Table:
    result = table("op", "nodes", right=("nodes",))
    for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        result.add_row(name, f"{n:,}")
    return result


def statistics_line(figures: Mapping[str, int]) -> str:
    """Sizes of a graph in one line."""
    return (
        f"{figures['nodes']:,} nodes, {count(figures['parameters'])} parameters "
        f"({size(figures['bytes'])}), {count(figures['macs'])} MACs"
    )


def types_json(types: Mapping[str, TensorType]) -> dict[str, str]:
    return {name: str(t) for name, t in types.items()}


def records_json(records: Iterable[Any]) -> list[dict[str, Any]]:
    return [r.to_json() for r in records]
