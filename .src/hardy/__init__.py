"""hardy fits a neural network to the hardware that runs it.

graph = hardy.trace(module, (example,))
artifact = hardy.compile(module, (example,), target="cpu", out="model.hardy")
outputs = hardy.load("model.hardy").run(x=array)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardy.compiler.artifact import Artifact as Artifact
    from hardy.compiler.artifact import load as load
    from hardy.compiler.driver import compile as compile
    from hardy.compiler.errors import ArtifactError as ArtifactError
    from hardy.compiler.errors import GraphError as GraphError
    from hardy.compiler.errors import HardyError as HardyError
    from hardy.compiler.errors import InputError as InputError
    from hardy.compiler.errors import MismatchError as MismatchError
    from hardy.compiler.errors import ModelError as ModelError
    from hardy.compiler.errors import TargetError as TargetError
    from hardy.compiler.errors import UnsupportedError as UnsupportedError
    from hardy.compiler.errors import UsageError as UsageError
    from hardy.compiler.ir import Graph as Graph
    from hardy.compiler.models import trace as trace
    from hardy.targets.target import Target as Target

__version__ = "0.1.0"

# Imported on first use: torch alone takes seconds, which `hardy --help` need not wait for.
_HOMES = {
    "trace": "hardy.compiler.models",
    "compile": "hardy.compiler.driver",
    "load": "hardy.compiler.artifact",
    "Artifact": "hardy.compiler.artifact",
    "Graph": "hardy.compiler.ir",
    "Target": "hardy.targets.target",
    **dict.fromkeys(
        (
            "HardyError",
            "ArtifactError",
            "GraphError",
            "InputError",
            "MismatchError",
            "ModelError",
            "TargetError",
            "UnsupportedError",
            "UsageError",
        ),
        "hardy.compiler.errors",
    ),
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hardy' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
