"""Where a node comes from: the user's line and the module path."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+)', re.MULTILINE)
_TORCH = str(Path(torch.__file__).parent)


def source_of(meta: Mapping[str, Any]) -> str:
    """Such as `encoder.layer.0.query (modeling_bert.py:181)`; what is not known is left out."""
    line = user_line(meta.get("stack_trace") or "")
    path = _module_path(meta.get("nn_module_stack") or {})
    if path and line:
        return f"{path} ({line})"
    return path or line


def _module_path(stack: Mapping[str, Any]) -> str:
    """The qualified name of the innermost module."""
    for entry in reversed(stack.values()):  # type: ignore[call-overload]  # a dict
        name = entry[0] if isinstance(entry, tuple) else entry
        return str(name).removeprefix("L['self'].").removeprefix("L['self']")
    return ""


@functools.lru_cache(4096)
def user_line(stack_trace: str) -> str:
    """`file.py:line` of the innermost frame outside torch."""
    for file, line in reversed(_FRAME.findall(stack_trace)):
        if not file.startswith((_TORCH, "<")):
            return f"{Path(file).name}:{line}"
    return ""
