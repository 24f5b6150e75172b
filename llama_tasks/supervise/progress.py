"""What a person sees while training: one line with loss, learning rate, tokens/s, memory, the last score and the time left."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llama_tasks.files import readable
from llama_tasks.train import StepReport


def memory_in_use() -> int:
    """Bytes: what torch has taken of the GPU at most, else what the process holds of this machine's memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


class Meter:
    """A rich progress bar over optimizer steps; without a terminal, a plain line at every tenth of the run."""

    def __init__(self, console: Console, total: int, done: int = 0) -> None:
        self.console = console
        self.total = total
        self.rate = 0.0
        self.loss = math.nan  # until a step was taken
        self.score = ""  # of the last evaluation, as it shall stand in the line
        self.progress = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=console, transient=False, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.progress.add_task("training", total=total, completed=done, status="")

    def __enter__(self) -> Meter:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def update(self, report: StepReport) -> None:
        """Show one more step; loss and speed are smoothed over about ten steps, the loss without steps that were left out."""
        if not report.skipped:
            self.loss = report.loss if math.isnan(self.loss) else 0.9 * self.loss + 0.1 * report.loss
        self.rate = report.tokens_per_second if not self.rate else 0.9 * self.rate + 0.1 * report.tokens_per_second
        status = f"loss {self.loss:.3f}  lr {report.learning_rate:.1e}  {self.rate:,.0f} tokens/s"
        status += f"  {readable(memory_in_use())}{'  ' if self.score else ''}{self.score}"
        self.progress.update(self.task, completed=report.step, status=status)
        if not self.console.is_terminal and report.step % max(1, self.total // 10) == 0:
            self.console.print(f"step {report.step}/{self.total}  {status}", highlight=False)

    def say(self, text: str, **style: Any) -> None:
        """Print a line above the bar."""
        self.console.print(text, highlight=False, **style)
