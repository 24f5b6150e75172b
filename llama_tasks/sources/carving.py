"""A split that the source does not have, carved from the training rows: whole groups of like rows, by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from llama_tasks.errors import DataError
from llama_tasks.sources.rows import Row, canonical

_CARVED = 10  # one row in so many goes to each carved split
_LARGEST = 4 * _CARVED  # a group with more than one row in so many stays in training, or it would be most of a split


def carve(
    items: Mapping[str, list[Row]], missing: Sequence[str], group_by: str, similarity: float, seed: int
) -> dict[str, dict[str, list[Row]]]:
    """Move a tenth of the rows to each missing split; returns split -> item of the recipe -> rows, `train` among them.

    Rows whose field `group_by` is the same or nearly the same go together, and no order of the rows changes where.

    Raises:
        DataError: too few rows, or groups of like rows, for a row in every split.
    """
    rows = [row for part in items.values() for row in part]
    texts = [text_of(row, group_by) for row in rows]
    groups, keys, sizes = like_groups(texts, similarity, seed)
    most = max(len(rows) / _LARGEST, 2)
    sides = {group: side(keys[group], missing) if size <= most else "train" for group, size in sizes.items()}
    parts: dict[str, dict[str, list[Row]]] = {name: {} for name in ("train", *missing)}
    in_order = iter(groups)
    for item, part in items.items():
        for row in part:
            parts[sides[next(in_order)]].setdefault(item, []).append(row)
    for name in parts:
        if not parts[name]:
            alike = f" in {len(sizes)} groups of like texts (data.split_similarity)" if len(sizes) < len(rows) else ""
            raise DataError(
                f"{len(rows)} rows{alike} are too few to carve a {name} split from; name a file in data.{name}."
            )
    return parts


def like_groups(
    texts: Sequence[str], similarity: float, seed: int
) -> tuple[list[int], dict[int, bytes], dict[int, int]]:
    """The group of every text, like ones together; of every group the least hash in it, and its size."""
    from llama_tasks.duplicates import near_duplicate_groups

    groups = near_duplicate_groups(texts, similarity)
    keys: dict[int, bytes] = {}
    sizes: dict[int, int] = {}
    for group, text in zip(groups, texts, strict=True):
        key = hash_of(text, seed)
        keys[group], sizes[group] = min(keys.get(group, key), key), sizes.get(group, 0) + 1
    return groups, keys, sizes


def hash_of(text: str, seed: int) -> bytes:
    """What decides the side of a text."""
    return hashlib.sha256(canonical([seed, text])).digest()


def side(key: bytes, missing: Sequence[str]) -> str:
    """The split that a hash falls into: a tenth for each of the missing ones."""
    index = int(int.from_bytes(key[:4], "big") / 2**32 * _CARVED)
    return missing[index] if index < len(missing) else "train"


def text_of(row: Row, field: str) -> str:
    """The row's field as a text to compare rows by; the whole row where it has no such field."""
    value = row.values.get(field, row.values)
    return value if isinstance(value, str) else canonical(value).decode("utf-8", "surrogatepass")
