"""Targets that no package declares, named by where their class is: for those who write one.

The name is `path/to/file.py:ClassName` or `package.module:ClassName`, and, for a target with
variants, `:argument` after it. The first part of a declared target's name always wins, so that
`cpu:avx2` is what it is whatever modules are around.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from hardy.compiler.errors import TargetError
from hardy.targets.target import Target, find_target, installed_targets, require_target

_CLASS = r"(?P<name>[^:]*)(?::(?P<argument>.*))?"
_FILE = re.compile(rf"(?P<place>.+?\.py)(?::{_CLASS})?", re.DOTALL)
_MODULE = re.compile(rf"(?P<place>[^\W\d]\w*(?:\.[^\W\d]\w*)*):{_CLASS}", re.DOTALL)
FORMS = "FILE.py:CLASS or package.module:CLASS, with :ARGUMENT after it where the target has variants"


def locate_target(name: str) -> Target:
    """The declared target of this name, or else that of the class that the name leads to.

    TargetError where there is no such file, module or class, where importing it fails, where it is
    not a whole subclass of Target, and where its `create` refuses the argument.
    """
    file = _FILE.fullmatch(name)
    module = None if file else _MODULE.fullmatch(name)
    found = file or module
    if found is None or (module and module["place"] in installed_targets()):
        return find_target(name)
    if not found["name"]:
        raise TargetError(f"{name} names no class", hint=f"write {FORMS}")
    loaded = _from_file(Path(found["place"])) if file else _from_module(found["place"])
    kind = _class_of(loaded, found["name"], found["place"])
    return kind.create(found["argument"] or "")


def _class_of(module: ModuleType, name: str, place: str) -> type[Target]:
    if not hasattr(module, name):
        raise TargetError(f"{place} has no class {name!r}", hint=_targets_of(module, place))
    try:
        return require_target(getattr(module, name), name, place)
    except TargetError as error:
        error.hint = error.hint or "docs/new-target.md shows a whole one"
        raise


def _targets_of(module: ModuleType, place: str) -> str:
    """The module's own targets, in words."""
    names = [
        n
        for n, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Target) and value.__module__ == module.__name__
    ]
    return f"{place} defines {', '.join(names) or 'no subclass of hardy.Target'}"


def _from_file(path: Path) -> ModuleType:
    """The module in a file. Its folder is searched, last, for modules that it imports."""
    if not path.is_file():
        raise TargetError(f"there is no file {path}", hint=f"write {FORMS}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    # A name that no import asks for: a file may be called like an installed module.
    name = f"target file {path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a name that ends in .py has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it is being executed.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file raises is what its author must see
        del sys.modules[name]
        raise _cannot_load(str(path), error) from error
    return module


def _from_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _cannot_load(name, error) from error
        installed = ", ".join(installed_targets()) or "none"
        raise TargetError(
            f"there is no target and no module {error.name!r}",
            hint=f"installed targets are {installed}; a class is named {FORMS}",
        ) from error
    except Exception as error:  # as for a file
        raise _cannot_load(name, error) from error


def _cannot_load(place: str, error: Exception) -> TargetError:
    """What was raised, at the line of the deepest frame outside of the import machinery."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_file()]
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else place
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    return TargetError(f"{place} cannot be loaded: {type(error).__name__}: {error}", where=where)
