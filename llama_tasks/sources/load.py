"""Single files, and the revision of the Hub: what is asked for beside the splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llama_tasks.errors import DataError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import hub, shapes
from llama_tasks.sources.files import File
from llama_tasks.sources.locate import is_hub_id
from llama_tasks.sources.readers import rows_of
from llama_tasks.sources.reading import identified, renamed
from llama_tasks.sources.rows import BadRows, Row


def pin(data: DataConfig) -> DataConfig:
    """The same with the commit that its Hub dataset is at now; see `hub.pin`."""
    given = [*data.train, *(data.validation or []), *(data.test or [])]
    return hub.pin(data, {item for item in given if is_hub_id(item)})


def read_file(path: str | Path, data: DataConfig | None = None) -> list[Row]:
    """The rows of one file as found, by its ending. Raises DataError with file and line of every row that cannot be read."""
    return list(_each(path, data or DataConfig()))


def _each(path: str | Path, data: DataConfig) -> Iterator[Row]:
    bad, empty = BadRows(), True
    for row in rows_of(File(str(path), data), bad):
        empty = False
        yield row
    bad.settle()
    if empty:
        raise DataError(f"{path} has no rows.")


def rename(rows: Sequence[Row], data: DataConfig, split: str) -> list[Row]:
    """Rows with their ids (`split:17`), the recipe's constants, and columns under the task's field names.

    Raises:
        DataError: a mapped column is not there.
    """
    bad = BadRows()
    found = list(identified(renamed(rows, data, bad), split))
    bad.settle()
    return found


def read_to_predict(path: str | Path, data: DataConfig, task: str, fields: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a file to predict, in the task's `fields` as far as they have them, as they are read; none is set aside.

    Raises:
        DataError: the file cannot be read, or a row in it.
    """
    bad = BadRows()
    rows = _each(path, data)
    if not data.columns:
        rows = shapes.understood(rows, task, data.constants, bad, [], fields)
    yield from identified(renamed(rows, data), "predict")
    bad.settle()
