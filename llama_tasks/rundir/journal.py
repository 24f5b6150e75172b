"""Rows of a file in the making: written as they end, in any order and by several processes; whole and in order at the end.

    .predictions.jsonl.part-0       {"fingerprint": ..., "rows": 6}      the first process's rows, as they ended
                                    4 <tab> {"id": ...}
                                    0 <tab> {"id": ...}
                                    2 <tab> {"id"                         torn by a kill: dropped, computed again

A killed job goes on with what stands in the parts, whoever wrote them. Parts with another fingerprint are of another job
(another model, other data, another suite) and are thrown away. Memory holds where a row stands, not the rows.
"""

from __future__ import annotations

import fcntl
import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from llama_tasks import files
from llama_tasks.errors import RunError
from llama_tasks.files import json_line


def nothing() -> None:
    """Where one process works alone there is nobody to wait for."""


@dataclass(frozen=True)
class Ranks:
    """The processes that write one file: which one this is, of how many, and how it waits for the others."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = nothing


ALONE = Ranks()


@dataclass
class Journal:
    """A file's rows on their way: `missing` are this process's still to make, `append` keeps one."""

    target: Path
    total: int
    missing: list[int]
    _file: BinaryIO = field(repr=False)

    def append(self, index: int, row: Mapping[str, Any]) -> None:
        """Keep a row; a kill afterwards does not lose it. Raises RunError as `json_line`."""
        self._file.write(f"{index}\t{json_line(row)}".encode())
        self._file.flush()


@contextmanager
def journal(
    target: Path, fingerprint: str, total: int, ranks: Ranks = ALONE, voucher: Path | None = None
) -> Iterator[Journal]:
    """The rows of `target` (one JSON object a line, `total` of them), which appears when the block ends well. The parts stay
    until `forget`, so that a job which is killed in between makes no row again. `voucher` is a file that says whose rows an older
    `target` holds: it goes just before they do, and the caller writes it anew.

    Raises:
        RunError: another process is writing it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"fingerprint": fingerprint, "rows": total}).encode() + b"\n"
    part = _part(target, ranks.index)
    with _held(part) as file:
        _mend(file, header)
        if ranks.index == 0:
            _mend_spare(target, header, ranks.count)
        ranks.wait()  # every part is whole before anyone counts what is done
        there = {index for found in _parts(target) for index, _, _ in _lines(found)}
        ranks.wait()
        left = [index for index in range(total) if index not in there]
        yield Journal(target, total, left[ranks.index :: ranks.count], file)
        os.fsync(file.fileno())
        ranks.wait()
        if ranks.index == 0:
            _join(target, total, voucher)
        ranks.wait()


def _part(target: Path, rank: int) -> Path:
    return target.with_name(f".{target.name}.part-{rank}")


def _parts(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f".{target.name}.part-*"))


@contextmanager
def _held(part: Path) -> Iterator[BinaryIO]:
    """The open part, which no other process may hold."""
    with part.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{part} is being written by another process; wait until it ends, or stop it.") from None
        yield file


def _mend_spare(target: Path, header: bytes, count: int) -> None:
    """See to the parts of processes that there were once and are no more: another job's go, torn lines go."""
    for part in _parts(target):
        if int(part.name.rpartition("-")[2]) >= count:
            with _held(part) as file:
                _mend(file, header)


def _mend(file: BinaryIO, header: bytes) -> None:
    """Make a part one of this job: another's rows go, and so does everything from a torn line on."""
    file.seek(0)
    if file.readline() != header:
        file.truncate(0)
        file.write(header)
    else:
        end = len(header)
        for line in file:
            if not _is_whole(line):
                break
            end += len(line)
        file.truncate(end)
    file.flush()
    file.seek(0, os.SEEK_END)


def _is_whole(line: bytes) -> bool:
    index, tab, text = line.partition(b"\t")
    if not (line.endswith(b"}\n") and tab and index.isdigit()):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _lines(part: Path) -> Iterator[tuple[int, int, int]]:
    """(index, start, length) of every row of a part, in bytes."""
    with part.open("rb") as file:
        at = len(file.readline())
        for line in file:
            prefix = line.index(b"\t") + 1
            yield int(line[: prefix - 1]), at + prefix, len(line) - prefix
            at += len(line)


def _join(target: Path, total: int, voucher: Path | None) -> None:
    """All rows in their order under the final name, whole or not at all; the parts go."""
    parts = _parts(target)
    owners, starts, lengths = (array("q", [-1]) * total for _ in range(3))
    for number, part in enumerate(parts):
        for index, start, length in _lines(part):
            owners[index], starts[index], lengths[index] = number, start, length
    if -1 in owners:
        raise RunError(f"{target}: the row {owners.index(-1)} of {total} was not made; run the same command again.")
    if voucher is not None:
        files.unlink(voucher)
    handles = [part.open("rb") for part in parts]
    try:
        files.write_bytes(target, (_read(handles[owners[i]], starts[i], lengths[i]) for i in range(total)))
    finally:
        for handle in handles:
            handle.close()


def forget(target: Path) -> None:
    """Remove the parts of a file that is whole, once nobody needs to be told that its rows were all made."""
    for part in _parts(target):
        part.unlink(missing_ok=True)


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)
