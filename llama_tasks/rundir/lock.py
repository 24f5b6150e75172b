"""One run in a run directory at a time: `run.lock` names the process, its machine and its last sign of life.

On one machine the kernel's own lock decides, and it goes with the process however that ends. Where machines share the
directory but not their locks, a lock file whose owner has been silent for `SILENT` seconds is taken for stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from llama_tasks.errors import RunError

LOCK_FILE = "run.lock"
BEAT = 20.0  # seconds between two signs of life
SILENT = 120.0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made if need be, for the time of the block.

    Raises:
        RunError: another run holds it, or it cannot be written.
    """
    path = folder / LOCK_FILE
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _acquire(path)
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}); name another place with output=DIR.") from None
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(handle, ended), daemon=True)
    try:
        heart.start()
        yield
    finally:
        ended.set()
        heart.join()
        with contextlib.suppress(OSError):  # a disk that went read-only keeps it; the kernel's lock ends all the same
            path.unlink(missing_ok=True)
        os.close(handle)
        with contextlib.suppress(OSError):  # where nothing was written, nothing stays
            for place in made:
                place.rmdir()


def refuse_if_held(folder: Path) -> None:
    """Raise RunError where another run holds the folder; nothing is changed."""
    path = folder / LOCK_FILE
    if path.exists() and os.access(path, os.W_OK):
        os.close(_acquire(path, take=False))


def _acquire(path: Path, take: bool = True) -> int:
    """An open, locked handle of the lock file."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink == 0:  # its owner removed it between our two calls
                os.close(handle)
                continue
            _refuse_other_machine(path, handle)
        except BlockingIOError:
            owner = _owner(handle)
            os.close(handle)
            raise _in_use(path, owner, "wait until it ends or stop it") from None
        except BaseException:
            os.close(handle)
            raise
        if take:
            _sign(handle)
        return handle


def _sign(handle: int) -> None:
    """Write who holds the lock."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(owner).encode(), 0)


def _refuse_other_machine(path: Path, handle: int) -> None:
    """Refuse where another machine's process gave a sign of life lately, by the clock of the disk they share."""
    owner = _owner(handle)
    if owner.get("host") in (None, socket.gethostname()):
        return
    last = os.fstat(handle).st_mtime
    probe = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    probe.touch()
    silent = probe.stat().st_mtime - last
    probe.unlink()
    if silent < SILENT:
        raise _in_use(path, owner, f"wait {SILENT:.0f} seconds if that machine is gone")


def _owner(handle: int) -> dict[str, object]:
    with contextlib.suppress(ValueError):
        found = json.loads(os.pread(handle, 4096, 0))
        return found if isinstance(found, dict) else {}
    return {}


def _in_use(path: Path, owner: dict[str, object], what_to_do: str) -> RunError:
    return RunError(
        f"{path.parent} is in use: process {owner.get('pid', '?')} on {owner.get('host', '?')} has been working in it since "
        f"{owner.get('since', '?')}. Two runs would mix their files; {what_to_do}, or name another place with output=DIR."
    )


def _beat(handle: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(handle)
