"""Train, validation and test rows of a recipe: read, carved where the source has no such split, mixed, sampled."""

from __future__ import annotations

import difflib
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llama_tasks.errors import DataError, RecipeError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources.carving import carve
from llama_tasks.sources.locate import SPLITS, limit_of, located, source_of
from llama_tasks.sources.reading import Found, Reader, identified
from llama_tasks.sources.rows import OPTIONAL, Row, Split, sha256_of
from llama_tasks.sources.stream import held_out

MOST_TIMES = 1000  # that a mix repeats a row


def load_splits(
    data: DataConfig, task: str, group_by: str, seed: int, fields: Sequence[str] | None = None
) -> dict[str, Split]:
    """Read train, validation and test rows.

    A split that the source does not have is carved from the training rows, a tenth each, by a hash: rows whose field `group_by`
    is the same or nearly the same (`data.split_similarity`) stay on one side, and a row's side does not depend on the order of
    the file.

    Args:
        fields: what the task reads of every row; each must be there and hold text, numbers, or lists or objects of text.

    Raises:
        RecipeError: values of `data` that do not go together, or fields that the task does not have.
        DataError: nothing to read, a broken file, rows that cannot be used, a Hub dataset that cannot be had.
    """
    check(data)
    check_fields(data, task, fields or ())
    reader = Reader(data, task, fields or ())
    shards = located(data, task)
    if data.streaming:
        return held_out(data, reader, shards, group_by)
    found = {name: reader.read(items) for name, items in shards.items()}
    missing = [name for name in SPLITS if name not in found]
    if missing:
        train = found["train"]
        for name, items in carve(train.items, missing, group_by, data.split_similarity, seed).items():
            found[name] = replace(train, items=items) if name == "train" else Found(items)
    return {name: _split(found[name], name, data, seed) for name in SPLITS}


def load_split(data: DataConfig, task: str, name: str, seed: int, fields: Sequence[str] | None = None) -> Split:
    """Read one split as its source has it, and no other; nothing is carved.

    Raises:
        RecipeError, DataError: as `load_splits`, and for a source without that split.
    """
    check(data)
    check_fields(data, task, fields or ())
    shards = located(data, task)
    if name not in shards:
        raise DataError(
            f"{' '.join(data.train)} has no {name} rows; it holds: {', '.join(shards)}. Name them in data.{name}."
        )
    return _split(Reader(data, task, fields or ()).read(shards[name]), name, data, seed)


def _split(found: Found, name: str, data: DataConfig, seed: int) -> Split:
    mixed = name == "train" and data.weights is not None
    items = _mix(found.items, data, seed) if mixed else found.items
    rows = _sample([row for part in items.values() for row in part], limit_of(data, name), seed)
    rows = list(identified(rows, name))
    mix = {item: len(part) for item, part in items.items()} if mixed else {}
    return Split(rows, source_of(data, name), sha256_of(rows), tuple(found.read_as), found.bad, mix)


def check(data: DataConfig) -> None:
    """Raise RecipeError for values of `data` that do not go together."""
    if data.split_similarity > 1:
        raise RecipeError(f"data.split_similarity must be at most 1, not {data.split_similarity}.")
    for name, items in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if items is not None and not all(item.strip() for item in items or [""]):
            raise RecipeError(f"data.{name} names no file; write a file, a folder, a glob or a Hub dataset.")
    lists = (data.train, data.validation or [], data.test or [])
    twice = next((item for items in lists for item in items if items.count(item) > 1), None)
    if twice:
        raise RecipeError(f"{twice!r} stands twice in data; to give it more weight, use data.weights.")
    labels = data.labels or []
    wrong = next((label for label in labels if labels.count(label) > 1 or label != label.strip() or not label), None)
    if wrong is not None:
        why = "stands there twice" if labels.count(wrong) > 1 else "is empty or has white space at an end"
        raise RecipeError(f"data.labels: {wrong!r} {why}; write each label once, as it stands in the data.")
    if data.streaming and data.max_train_samples:
        raise RecipeError(
            "data.max_train_samples needs all rows at hand, which data.streaming does not have; use train.max_steps."
        )
    if data.weights is not None and len(data.weights) != len(data.train):
        raise RecipeError(
            f"data.weights has {len(data.weights)} numbers for {len(data.train)} items of data.train; write one for each."
        )
    if any(weight <= 0 for weight in data.weights or ()):
        raise RecipeError("data.weights must be above 0; leave out the item that shall not be read.")


def check_fields(data: DataConfig, task: str, fields: Sequence[str]) -> None:
    """Raise RecipeError for a key of `data.columns` or `data.constants` that a built-in task does not read, or in both."""
    known = (*fields, *OPTIONAL[task]) if fields and task in OPTIONAL else None
    for section, keys in (("columns", data.columns), ("constants", data.constants)):
        for key in keys:
            if known and key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                guess = f" (did you mean {near[0]!r}?)" if near else ""
                raise RecipeError(
                    f"data.{section}.{key}: the task {task!r} has no field {key!r}{guess}; it reads: {', '.join(known)}."
                )
    both = next((key for key in data.columns if key in data.constants), None)
    if both:
        raise RecipeError(f"data.columns and data.constants both give the field {both!r}; leave one of them out.")


# --- mixing and sampling --------------------------------------------------------------------------------------------


def _mix(items: Mapping[str, list[Row]], data: DataConfig, seed: int) -> Mapping[str, list[Row]]:
    """The rows of each item in the shares of their weights.

    No row is left out: the item that is largest for its weight gives each of its rows once, the others repeat theirs (whole
    passes, then a seeded sample).
    """
    if data.weights is None:
        return items
    share = dict(zip(data.train, data.weights, strict=True))
    unit = max(len(rows) / share[item] for item, rows in items.items())
    heaviest = max(items, key=lambda item: share[item] / len(items[item]))
    times = unit * share[heaviest] / len(items[heaviest])
    if times > MOST_TIMES:
        raise RecipeError(
            f"data.weights would repeat each row of {heaviest!r} {times:,.0f} times; more than {MOST_TIMES:,} times is surely "
            "not meant: bring the weights nearer to each other."
        )
    mixed = {}
    for item, rows in items.items():
        passes, rest = divmod(round(unit * share[item]), len(rows))
        mixed[item] = rows * passes + _sample(rows, rest, seed)
    return mixed


def _sample(rows: list[Row], limit: int | None, seed: int) -> list[Row]:
    if limit is None or limit >= len(rows):
        return rows
    chosen = sorted(random.Random(seed).sample(range(len(rows)), limit))
    return [rows[i] for i in chosen]
