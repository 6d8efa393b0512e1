"""`hardy check-target`: the conformance kit on one target."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardy.compiler.cli.options import Debug, Json, allow_local_modules
from hardy.compiler.errors import TargetError, UsageError

if TYPE_CHECKING:
    from hardy.compiler.conformance import Case, Outcome

_ORDER = (
    "f64",
    "f32",
    "f16",
    "bf16",
    "f8e4m3",
    "f8e5m2",
    "i64",
    "i32",
    "i16",
    "i8",
    "i4",
    "u8",
    "u4",
    "bool",
)
# Cases that stand for all that were refused for one reason.
_EXAMPLES = 3


def check_target(
    name: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="The target, such as cpu or cpu:avx2; or its class, where no package declares it: "
            "path/to/file.py:ClassName or package.module:ClassName.",
        ),
    ],
    op: Annotated[list[str] | None, typer.Option(help="Only the cases of this op.")] = None,
    case: Annotated[str | None, typer.Option(help="Only the cases whose name contains this.")] = None,
    list_refused: Annotated[
        bool, typer.Option("--list-refused", help="Name every refused case, not just a few for each reason.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile and run one small program for each op and type: right, refused with a reason, or wrong."""
    from hardy.compiler.cli.output import print_json, progress_bar
    from hardy.compiler.conformance import Verdict, check_case
    from hardy.targets.locate import locate_target

    allow_local_modules()
    target = locate_target(name)
    missing = target.check()
    if missing:
        raise TargetError(f"{name} cannot run here: {'; '.join(missing)}")
    cases = _select(op, case)
    outcomes: list[Outcome] = []
    with progress_bar(json) as progress:
        for i, each in enumerate(cases):
            if progress:
                progress(each.name, i, len(cases))
            outcomes.append(check_case(target, each))
    counts = Counter(o.verdict.value for o in outcomes)
    if json:
        print_json(
            {
                "target": name,
                "counts": {v.value: counts[v.value] for v in Verdict},
                "refusals": [
                    {"reason": reason, "cases": [o.case.name for o in some]}
                    for reason, some in _by_reason(outcomes)
                ],
                "cases": [_row(o) for o in outcomes],
            }
        )
    else:
        _print(name, outcomes, counts, list_refused)
    if counts["wrong"]:
        raise typer.Exit(1)


def _select(ops: Sequence[str] | None, part: str | None) -> list[Case]:
    from hardy.compiler.conformance import all_cases

    cases = all_cases()
    known = sorted({c.op.name for c in cases})
    for name in ops or ():
        if name not in known:
            raise UsageError(
                f"no case is about an op {name!r}", hint=f"there are cases for {', '.join(known)}"
            )
    chosen = [c for c in cases if (not ops or c.op.name in ops) and (part is None or part in c.name)]
    if not chosen:
        raise UsageError(f"no case has {part!r} in its name")
    return chosen


def _row(outcome: Outcome) -> dict[str, Any]:
    case = outcome.case
    row = {"name": case.name, "op": case.op.name, "dtype": case.dtype.value, "verdict": outcome.verdict.value}
    return row | ({"reason": outcome.reason} if outcome.reason else {})


def _by_reason(outcomes: Sequence[Outcome]) -> list[tuple[str, list[Outcome]]]:
    """The refused cases of each reason, the reason with the most of them first.

    A case that has several reasons is in the group of each.
    """
    from hardy.compiler.conformance import Verdict

    groups: dict[str, list[Outcome]] = defaultdict(list)
    for o in outcomes:
        if o.verdict is Verdict.refused:
            for reason in o.reasons:
                groups[reason].append(o)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _print(name: str, outcomes: Sequence[Outcome], counts: Counter[str], list_refused: bool) -> None:
    from hardy.compiler.cli.output import console, table
    from hardy.compiler.conformance import Verdict

    grid: dict[str, dict[str, Counter[Verdict]]] = defaultdict(lambda: defaultdict(Counter))
    for o in outcomes:
        grid[o.case.op.name][o.case.dtype.value][o.verdict] += 1
    dtypes = [d for d in _ORDER if any(d in row for row in grid.values())]
    screen = console()
    shown = table("op", *dtypes)
    for op, row in grid.items():
        shown.add_row(op, *(_cell(row[d]) if d in row else "" for d in dtypes))
    screen.print(shown)
    refusals = _by_reason(outcomes)
    if refusals and not list_refused:
        summary = table("refused because", "cases", "such as", right=("cases",))
        for reason, some in refusals:
            summary.add_row(reason, str(len(some)), _examples(some))
        screen.print(summary)
    elif refusals:
        for reason, some in refusals:
            screen.print(f"refused ({len(some)}): {reason}")
            screen.print("".join(f"    {o.case.name}\n" for o in some))
    for o in outcomes:
        if o.verdict is Verdict.wrong:
            screen.print(f"wrong: {o.case.name}\n    " + o.reason.replace("\n", "\n    "))
    screen.print(f"{name}: {', '.join(f'{counts[v.value]} {v.value}' for v in Verdict)}")


def _cell(counts: Counter[Any]) -> str:
    """`ok`, `refused` or `wrong` where all agree, else how many of each."""
    if len(counts) == 1:
        return str(next(iter(counts)).value)
    return ", ".join(f"{n} {v.value}" for v, n in sorted(counts.items(), key=lambda item: item[0].value))


def _examples(outcomes: Sequence[Outcome]) -> str:
    """A few cases, of different ops where there are some."""
    first: dict[str, str] = {}
    for o in outcomes:
        first.setdefault(o.case.op.name, o.case.name)
    chosen = list(first.values())[:_EXAMPLES]
    chosen += [o.case.name for o in outcomes if o.case.name not in chosen][: _EXAMPLES - len(chosen)]
    return ", ".join(chosen) + (", ..." if len(outcomes) > len(chosen) else "")
