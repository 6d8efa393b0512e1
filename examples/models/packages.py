"""Finds the packages that carry pretrained weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def folder_of(package: str, install: str) -> Path:
    """Where a package lies, without importing it; ImportError with how to install it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ImportError(f"{package} is not installed: pip install {install}", name=package)
    return Path(found.origin).parent
