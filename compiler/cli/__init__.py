"""The `hardy` command: one file a subcommand. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

from hardy.compiler.errors import HardyError

INTERRUPTED = 130
TERMINATED = 143
INTERNAL = 70


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Exit codes: 0, that of the HardyError, 2 for usage, 130 after Ctrl-C. Errors are one message on
    stderr (one JSON object with --json); a traceback only with --debug.
    """
    given = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run(given))


def _terminate(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that half-written files are removed."""
    raise SystemExit(TERMINATED)


def _run(given: list[str]) -> int:
    import typer

    from hardy.compiler.cli.app import app

    # The base of usage errors, which typer does not export under a name of its own.
    usage_error: type[Any] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    try:
        code = app(given, standalone_mode=False)
    except HardyError as error:
        if "--debug" in given:
            raise
        return _report(given, error.exit_code, error.message, error.where, error.hint)
    except usage_error as error:
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path} --help" if context else ""
        message = error.format_message()
        # `hardy` alone shows the help, which leaves nothing to say.
        return _report(given, 2, message, "", hint) if message else 2
    except (KeyboardInterrupt, typer.Abort):
        return _report(given, INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if "--debug" in given:
            raise
        return _report(given, 1, error.strerror or str(error), str(error.filename or ""))
    except Exception as error:
        if "--debug" in given:
            raise
        message = f"internal error: {type(error).__name__}: {error}"
        return _report(
            given, INTERNAL, message, hint="--debug shows where; it is a fault of hardy or a plug-in"
        )
    if code == INTERRUPTED:
        return _report(given, INTERRUPTED, "interrupted")
    return code if isinstance(code, int) else 0


def _report(given: list[str], code: int, message: str, where: str = "", hint: str = "") -> int:
    if "--json" in given:
        import json

        error = {"error": message, "where": where, "hint": hint, "exit_code": code}
        print(json.dumps({k: v for k, v in error.items() if v != ""}), file=sys.stderr)
    else:
        print(f"error: {HardyError(message, where=where, hint=hint)}", file=sys.stderr)
    return code
