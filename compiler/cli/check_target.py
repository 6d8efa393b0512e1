"""`hardy check-target`: the conformance kit on one target."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardy.compiler.cli.options import Debug, Json
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


def check_target(
    name: Annotated[str, typer.Argument(help="The target, such as cpu or cpu:avx2.")],
    op: Annotated[list[str] | None, typer.Option(help="Only the cases of this op.")] = None,
    case: Annotated[str | None, typer.Option(help="Only the cases whose name contains this.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile and run one small program for each op and type: right, refused with a reason, or wrong."""
    from hardy.compiler.cli.output import print_json, progress_bar
    from hardy.compiler.conformance import Verdict, check_case
    from hardy.targets.target import find_target

    missing = find_target(name).check()
    if missing:
        raise TargetError(f"{name} cannot run here: {'; '.join(missing)}")
    cases = _select(op, case)
    outcomes: list[Outcome] = []
    with progress_bar(json) as progress:
        for i, each in enumerate(cases):
            if progress:
                progress(each.name, i, len(cases))
            outcomes.append(check_case(name, each))
    counts = Counter(o.verdict.value for o in outcomes)
    if json:
        print_json(
            {
                "target": name,
                "counts": {v.value: counts[v.value] for v in Verdict},
                "cases": [_row(o) for o in outcomes],
            }
        )
    else:
        _print(name, outcomes, counts)
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


def _print(name: str, outcomes: Sequence[Outcome], counts: Counter[str]) -> None:
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
    reasons = Counter((o.case.op.name, _reason(o)) for o in outcomes if o.verdict is Verdict.refused)
    if reasons:
        refusals = table("refused op", "cases", "reason", right=("cases",))
        for (op, reason), n in reasons.items():
            refusals.add_row(op, str(n), reason)
        screen.print(refusals)
    for o in outcomes:
        if o.verdict is Verdict.wrong:
            screen.print(f"wrong: {o.case.name}\n    " + o.reason.replace("\n", "\n    "))
    screen.print(f"{name}: {', '.join(f'{counts[v.value]} {v.value}' for v in Verdict)}")


def _cell(counts: Counter[Any]) -> str:
    """`ok`, `refused` or `wrong` where all agree, else how many of each."""
    if len(counts) == 1:
        return str(next(iter(counts)).value)
    return ", ".join(f"{n} {v.value}" for v, n in sorted(counts.items(), key=lambda item: item[0].value))


def _reason(outcome: Outcome) -> str:
    """The distinct reasons in one line, without the name of the case, which differs from case to case."""
    lines = [line.strip() for line in outcome.reason.splitlines()]
    reasons = [line.split("): ", 1)[1] for line in lines if "): " in line]
    return "; ".join(dict.fromkeys(reasons or lines))
