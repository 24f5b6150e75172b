"""What can go wrong, as one tree. The command line prints each as one paragraph and leaves with its exit code.

LlamaTasksError
├── RecipeError      a recipe, a suite or a command-line override is wrong
├── DataError        rows: unreadable file, missing column, label outside the set, example too long
├── ModelError       base model or adapter: not found, wrong kind, contract broken
├── RunError         a run directory: exists, locked, incomplete
├── MetricError      a metric that does not fit its input
└── HubError         publishing: gate refused, server said no
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class LlamaTasksError(Exception):
    """A mistake that the user can mend; `str(error)` is the whole message."""

    exit_code = 2


class RecipeError(LlamaTasksError):
    """A recipe, a suite or an override is wrong."""


class DataError(LlamaTasksError):
    """Rows cannot be read or do not fit the task."""


class ModelError(LlamaTasksError):
    """A base model or an adapter cannot be used as asked."""


class RunError(LlamaTasksError):
    """A run directory cannot be used as asked."""


class MetricError(LlamaTasksError):
    """A metric does not fit its input."""


class HubError(LlamaTasksError):
    """Publishing was refused or failed."""


@contextmanager
def within(part: str) -> Iterator[None]:
    """Errors of the block say of which part they speak: `sets.qa: eval.metrics is empty ...`."""
    try:
        yield
    except (RecipeError, DataError, ModelError, MetricError) as error:
        error.args = (f"{part}: {error}",)
        raise


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """` Did you mean X?` or the list of what is known."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."
