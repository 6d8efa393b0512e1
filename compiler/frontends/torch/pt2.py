"""Reads .pt2 files, which torch.export.save writes, without running code that they might hold.

torch's own reader unpickles freely, evaluates the text of symbolic sizes and loads compiled
libraries. So the file is read once into memory and refused before torch sees it if it holds
anything but tensors, plain values and arithmetic on sizes.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.export import ExportedProgram

from hardy.compiler.errors import ModelError, UnsupportedError

# What arithmetic on sizes is written with.
_FUNCTIONS = frozenset(
    (  # noqa: SIM905
        "Abs Add CeilDiv CeilToInt CleanDiv Eq FloatPow FloatTrueDiv FloorDiv FloorToInt "
        "Float Ge Gt Integer IntTrueDiv Le Lt Max Min Mod ModularIndexing Mul Ne "
        "Piecewise Pow PowByNatural PythonMod Rational RoundDecimal RoundToInt Symbol "
        "ToFloat TruncToFloat TruncToInt Where"
    ).split()
)
_NODES = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.Call,
    ast.keyword,
    ast.Name,
    ast.Constant,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.Load,
)


def load_pt2(path: str | Path) -> ExportedProgram:
    """The exported program in a file of torch 2.8 or later.

    Raises ModelError for a file that is missing, damaged or no such archive; UnsupportedError for
    one that holds custom objects or compiled code.
    """
    where = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the file: {error.strerror}", where=where) from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check(archive, where)
    except zipfile.BadZipFile as error:
        raise ModelError(
            f"not a .pt2 file: {error}", where=where, hint="torch.export.save(torch.export.export(...), path)"
        ) from error
    return _load(data, where)


def _check(archive: zipfile.ZipFile, where: str) -> None:
    """Refuse what is not an archive of one program, or holds more than data."""
    records = {PurePosixPath(*PurePosixPath(name).parts[1:]): name for name in archive.namelist()}
    kind = records.get(PurePosixPath("archive_format"))
    if kind is None or archive.read(kind).strip() != b"pt2":
        raise ModelError(
            "not a .pt2 file of torch 2.8 or later (it has no archive_format record)",
            where=where,
            hint="write it again with torch.export.save",
        )
    models = [p for p in records if p.parts[0] == "models"]
    if [p.name for p in models] != ["model.json"]:
        names = ", ".join(p.name for p in models) or "none"
        raise ModelError(f"the file must hold one program called model, got {names}", where=where)
    for place, name in records.items():
        if "aotinductor" in place.parts:
            raise UnsupportedError("the file holds compiled code", where=where, hint="save the program alone")
        if place.suffix == ".pt":
            _check_pickle(archive.read(name), f"{where}: {place}")
        if place.name.endswith("_config.json"):
            _check_payloads(archive, place, name, where)
    for text in _expressions(_json(archive, records[models[0]], where)):
        _check_expression(text, where)


def _json(archive: zipfile.ZipFile, name: str, where: str) -> Any:
    try:
        return json.loads(archive.read(name))
    except ValueError as error:
        raise ModelError(f"record {name} is not JSON: {error}", where=where) from error


def _check_payloads(archive: zipfile.ZipFile, place: PurePosixPath, name: str, where: str) -> None:
    """Weights and constants must be plain bytes, or pickles of nothing but tensors."""
    root = PurePosixPath(name).parts[0]
    for label, payload in _json(archive, name, where).get("config", {}).items():
        file = str(payload["path_name"])
        if not re.fullmatch(r"(weight|tensor)_\d+", file):
            raise UnsupportedError(
                f"{label} is an object of its own class ({file})",
                where=where,
                hint="keep only tensors in the model",
            )
        if payload.get("use_pickle"):
            _check_pickle(archive.read(str(root / place.parent / file)), f"{where}: {label}")


def _check_pickle(data: bytes, where: str) -> None:
    """Read with torch's restricted unpickler, which calls nothing but tensor constructors."""
    if not data:
        return
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise UnsupportedError(
            "the file holds pickled objects other than tensors and plain values",
            where=where,
            hint="export with inputs that are tensors in tuples, lists and dicts",
        ) from error


def _expressions(tree: Any) -> Iterator[str]:
    """The texts of symbolic sizes in a serialized program."""
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("expr_str"), str):
                yield item["expr_str"]
            stack += item.values()
        elif isinstance(item, list):
            stack += item
    yield from tree.get("range_constraints", {})


def _check_expression(text: str, where: str) -> None:
    """ModelError unless the text is arithmetic: torch evaluates it."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        nodes = [ast.Pass()]
    for node in nodes:
        allowed = isinstance(node, _NODES)
        if isinstance(node, ast.Call):
            allowed = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        elif isinstance(node, ast.Name):
            allowed = node.id in _FUNCTIONS or bool(re.fullmatch(r"[a-z]{1,3}\d+", node.id))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            allowed = bool(re.fullmatch(r"[a-z]{1,3}\d+", node.value))
        if not allowed:
            raise ModelError(f"{text[:80]!r} is not arithmetic on sizes", where=where)


def _load(data: bytes, where: str) -> ExportedProgram:
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(data))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        raise ModelError(
            f"torch cannot read the program: {type(error).__name__}: {error}",
            where=where,
            hint="it may come from another torch release; write it again with this one",
        ) from error
    finally:
        logger.setLevel(level)
    # Text that torch would compile to check inputs; the graph's own types say as much.
    program._guards_code = []
    return program
