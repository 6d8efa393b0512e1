"""Folders that appear whole or not at all, and are read without leaving them."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from hardy.compiler.errors import ArtifactError, HardyError, UsageError

Sink = Callable[[bytes | memoryview], None]

_CHUNK = 1 << 20
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_relative(path: str) -> str:
    """The path itself if it names a file below a folder; ArtifactError for any other."""
    parts = path.split("/")
    if not path or "\\" in path or "\0" in path or ":" in path or any(p in ("", ".", "..") for p in parts):
        raise ArtifactError(f"{path!r} is not the path of a file inside an artifact")
    return PurePosixPath(path).as_posix()


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> list[str]:
    """Relative paths of all files below, sorted; ArtifactError for a link or special file."""
    found: list[str] = []
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(root, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise ArtifactError(
                    f"{relative} is a link", where=str(folder), hint="an artifact holds no links"
                )
            if name in files:
                if not path.is_file():
                    raise ArtifactError(f"{relative} is not a regular file", where=str(folder))
                found.append(relative)
    return sorted(found)


class NewFolder:
    """Files being written into a folder that nobody sees yet; hashes by relative path in `hashes`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hashes: dict[str, str] = {}

    def write(self, relative: str, write: bytes | Callable[[Sink], None]) -> None:
        """Write a file of these bytes, or of what `write(sink)` sends to the sink, and flush it to disk."""
        target = self.path / check_relative(relative)
        if relative in self.hashes:
            raise ArtifactError(f"{relative} would be written twice")
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("xb") as file:

            def sink(data: bytes | memoryview) -> None:
                digest.update(data)
                file.write(data)

            if isinstance(write, bytes):
                sink(write)
            else:
                write(sink)
            file.flush()
            os.fsync(file.fileno())
        self.hashes[relative] = digest.hexdigest()

    def copy(self, relative: str, source: Path) -> None:
        """Write a file with the contents of another."""

        def stream(sink: Sink) -> None:
            with source.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    sink(chunk)

        self.write(relative, stream)


def check_destination(path: Path, replaceable: Callable[[Path], bool]) -> None:
    """Refuse a place where `new_folder` could not put its result: UsageError with the cause."""
    if not path.name:
        raise UsageError(f"{str(path)!r} is not the name of a new folder")
    if path.is_symlink():
        raise UsageError(f"{path} is a link", hint="name the folder that it leads to, or remove it")
    if not path.exists():
        return
    if not path.is_dir():
        raise UsageError(f"{path} exists and is a file", hint="choose another place for the artifact")
    if any(path.iterdir()) and not replaceable(path):
        raise UsageError(
            f"{path} exists and is not a hardy artifact, so it is not replaced",
            hint="choose another folder, or remove this one",
        )


@contextmanager
def new_folder(path: Path, replaceable: Callable[[Path], bool]) -> Iterator[NewFolder]:
    """Fill a hidden sibling, then rename it to `path` in one step.

    On any error or interrupt the sibling is removed and what stood at `path` is untouched. A folder
    at `path` is replaced only if `replaceable` says so. Running out of space is an ArtifactError.
    """
    check_destination(path, replaceable)
    made = _make_parents(path.parent)
    hidden = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    done = False
    try:
        hidden.mkdir()
        new = NewFolder(hidden)
        yield new
        for folder in {hidden, *((hidden / f).parent for f in new.hashes)}:
            _sync(folder)
        check_destination(path, replaceable)
        _put(hidden, path)
        done = True
        _sync(path.parent)
    except OSError as error:
        raise _disk_error(path, error) from error
    finally:
        # After an exchange the hidden folder is the replaced one.
        shutil.rmtree(hidden, ignore_errors=True)
        if not done:
            for parent in reversed(made):
                _remove_if_empty(parent)


def _disk_error(path: Path, error: OSError) -> HardyError:
    cause = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ArtifactError(f"cannot write {path}: {cause}", hint="free some space or choose another disk")
    return ArtifactError(f"cannot write {path}: {cause}", where=str(error.filename or ""))


def _make_parents(folder: Path) -> list[Path]:
    made: list[Path] = []
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    try:
        for each in reversed(missing):
            each.mkdir()
            made.append(each)
    except OSError as error:
        for each in reversed(made):
            _remove_if_empty(each)
        raise _disk_error(missing[0], error) from error
    return made


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _sync(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system lets folders be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(hidden: Path, path: Path) -> None:
    """Rename over `path`; a folder there ends up at `hidden`, or back in place if renaming fails."""
    if not path.exists():
        hidden.rename(path)
        return
    if _exchange(hidden, path):
        return
    old = hidden.with_suffix(".old")
    path.rename(old)
    try:
        hidden.rename(path)
    except BaseException:
        old.rename(path)
        raise
    old.rename(hidden)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step (Linux's renameat2); False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    status: int = rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    if status == 0:
        return True
    if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTSUP):
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(b))
