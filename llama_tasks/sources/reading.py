"""Shards -> rows in the task's fields, every row looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llama_tasks.errors import DataError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import shapes
from llama_tasks.sources.agreement import of_the_label_set, standing_in_context
from llama_tasks.sources.locate import Shard
from llama_tasks.sources.rows import BadRows, Checker, Row, listed


@dataclass
class Found:
    """The rows of one split as they come together, by item of the recipe, and what happened on the way."""

    items: dict[str, list[Row]] = field(default_factory=dict)
    bad: BadRows = field(default_factory=BadRows)
    read_as: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.items.values() for row in rows]


class Reader:
    """Reads the shards of one recipe into the task's fields; a field is of one kind in all of them."""

    def __init__(self, data: DataConfig, task: str, fields: Sequence[str]) -> None:
        self.data, self.task, self.fields = data, task, fields
        self._checker = Checker(fields, lambda values: shapes.hint(values, task))

    def rows(self, shard: Shard, bad: BadRows, read_as: list[str]) -> Iterator[Row]:
        """The usable rows of one shard: published shapes understood, the recipe's columns and constants in place."""
        rows: Iterable[Row] = shard.rows(bad)
        if not self.data.columns:
            rows = shapes.understood(rows, self.task, self.data.constants, bad, read_as, self.fields)
        rows = self._checker.usable(renamed(rows, self.data, bad), bad)
        if self.task == "qa" and not self.data.free_answers:
            return standing_in_context(rows, bad)
        if self.task == "classify" and self.data.labels:
            return of_the_label_set(rows, self.data.labels, bad)
        return iter(rows)

    def read(self, items: Mapping[str, Sequence[Shard]]) -> Found:
        """All rows of one split. Raises DataError for rows that cannot be used and shall not be set aside."""
        found = Found(bad=BadRows(self.data.on_bad_row == "skip"))
        for item, shards in items.items():
            found.items[item] = list(self.every({item: shards}, found))
        found.bad.settle()
        return found

    def every(self, items: Mapping[str, Sequence[Shard]], found: Found) -> Iterator[Row]:
        """The rows of all shards; what happened on the way is noted in `found`. Raises DataError as `some`."""
        return (
            row for shards in items.values() for shard in shards for row in self.some(shard, found.bad, found.read_as)
        )

    def some(self, shard: Shard, bad: BadRows, read_as: list[str]) -> Iterator[Row]:
        """As `rows`. Raises DataError for a shard without a usable row."""
        before, empty = bad.count, True
        for row in self.rows(shard, bad, read_as):
            empty = False
            yield row
        if empty:
            bad.settle()
            aside = bad.count - before
            first = "".join(f", {row.where}: {row.why}" for row in bad.first[before : before + 1])
            told = f"no usable rows: all {aside} were set aside{first}" if aside else "no rows"
            raise DataError(f"{shard.name} has {told}.")


def renamed(rows: Iterable[Row], data: DataConfig, bad: BadRows | None = None) -> Iterator[Row]:
    """The rows of one file with the recipe's constants, and columns under the task's field names.

    A row without a mapped column goes to `bad`; without `bad` it lacks the field too. One with another value than the constant
    of that name goes to `bad`.

    Raises:
        DataError: no row has the mapped column; without `bad`, a value that is not the constant's.
    """
    nowhere = dict(data.columns) if bad else {}
    first: Row | None = None
    for row in rows:
        first = first or row
        nowhere = {name: column for name, column in nowhere.items() if column not in row.values} if nowhere else nowhere
        lacking = next((name for name, column in data.columns.items() if column not in row.values), None)
        if lacking and bad:
            bad.add(row.where, _no_mapped(lacking, data.columns[lacking], row))
            continue
        unlike = next((name for name, value in data.constants.items() if row.values.get(name, value) != value), None)
        if unlike:
            why = _unlike(unlike, data.constants[unlike], row)
            if not bad:
                raise DataError(f"{row.where}: {why}.")
            bad.add(row.where, why)
            continue
        mapped = {name: row.values[column] for name, column in data.columns.items() if column in row.values}
        yield Row(row.id, {**data.constants, **row.values, **mapped}, row.where)
    if first and nowhere:
        raise DataError(f"{first.where}: {_no_mapped(*next(iter(nowhere.items())), first)}.")


def _unlike(name: str, constant: str, row: Row) -> str:
    return (
        f"the field {name!r} holds {str(row.values[name])[:60]!r}, but data.constants says {constant!r} for every row; leave one "
        "of them out"
    )


def _no_mapped(name: str, column: str, row: Row) -> str:
    return f"data.columns maps {name!r} to the column {column!r}, which is not there; found: {listed(row.values)}"


def identified(rows: Iterable[Row], split: str) -> Iterator[Row]:
    """Rows with their ids (`test:17`)."""
    return (Row(f"{split}:{i}", row.values, row.where) for i, row in enumerate(rows))
