"""The k-th operation of all saves goes wrong: the process ends there, or the operating system refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from llama_tasks import files

NAMES = ("write", "flush", "rename")


class Operations:
    """Counts the operations of `llama_tasks.files`; operation `fatal` fails, a write half done.

    `kill` ends the process as `kill -9` does, `full` raises what a full disk does; `fatal` None counts alone.
    """

    def __init__(self, fatal: int | None, how: Literal["kill", "full"] = "kill") -> None:
        self.fatal = fatal
        self.how = how
        self.done: list[str] = []

    def install(self) -> None:
        """Put the wrapped operations in the place of the real ones."""
        for name in NAMES:
            setattr(files, name, self._wrapped(name, getattr(files, name)))

    @contextlib.contextmanager
    def active(self) -> Iterator[Operations]:
        """As `install`, for the time of a block."""
        real = {name: getattr(files, name) for name in NAMES}
        self.install()
        try:
            yield self
        finally:
            for name, function in real.items():
                setattr(files, name, function)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(path: Path, *rest: Any) -> Any:
            number = len(self.done)
            self.done.append(f"{name} {path.name}")
            if number != self.fatal:
                return real(path, *rest)
            if name == "write":
                real(path, *rest)
                os.truncate(path, path.stat().st_size // 2)
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        return operation
