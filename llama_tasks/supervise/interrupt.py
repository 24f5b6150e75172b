"""Ctrl-C and SIGTERM: the first asks a run to stop at the next safe place, a second one stops it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from llama_tasks.errors import LlamaTasksError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(LlamaTasksError):
    """A run was stopped; exit code 130 (SIGINT) or 143 (SIGTERM)."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


@contextlib.contextmanager
def terminable(message: str) -> Iterator[None]:
    """Within the block SIGTERM raises Interrupted with the message, as SIGINT raises KeyboardInterrupt, so that files are cleaned
    up."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    old = signal.signal(signal.SIGTERM, lambda signum, _: _raise(signum, message))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


class Interrupts:
    """While active, `signum` turns from None to the number of the first signal received.

    Within `at_once`, for work that is simply done again later, that signal also raises Interrupted.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._raising = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in SIGNALS:
            self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Do not wait for the end of the block when a signal comes; it must leave nothing half done."""
        self._raising = True
        try:
            if self.signum is not None:
                _raise(self.signum)
            yield
        finally:
            self._raising = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            # Not the signal's default action: the first process of a container does not have one.
            if os.isatty(2):
                os.write(2, b"\x1b[?25h")  # the progress bar hides the cursor
            os.write(2, b"llama-tasks: Stopped at once. The last checkpoint stands; go on with --resume.\n")
            os._exit(128 + signum)
        self.signum = signum
        if self._raising:
            _raise(signum)


def _raise(signum: int, message: str = "Stopped.") -> None:
    raise Interrupted(message, signum)
