"""Every file operation of a save, in one place: written in a staging folder, flushed to the disk, renamed, verified.

A folder that `staged` made is whole or absent, whenever the process is killed. What a killed save leaves behind has a
name that is never read (`.NAME.PID.staging`, `.old`, `.gone`) and is swept by the next run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_tasks.errors import RunError

MANIFEST = "manifest.json"
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.\d+\.(?P<kind>staging|old|gone|tmp)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` only when the block ends well; an older `target` is replaced."""
    staging = _beside(target, "staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        for path in sorted(staging.rglob("*")):
            flush(path)
        flush(staging)
        if target.exists():
            old = _beside(target, "old")
            rename(target, old)
            rename(staging, target)
            shutil.rmtree(old)
        else:
            rename(staging, target)
        flush(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write(path: Path, how: Callable[[Path], object]) -> None:
    """Make one file: `how` writes it."""
    how(path)


def json_line(row: Mapping[str, Any]) -> str:
    """A row of a .jsonl file. Raises RunError for a number that JSON does not have."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        raise RunError(
            f"Row {row.get('id', '?')} holds a number that is infinite or none (NaN), which comes from a broken model and "
            "has no place in a JSON file."
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, flushed to the disk."""
    write_bytes(path, [text.encode()])


def write_bytes(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file from its pieces, whole or not at all, flushed to the disk."""

    def how(place: Path) -> None:
        with place.open("wb") as file:
            file.writelines(chunks)

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, "tmp")
    try:
        write(temporary, how)
        flush(temporary)
        rename(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        if hasattr(os, "posix_fadvise") and path.is_file():
            # Verifying afterwards then reads what the disk holds, not what memory remembers.
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def rename(old: Path, new: Path) -> None:
    """Give a file or folder its name, at once."""
    os.replace(old, new)


def remove(folder: Path) -> None:
    """Remove a folder: it is gone under its name at once, however long its files take."""
    gone = _beside(folder, "gone")
    rename(folder, gone)
    shutil.rmtree(gone)


def unlink(path: Path) -> None:
    """Remove a file, if there is one, so that what is written afterwards never stands beside it, whenever the power fails."""
    path.unlink(missing_ok=True)
    flush(path.parent)


def sweep(folder: Path) -> None:
    """Remove what killed saves left in a folder, however deep in it; a target whose replacement was cut short between two
    renames comes back."""
    for path in sorted(folder.rglob(".*")):
        found = _LEFTOVER.fullmatch(path.name)
        if found is None or not path.exists():
            continue
        if found["kind"] == "old" and not path.with_name(found["name"]).exists():
            rename(path, path.with_name(found["name"]))
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether this is the name of something that a killed save left."""
    return _LEFTOVER.fullmatch(name) is not None


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """Write the SHA-256 of every file of a folder into it."""
    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    write(folder / MANIFEST, lambda place: place.write_text(json.dumps(hashes, indent=1), encoding="utf-8"))


def verify(folder: Path, names: Iterable[str] = ()) -> None:
    """Check a folder against its manifest, which must speak of `names`.

    Raises:
        RunError: no manifest that can be read, or a file that is missing or has another hash; it is named.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        hashes = {str(name): str(digest) for name, digest in manifest.items()}
    except (OSError, ValueError, AttributeError):
        raise RunError(f"{folder} has no readable {MANIFEST}, so it cannot be trusted.") from None
    for name in sorted({*hashes, *names}):
        if name not in hashes or not (folder / name).is_file():
            raise RunError(f"{folder / name} is missing; without it nothing can be continued exactly.")
        if sha256(folder / name) != hashes[name]:
            raise RunError(f"{folder / name} is damaged (its SHA-256 is not that of the manifest).")


def free_bytes(folder: Path) -> int:
    """Free space, in bytes, where `folder` is or will be."""
    return shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free


def is_full(error: OSError) -> bool:
    """Whether an operation failed because the disk, a quota or a limit on file sizes is exhausted."""
    return error.errno in _FULL


def readable(size: float) -> str:
    """`1.5 GB`: bytes for people.

    >>> readable(1_530_000)
    '1.5 MB'
    """
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")
