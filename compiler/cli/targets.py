"""`hardy targets`: what is installed."""

from __future__ import annotations

from typing import Any

from hardy.compiler.cli.options import Debug, Json


def targets(json: Json = False, debug: Debug = False) -> None:
    """List the installed targets, their device, and what each lacks on this machine."""
    from hardy.compiler.cli.output import console, print_json, table
    from hardy.targets.target import installed_targets

    rows = [_describe(entry) for entry in installed_targets().values()]
    if json:
        print_json({"targets": rows})
        return
    shown = table("target", "device", "what it is")
    shown.columns[0].no_wrap = True
    for row in rows:
        shown.add_row(row["name"], row["device"], row["summary"])
    screen = console()
    screen.print(shown)
    for row in rows:
        missing = row.get("error") or "; ".join(row["missing"])
        screen.print(f"{row['name']}: {'missing here: ' + missing if missing else 'runs here'}")


def _describe(entry: Any) -> dict[str, Any]:
    from hardy.compiler.errors import TargetError
    from hardy.targets.target import load_target

    row: dict[str, Any] = {"name": entry.name, "device": "", "features": [], "summary": "", "missing": []}
    try:
        kind = load_target(entry)
        row["summary"] = kind.summary
        target = kind.create("")
    except TargetError as error:
        return row | {"error": error.message}
    device = target.describe()
    return row | {
        "device": device.name,
        "features": list(device.features),
        "missing": target.check(),
    }
