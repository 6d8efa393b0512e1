"""What commands print: text and tables for people, or one JSON object."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hardy.compiler.progress import Progress

# Tables in files and pipes are not folded.
_PIPE_WIDTH = 1000


def console() -> Console:
    """Standard output."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(
        highlight=False, markup=False, soft_wrap=not terminal, width=None if terminal else _PIPE_WIDTH
    )


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output; infinities and NaN as text, which JSON lacks."""
    print(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def table(*columns: str, right: Sequence[str] = (), title: str | None = None) -> Table:
    """An empty table; columns named in `right` are aligned there."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for name in columns:
        result.add_column(name, justify="right" if name in right else "left")
    return result


@contextmanager
def progress_bar(quiet: bool, left: bool = False) -> Iterator[Progress | None]:
    """A bar on standard error while it is a terminal and output is for people; with the time left, where
    steps are alike."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TimeElapsedColumn(), *([TextColumn("left"), TimeRemainingColumn()] if left else [])]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("load the libraries", total=None)

        def report(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total)

        yield report


def count(n: float) -> str:
    """A number as people read it: 23.5 M."""
    for limit, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(n) >= limit:
            scaled = n / (1e3 if suffix == " k" else limit)
            return f"{scaled:.1f}{suffix}"
    return f"{n:g}"


def size(n: float) -> str:
    """Bytes as people read them."""
    for limit, suffix in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if n >= limit:
            return f"{n / limit:.1f} {suffix}"
    return f"{n:g} B"


def duration(seconds: float) -> str:
    """A time as people read it."""
    for limit, scale, suffix in ((60, 1 / 60, "min"), (1, 1, "s"), (1e-3, 1e3, "ms"), (0, 1e6, "us")):
        if seconds >= limit:
            return f"{seconds * scale:.3g} {suffix}"
    return f"{seconds} s"


def change(before: int, after: int, show: Any = count) -> str:
    """A figure, with what it was where it changed."""
    return show(after) if before == after else f"{show(before)} -> {show(after)}"
