"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hardy.compiler.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from hardy.compiler.models import Binding

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Dims = Annotated[
    list[str] | None, typer.Option("--dim", metavar="NAME=SIZE", help="Give a free dimension its size.")
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="INPUT=1x3x224x224", help="Give an ONNX input its shape."),
]
Binds = Annotated[
    list[str] | None,
    typer.Option("--bind", metavar="INPUT=FILE.npy", help="Make an ONNX input a constant of the program."),
]
PassList = Annotated[
    str | None,
    typer.Option(
        "--passes",
        metavar="LIST",
        help="The passes to run, such as 'fold_constants(growth=0),...'; `...` stands for the target's own.",
    ),
]
Preset = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="A named list of passes, such as int8.")
]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="DATA",
        help="Samples that passes learn from: an .npz file, a folder of them, or package.module:function.",
    ),
]
SampleCount = Annotated[
    int | None, typer.Option("--samples", metavar="N", min=1, help="Use the first N samples of it.")
]

T = TypeVar("T")

# NumPy's own messages advise unpickling, which hardy never does.
_HOW_TO_SAVE = "numpy.save writes one array as .npy, numpy.savez many by name as .npz"


def pairs(option: str, given: Sequence[str] | None, read: Callable[[str], T]) -> dict[str, T]:
    """`NAME=VALUE` options as a dictionary; UsageError for anything else."""
    result: dict[str, T] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {text}: expected NAME=VALUE")
        if name in result:
            raise UsageError(f"{option} names {name!r} twice")
        try:
            result[name] = read(value)
        except ValueError as error:
            raise UsageError(f"{option} {text}: {error}") from error
    return result


def read_size(text: str) -> int:
    """A whole number."""
    if not text.isdecimal():
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def read_shape(text: str) -> tuple[int, ...]:
    """`1x3x224x224`; nothing for a scalar."""
    return tuple(read_size(n) for n in text.split("x")) if text else ()


def read_binding(dims: Dims, shapes: Shapes, bind: Binds) -> Binding:
    from hardy.compiler.models import Binding

    return Binding(
        pairs("--dim", dims, read_size),
        pairs("--shape", shapes, read_shape),
        pairs("--bind", bind, lambda file: read_array(Path(file))),
    )


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """The array of an .npy file; InputError where it is none."""
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not an .npy file of numbers", hint=_HOW_TO_SAVE) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays", hint="give an .npy file")
    return array


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an .npz file by name; InputError where it is none."""
    import zipfile

    import numpy as np

    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise InputError(f"{path} holds one array without a name", hint=f"give INPUT={path}")
        with file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not an .npz file of numbers", hint=_HOW_TO_SAVE) from error


def allow_local_modules() -> None:
    """Let `package.module:function` name modules below the current folder."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
