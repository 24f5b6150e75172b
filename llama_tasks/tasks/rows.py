"""Rows that a task can use. What it reads beside its columns shows only when it makes Examples of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from llama_tasks.errors import DataError
from llama_tasks.sources import BadRows, Row, Split
from llama_tasks.sources.rows import sha256_of
from llama_tasks.tasks.base import Example, Task


def examples_of(
    make: Callable[[Row], list[Example]], rows: Iterable[Row], bad: BadRows, *, may_be_empty: bool = True
) -> Iterator[tuple[Row, list[Example]]]:
    """The rows of which `make`, a function of the task, makes Examples, with those; the others go to `bad`.

    may_be_empty: whether a field of the prompt may be blank; otherwise such a row goes to `bad` too.
    """
    for row in rows:
        try:
            examples = make(row)
        except DataError as error:
            bad.add(row.where, _why(error, row))
            continue
        blank = None if may_be_empty else _blank(examples)
        if blank is None:
            yield row, examples
        else:
            bad.add(row.where, f"the field {blank!r} of its prompt is empty (prompt.allow=[empty_field] lets it stand)")


def usable(task: Task, splits: Mapping[str, Split], allow: Sequence[str], *, skip: bool) -> dict[str, Split]:
    """The splits without the rows that the task cannot use, which their `set_aside` counts.

    allow: `prompt.allow`. A blank field is left to the audit unless bad rows are set aside (`skip`).

    Raises:
        DataError: without `skip`, all such rows of all splits; with it, a split that has no other rows.
    """
    told = BadRows()
    may_be_empty = not skip or "empty_field" in allow
    found = {}
    for name, split in splits.items():
        bad = split.set_aside if skip else told
        make = partial(task.examples, training=name == "train")
        rows = [row for row, _ in examples_of(make, split.rows, bad, may_be_empty=may_be_empty)]
        found[name] = split if len(rows) == len(split.rows) else _only(rows, name, split)
    told.settle()
    return found


def _only(rows: Sequence[Row], name: str, split: Split) -> Split:
    if not rows and split.set_aside.count:
        last = split.set_aside.first[-1]
        raise DataError(
            f"No row of the {name} split can be used: all {len(split.rows)} were set aside, such as {last.where}: {last.why}."
        )
    rows = [replace(row, id=f"{name}:{i}") for i, row in enumerate(rows)]
    return replace(split, rows=rows, sha256=sha256_of(rows))


def _why(error: DataError, row: Row) -> str:
    """The sentence without the place, which stands before it in a list of bad rows."""
    return str(error).removeprefix(f"{row.where}: ").replace(f" on {row.where}:", ":").rstrip(".")


def _blank(examples: Sequence[Example]) -> str | None:
    """The first field without text."""
    return next((key for example in examples for key, text in example.fields.items() if not text.strip()), None)
