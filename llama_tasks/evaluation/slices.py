"""Groups of rows: is a system as good on long inputs as on short ones, in one language as in another, for every label?

    rows = [{"id": "1", "lang": "en", "meta": {"gender": "f"}, ...}, ...]      # of predictions.jsonl
    slice_by(rows, "gender", {"base": {"1": 100.0, ...}, "adapter": {...}})   # the value of each row by itself

A group's value is the mean over its rows. No torch, no text.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llama_tasks.errors import DataError, did_you_mean
from llama_tasks.metrics.base import divide
from llama_tasks.metrics.bootstrap import Array, percentile_interval, resampled_sums

Rows = Sequence[Mapping[str, Any]]
Values = Mapping[str, Mapping[str, float]]
_Key = tuple[int, Any]

INPUT, ANSWER, LANGUAGE, LABEL = "input_length", "answer_length", "language", "label"
MOST_GROUPS = 12  # values of a column that is sliced by without being asked
LEAST_ROWS = 10  # of a group that may be called the worst
_BINS = 4
_LABEL = 40  # characters
_WITHOUT = "(none)"


def slices(rows: Rows, values: Values, *, n_resamples: int = 1000, seed: int = 12345) -> list[dict[str, Any]]:
    """`slice_by` of every column that divides the rows: lengths, language, label, and other columns of few values."""
    found = [slice_by(rows, name, values, n_resamples=n_resamples, seed=seed) for name in _dividing(rows)]
    return [one for one in found if len(one["groups"]) > 1]


def slice_by(rows: Rows, column: str, values: Values, *, n_resamples: int = 1000, seed: int = 12345) -> dict[str, Any]:
    """Each system on each group of rows with the same value of a column; numbers of many values are cut at their quartiles.

    `values` are system -> id -> value of that row alone (0..100); rows without one are left out. The result has
    `groups`, of each {group, n, value and interval of every system, difference of the last system and the first}, and
    for every system its `worst` and `best` group among those of at least LEAST_ROWS rows, with the `gap` between the two:
    95% bootstrap, each group drawn for itself. The two groups are those found, so the gap of many equal groups is
    never 0 and its interval a little high.

    Raises:
        DataError: no row has such a column.
    """
    stats = {name: _statistics(rows, own) for name, own in values.items()}
    groups, drawn = [], []
    scored = np.logical_and.reduce([part[:, 1] > 0 for part in stats.values()])
    for group, members in _groups(rows, column):
        places = [place for place in members if scored[place]]
        if not places:
            continue
        both = np.concatenate([part[places] for part in stats.values()], axis=1)
        resampled = resampled_sums(both, n_resamples, seed)
        sums = both.sum(axis=0)
        means = {name: (_mean(sums, at), _mean(resampled, at)) for at, name in enumerate(stats)}
        groups.append({"group": group, "n": len(places)} | _described(means))
        drawn.append(means)
    return {"column": column, "groups": groups, "worst": _worst(groups, drawn, list(stats))}


def columns(rows: Rows) -> list[str]:
    """The names that `slice_by` takes for these rows."""
    own = dict.fromkeys(key for row in rows for part in ("meta", "input") for key in row.get(part) or {})
    return [INPUT, ANSWER, LANGUAGE, *([LABEL] if _are_labels(rows) else []), *own]


def _dividing(rows: Rows) -> Iterator[str]:
    labels = _are_labels(rows)
    for name in columns(rows):
        if name in (INPUT, LANGUAGE, LABEL) or (name == ANSWER and not labels):
            yield name
        elif any(name in (row.get("meta") or {}) for row in rows):
            kinds = {str(value) for value in _column(rows, name)}
            if 1 < len(kinds) <= MOST_GROUPS and len(rows) > len(kinds):
                yield name


def _are_labels(rows: Rows) -> bool:
    """Whether the answers are labels: choices were scored, or few short answers come again and again."""
    if any("choices" in row for row in rows):
        return True
    answers = {row["references"][0] if len(row["references"]) == 1 else "" for row in rows}
    return 1 < len(answers) <= MOST_GROUPS and 5 * len(answers) <= len(rows) and max(map(len, answers)) <= _LABEL


def _column(rows: Rows, name: str) -> list[Any]:
    """The value of each row, None where it has none."""
    match name:
        case "input_length":
            return [
                row.get("prompt_tokens") or len(" ".join(map(str, (row.get("input") or {}).values()))) for row in rows
            ]
        case "answer_length":
            return [len(row["references"][0]) if row["references"] else 0 for row in rows]
        case "language":
            return [row.get("lang") for row in rows]
        case "label" if _are_labels(rows):
            return [row["references"][0] if row["references"] else None for row in rows]
    parts = [{**row, **(row.get("input") or {}), **(row.get("meta") or {})} for row in rows]
    if not any(name in part for part in parts):
        known = columns(rows)
        raise DataError(f"No row has the column {name!r}.{did_you_mean(name, known)}")
    return [None if _is_endless(part.get(name)) else part.get(name) for part in parts]


def _is_endless(value: Any) -> bool:
    """NaN or infinite: a number that has no place among the others."""
    return isinstance(value, float) and not math.isfinite(value)


def _groups(rows: Rows, name: str) -> list[tuple[str, list[int]]]:
    """(group, places of its rows), in the order of the values."""
    found = _column(rows, name)
    numbers = [float(value) for value in found if _is_number(value)]
    edges = _quartiles(numbers) if len(set(numbers)) > MOST_GROUPS or name in (INPUT, ANSWER) else []
    places: dict[_Key, list[int]] = {}
    for place, value in enumerate(found):
        places.setdefault(_key(value, edges), []).append(place)
    names = _names({key: [found[at] for at in places[key]] for key in sorted(places)})
    return [(names[key], places[key]) for key in names]


def _quartiles(numbers: Sequence[float]) -> list[float]:
    return sorted(set(np.quantile(numbers, np.arange(1, _BINS) / _BINS).tolist())) if numbers else []


def _is_number(value: Any) -> bool:
    """A number that floats can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _key(value: Any, edges: Sequence[float]) -> _Key:
    """What keeps groups apart and sorts them: numbers by size, texts by the alphabet, rows without a value last."""
    if value is None:
        return 2, 0
    if not _is_number(value):
        return 1, str(value)
    return 0, int(np.searchsorted(edges, float(value))) if edges else value


