"""Which rows say the same: to the letter, once normalised, or nearly; within a split and between splits, in little memory."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llama_tasks.duplicates.near import near_duplicate_groups, normalised

NEAR_THRESHOLD = 0.8  # least Jaccard similarity of what counts as a near duplicate
NEAR_ROWS = 50_000  # rows of a split among which near duplicates are looked for; beyond, a seeded sample
NEAR_CHARACTERS = 2000  # of each text that are compared
SHOWN = 10  # pairs that a match keeps

_Hashes: TypeAlias = NDArray[np.uint64]
Near: TypeAlias = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class Match:
    """How many rows repeat another, and the first pairs: (id of the earlier row, id of the one that repeats it)."""

    total: int
    pairs: list[tuple[str, str]]


class Hashed:
    """Rows of one split as ids and 64-bit hashes. Among a million rows, two different ones have the same hash with a
    probability of 3e-8.

    `sample` holds (index, texts of the input) of the rows among which near duplicates are looked for.
    """

    def __init__(self) -> None:
        self._names = bytearray()
        self._ends = array("Q", [0])
        self._exact, self._normal, self._target = array("Q"), array("Q"), array("Q")
        self.sample: list[tuple[int, tuple[str, ...]]] = []
        self._random = random.Random(0)

    def __len__(self) -> int:
        return len(self._exact)

    def add(self, name: str, fields: tuple[str, ...], target: str) -> None:
        """Take a row: its id, the texts of its input, its target."""
        index = len(self._exact)
        self._names += name.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._names))
        self._exact.append(hash_text("\0".join(fields)))
        self._normal.append(hash_text("\0".join(map(normalised, fields))))
        self._target.append(hash_text(target))
        kept = (index, tuple(text[:NEAR_CHARACTERS] for text in fields))
        if index < NEAR_ROWS:
            self.sample.append(kept)
        elif (place := self._random.randrange(index + 1)) < NEAR_ROWS:  # Vitter's algorithm R
            self.sample[place] = kept

    def name(self, index: int) -> str:
        """The id of the row."""
        return self._names[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")

    def column(self, name: str) -> _Hashes:
        """Hashes [rows] of `exact`, `normal` or `target`."""
        return np.array(getattr(self, f"_{name}"), np.uint64)


def near_groups(rows: Mapping[str, Hashed]) -> dict[str, Near]:
    """Split -> index of a row -> its group, for the rows among which near duplicates are looked for; rows of one group, in
    whichever split, have near texts in every field. (Five questions on one passage are no near duplicates.)"""
    samples = {name: sorted(part.sample) for name, part in rows.items()}
    keys = iter(near_keys([fields for sample in samples.values() for _, fields in sample]))
    return {name: {index: next(keys) for index, _ in sample} for name, sample in samples.items()}


def compare(
    rows: Mapping[str, Hashed], near: Mapping[str, Near], pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str, str], Match]:
    """(a, b, how) for each pair of splits -> the rows of b that a holds: exact, else normalised, else near."""
    found = {}
    for a, b in pairs:
        exact, normal = (_first_equal(rows[a].column(x), rows[b].column(x)) for x in ("exact", "normal"))
        first = _firsts(near[a])
        alike = {index: first[group] for index, group in near[b].items() if group in first}
        for kind, match in (
            ("exact", exact),
            ("normalised", _without(normal, exact)),
            ("near", _without(alike, normal)),
        ):
            found[a, b, kind] = _match(match, rows[a], rows[b])
    return found


def duplicates(rows: Hashed, near: Near) -> dict[str, Match]:
    """How -> rows that repeat an earlier one: exact, else normalised (input and target), else near (by the input)."""
    target = rows.column("target") * np.uint64(0x9E3779B97F4A7C15)
    exact, normal = (_repeated(rows.column(x) ^ target) for x in ("exact", "normal"))
    first = _firsts(near)
    alike = {index: first[group] for index, group in near.items() if first[group] != index}
    near_only = _without(alike, _repeated(rows.column("normal")))
    parts = {"exact": exact, "normalised": _without(normal, exact), "near": near_only}
    return {kind: _match(match, rows, rows) for kind, match in parts.items()}


def two_answers(rows: Hashed) -> Match:
    """Rows with the input of an earlier one and another target."""
    target, earlier = rows.column("target"), _repeated(rows.column("exact"))
    return _match({i: first for i, first in earlier.items() if target[i] != target[first]}, rows, rows)


def hash_text(text: str) -> int:
    """64 bits of a text's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _first_equal(held: _Hashes, asked: _Hashes) -> dict[int, int]:
    """Index in `asked` -> first index in `held` with the same hash, where there is one."""
    values, first = np.unique(held, return_index=True)
    if not len(values):
        return {}
    at = np.minimum(np.searchsorted(values, asked), len(values) - 1)
    hits = np.flatnonzero(values[at] == asked)
    return dict(zip(hits.tolist(), first[at[hits]].tolist(), strict=True))


def _repeated(hashes: _Hashes) -> dict[int, int]:
    """Index of a row -> the first row with its hash, for all but those first ones."""
    if not len(hashes):
        return {}
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(hashes)))
    return dict(zip(again.tolist(), first[inverse[again]].tolist(), strict=True))


def near_keys(texts: Sequence[tuple[str, ...]], threshold: float = NEAR_THRESHOLD) -> list[tuple[int, ...]]:
    """For each row (its texts) the near-duplicate group of every text; rows with one key are near duplicates."""
    columns = []
    for k in range(max(map(len, texts), default=0)):
        column = [fields[k] if k < len(fields) else "" for fields in texts]
        unique = {text: i for i, text in enumerate(dict.fromkeys(column))}
        groups = near_duplicate_groups(unique, threshold)
        columns.append([groups[unique[text]] for text in column])
    return list(zip(*columns, strict=True))


def _firsts(near: Near) -> dict[tuple[int, ...], int]:
    """Group -> the first row of it."""
    first: dict[tuple[int, ...], int] = {}
    for index, group in near.items():
        first.setdefault(group, index)
    return first


def _without(found: Mapping[int, int], known: Mapping[int, int]) -> dict[int, int]:
    return {index: first for index, first in found.items() if index not in known}


def _match(found: Mapping[int, int], earlier: Hashed, later: Hashed) -> Match:
    shown = sorted(found.items())[:SHOWN]
    return Match(len(found), [(earlier.name(first), later.name(index)) for index, first in shown])
