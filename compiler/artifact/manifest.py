"""The manifest: what an artifact is for, what goes in and out, and the hash of every file.

Format 1. Top-level keys: `format`, `version`, `digest` (SHA-256 of the rest, so of the whole
artifact), `hardy` (the version that wrote it), `target` (`name`, `device`, and `package`, which is the
target's own section), `interface` (`inputs` and `outputs`, each a list of name and type), `model`
(where the graph came from), `options`, `weights` (the target's names to content digests),
`graph_weights` (whether the data of the graph's constants is there), `files` (path to SHA-256).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from hardy.compiler.artifact.folder import check_relative
from hardy.compiler.errors import ArtifactError
from hardy.compiler.types import DType, TensorType

MANIFEST = "manifest.json"
FORMAT = "hardy artifact"
VERSION = 1

# What to do about a place that holds none, and about a damaged one.
MAKE = "hardy compile MODEL -o DIR writes one"
AGAIN = "compile the model again, or copy the artifact again from where it is whole"

_SECTIONS: dict[str, type] = {
    "hardy": str,
    "target": dict,
    "interface": dict,
    "model": dict,
    "options": dict,
    "weights": dict,
    "graph_weights": bool,
    "files": dict,
}
_TYPE = re.compile(r"([a-z0-9]+)\[((?:[0-9]+(?:,[0-9]+)*)?)\]\Z")


def plain(value: Any) -> Any:
    """A value of dataclasses, enums, mappings and sequences as JSON has them."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(k)): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def to_json(value: Any) -> bytes:
    """Bytes that depend on the value alone."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def digest_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of everything in a manifest but the digest itself."""
    rest = {k: v for k, v in manifest.items() if k != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(manifest: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The complete manifest for files with these hashes."""
    full = {**manifest, "files": dict(sorted(files.items()))}
    return {"format": FORMAT, "version": VERSION, "digest": digest_of(full | _HEAD), **full}


_HEAD = {"format": FORMAT, "version": VERSION}


def is_artifact(folder: Path) -> bool:
    """Whether the folder has a manifest of hardy's, of any version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def claims_artifact(folder: Path) -> bool:
    """Whether people mean an artifact by it: a folder with a manifest, which may be damaged."""
    return folder.is_dir() and (folder / MANIFEST).exists()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of an artifact's folder; ArtifactError with the cause."""
    path = folder / MANIFEST
    if not folder.exists():
        raise ArtifactError(f"there is no artifact at {folder}", hint=MAKE)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder, so not an artifact", hint=MAKE)
    if path.is_symlink() or not path.is_file():
        raise ArtifactError(f"{folder} is not a hardy artifact: it has no {MANIFEST}", hint=MAKE)
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the manifest is not JSON: {error}", where=str(path), hint=AGAIN) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError("the manifest is not one of a hardy artifact", where=str(path))
    version = manifest.get("version")
    if version != VERSION:
        raise ArtifactError(
            f"the artifact has format {version!r}, this hardy reads format {VERSION}",
            where=str(path),
            hint="compile the model again, or use the hardy that wrote it: "
            + str(manifest.get("hardy", "?")),
        )
    if manifest.get("digest") != digest_of(manifest):
        raise ArtifactError("the manifest was changed after it was written", where=str(path), hint=AGAIN)
    for key, kind in _SECTIONS.items():
        if not isinstance(manifest.get(key), kind):
            raise ArtifactError(f"the manifest lacks a valid {key!r}", where=str(path))
    for section, entries in (("files", manifest["files"]), ("weights", manifest["weights"])):
        for key, value in entries.items():
            if not isinstance(value, str):
                raise ArtifactError(f"the manifest's {section} entry {key!r} is not text", where=str(path))
    for relative in manifest["files"]:
        check_relative(relative)
    return manifest


def interface_of(inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType]) -> dict[str, Any]:
    def rows(types: Mapping[str, TensorType]) -> list[dict[str, str]]:
        return [{"name": name, "type": str(t)} for name, t in types.items()]

    return {"inputs": rows(inputs), "outputs": rows(outputs)}


def read_interface(manifest: Mapping[str, Any], side: str) -> dict[str, TensorType]:
    """The types of `inputs` or `outputs` by name, in order."""
    try:
        return {row["name"]: parse_type(row["type"]) for row in manifest["interface"][side]}
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"the manifest's {side} are not a list of names and types") from error


def parse_type(text: str) -> TensorType:
    """`f32[2,4]` as a type; ArtifactError for anything else."""
    match = _TYPE.match(text)
    if not match or match[1] not in {d.value for d in DType}:
        raise ArtifactError(f"{text!r} is not a tensor type")
    return TensorType(DType(match[1]), tuple(int(n) for n in match[2].split(",") if n))