def _names(groups: Mapping[_Key, Sequence[Any]]) -> dict[_Key, str]:
    """What each group of values is called, no two alike: numbers in six digits, in all where two would look the same, and a
    text that looks like another group in quotes."""
    names = {key: _name(key, values, "g") for key, values in groups.items()}
    if len(set(names.values())) < len(names):
        names = {key: _name(key, values, "") for key, values in groups.items()}
    taken = {name for key, name in names.items() if key[0] != 1}
    for key, name in names.items():
        while key[0] == 1 and name in taken:
            name = f'"{name}"'
        names[key] = name
        taken.add(name)
    return names


def _name(key: _Key, values: Sequence[Any], form: str) -> str:
    if key[0] != 0:
        return str(key[1]) if key[0] == 1 else _WITHOUT
    low, high = (format(end, "" if isinstance(end, int) else form) for end in (min(values), max(values)))
    return low if low == high else f"{low} – {high}"


def _statistics(rows: Rows, own: Mapping[str, float]) -> Array:
    """Value and 1 of each row `[n, 2]`; zeros of a row without a value."""
    found = [own.get(row["id"], math.nan) for row in rows]
    return np.array([(0.0, 0.0) if math.isnan(value) else (value, 1.0) for value in found])


def _mean(sums: Array, system: int) -> Array:
    return divide(sums[..., 2 * system], sums[..., 2 * system + 1], empty=np.nan)


def _described(means: Mapping[str, tuple[Array, Array]]) -> dict[str, Any]:
    systems = {
        name: {"value": float(value), "interval": list(percentile_interval(drawn))}
        for name, (value, drawn) in means.items()
    }
    (first, *_), (*_, last) = means.values(), means.values()
    if len(means) < 2:
        return {"systems": systems}
    return {
        "systems": systems,
        "difference": float(last[0] - first[0]),
        "difference_interval": list(percentile_interval(last[1] - first[1])),
    }


def _worst(
    groups: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, tuple[Array, Array]]], systems: Sequence[str]
) -> dict[str, Any]:
    """system -> {group, best, gap, interval}; nothing where fewer than two groups are large enough."""
    large = [at for at, group in enumerate(groups) if group["n"] >= LEAST_ROWS]
    if len(large) < 2:
        return {}
    found = {}
    for name in systems:
        order = sorted(large, key=lambda at: groups[at]["systems"][name]["value"])
        low, high = order[0], order[-1]
        # The same draws of both would move together; one of them is turned round.
        gaps = drawn[high][name][1] - drawn[low][name][1][::-1]
        found[name] = {
            "group": groups[low]["group"],
            "best": groups[high]["group"],
            "gap": groups[high]["systems"][name]["value"] - groups[low]["systems"][name]["value"],
            "interval": list(percentile_interval(gaps)),
        }
    return found
