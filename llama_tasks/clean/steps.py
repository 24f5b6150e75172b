"""Cleaning, row by row, between sources and tasks: nothing unless the recipe's `clean` section asks, and what it did is told.

Texts change first, in the order html_unescape, unicode, control_characters, redact, hook; then rows are left out, by length and as
duplicates. Only the splits of `clean.splits` are touched, the training split where nothing else is said: rows that are scored do
not change behind anybody's back.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from llama_tasks.clean.redact import redact
from llama_tasks.duplicates.overlap import near_keys
from llama_tasks.errors import DataError, RecipeError, did_you_mean
from llama_tasks.recipe import CleanConfig
from llama_tasks.sources import Row, Split
from llama_tasks.sources.rows import canonical, sha256_of
from llama_tasks.user_code import read_source, run_file, sha256_of_file

_FIRST = 3  # examples that a step shows
_AROUND = 24  # characters shown on either side of a change
# Controls but tab and line ends; byte-order marks inside a text; directional overrides, which reorder what stands beside them.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u202a-\u202e\u2066-\u2069]")

_BESIDE = (
    "text_pair",
    "source_lang",
    "target_lang",
)  # fields of the input that a row may have beside its task's columns
_NUMBERS = ("id", "idx", "guid")  # fields that only number the rows

Step = Callable[[str], str]


@dataclass
class Cleaning:
    """What was done to the rows of one split: for each step the rows it changed or left out, and the first of them."""

    before: int = 0
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def note(self, step: str, what: str, example: str) -> None:
        """Count a row; `what` is `changed` or `left_out`."""
        entry = self.steps.setdefault(step, {what: 0, "first": []})
        entry[what] += 1
        if len(entry["first"]) < _FIRST:
            entry["first"].append(example)

    def take(self, other: Cleaning) -> None:
        """Add what was done to another piece of the split."""
        self.before += other.before
        for step, entry in other.steps.items():
            mine = self.steps.setdefault(step, {**dict.fromkeys(entry, 0), "first": []})
            mine.update({what: mine[what] + entry[what] for what in entry if what != "first"})
            mine["first"] += entry["first"][: _FIRST - len(mine["first"])]

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {"rows_before": self.before, **self.steps}


@dataclass(frozen=True)
class Cleaned(Split):
    """A split after cleaning; its fingerprint is that of the rows that stayed."""

    cleaning: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Provenance, with what cleaning did."""
        return {**super().describe(), "cleaning": self.cleaning}


def clean_splits(
    splits: Mapping[str, Split], config: CleanConfig, columns: Sequence[str], target: str
) -> dict[str, Split]:
    """The splits, those of `config.splits` cleaned.

    columns: the task's fields; target: the one of them that is to be predicted. Near duplicates are compared in the others, or
    in the target where there is no other.

    Raises:
        RecipeError: a hook that is not there, a length for a field that is not there. DataError: a forbidden control character,
        a hook that fails, nothing left.
    """
    if config.near_duplicates is not None and not 0 < config.near_duplicates <= 1:
        raise RecipeError(f"clean.near_duplicates must be above 0 and at most 1, not {config.near_duplicates}.")
    if not asks(config):
        return dict(splits)
    return {name: clean(name, split, config, columns, target) if name in config.splits else split
            for name, split in splits.items()}  # fmt: skip


def clean(name: str, split: Split, config: CleanConfig, columns: Sequence[str], target: str) -> Cleaned:
    """One split, cleaned."""
    done = Cleaning()
    rows = clean_piece(split.rows, config, done)
    # A task whose one column is the target (a text, a whole dialogue) has nothing else to compare rows by.
    compared = [*([column for column in columns if column != target] or [target]), *_BESIDE]
    if config.exact_duplicates:
        rows = _first_of_each([_whole(row) for row in rows], rows, "exact_duplicates", done)
    if config.near_duplicates is not None:
        keys = near_keys([_texts(row, compared) for row in rows], config.near_duplicates)
        rows = _first_of_each(keys, rows, "near_duplicates", done)
    if not rows:
        raise DataError(f"Cleaning left none of the {done.before} rows of the {name} split: {', '.join(done.steps)}.")
    rows = [replace(row, id=f"{name}:{i}") for i, row in enumerate(rows)]
    return Cleaned(**{**vars(split), "rows": rows, "sha256": sha256_of(rows)}, cleaning=done.describe())


def clean_piece(rows: Sequence[Row], config: CleanConfig, done: Cleaning) -> list[Row]:
    """Some rows through the steps that look at one row at a time: all but the search for duplicates. Raises as `clean_splits`."""
    done.before += len(rows)
    return _fitting(list(_changed(rows, config, done)), config, done)


def clean_texts(rows: Iterable[Row], config: CleanConfig) -> Iterator[Row]:
    """Rows to predict, as they come: their texts as test rows are changed, where the test split is cleaned; none is left out."""
    return _changed(rows, config, Cleaning()) if "test" in config.splits else iter(rows)


def asks(config: CleanConfig) -> bool:
    """Whether anything is to be done."""
    return replace(config, splits=CleanConfig().splits) != CleanConfig()


def by_row(config: CleanConfig) -> CleanConfig:
    """What is to be done a row at a time, to the training rows of a stream."""
    return replace(config, exact_duplicates=False, near_duplicates=None) if "train" in config.splits else CleanConfig()


def told(cleaning: Mapping[str, Any]) -> str:
    """What was done, on one line: `unicode changed 12 rows, min_length left out 3`."""
    steps = {step: entry for step, entry in cleaning.items() if isinstance(entry, Mapping)}
    parts = [
        f"{step} {'changed' if 'changed' in entry else 'left out'} {entry.get('changed', entry.get('left_out')):,} rows"
        for step, entry in steps.items()
    ]
    return ", ".join(parts) or "no row changed, none left out"


def _changed(rows: Iterable[Row], config: CleanConfig, done: Cleaning) -> Iterator[Row]:
    """The rows with their texts through every step that the recipe asks for."""
    steps = list(_steps(config))
    for row in rows:
        values = row.values
        if config.control_characters == "error":
            _refuse_controls(row)
        for name, step in steps:
            after = {key: _map(value, _guarded(step, name, row, key)) for key, value in values.items()}
            if after != values:
                done.note(name, "changed", f"{row.where}: {_difference(values, after)}")
            values = after
        yield row if values is row.values else replace(row, values=values)


def _steps(config: CleanConfig) -> Iterator[tuple[str, Step]]:
    if config.html_unescape:
        yield "html_unescape", html.unescape
    if config.unicode != "none":
        form = config.unicode
        yield "unicode", lambda text: unicodedata.normalize(form, text)
    if config.control_characters == "remove":
        yield "control_characters", lambda text: _CONTROLS.sub("", text)
    for kind in config.redact:
        yield f"redact {kind}", lambda text, kind=kind: redact(text, kind)  # type: ignore[misc]
    if config.hook is not None:
        yield "hook", load_hook(config.hook)


def load_hook(spec: str) -> Step:
    """The function that `FILE.py:FUNCTION` names. Raises RecipeError where there is none, or where the file does not run."""
    path, name = hook_parts(spec)
    return _load_hook(str(path), name, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _load_hook(file: str, name: str, _changed: int) -> Step:
    """Read once for every state of the file, however many pieces of a stream it cleans."""
    module = run_file(read_source(file, f"clean.hook: {file}"), str(Path(file).resolve()), f"clean.hook: {file}")
    function = getattr(module, name, None)
    if not callable(function):
        raise RecipeError(f"clean.hook: {file} has no function {name!r}.{did_you_mean(name, dir(module))}")
    return function


def hook_parts(spec: str) -> tuple[Path, str]:
    """File and function of `FILE.py:FUNCTION`. Raises RecipeError where it is not written so, or where there is no such file."""
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not name.isidentifier() or path.suffix != ".py":
        raise RecipeError(f"clean.hook is {spec!r}; write FILE.py:FUNCTION, such as my_cleaning.py:without_names.")
    if not path.is_file():
        raise RecipeError(f"clean.hook: there is no file {file!r} (looked beside the recipe and in {Path.cwd()}).")
    return path, name


def hook_sha256(spec: str | None) -> str | None:
    """SHA-256 of the file of a hook; None without one."""
    return sha256_of_file(hook_parts(spec)[0]) if spec is not None else None


def _guarded(step: Step, name: str, row: Row, key: str) -> Step:
    """The step; of the user's own function, failures and results that are no text become a DataError that names the row."""
    if name != "hook":
        return step

    def checked(text: str) -> str:
        try:
            result = step(text)
        except Exception as error:
            raise DataError(
                f"{row.where}: clean.hook failed on the field {key!r} ({type(error).__name__}: {error})."
            ) from None
        if not isinstance(result, str):
            raise DataError(
                f"{row.where}: clean.hook returned {type(result).__name__} for the field {key!r}, not text."
            )
        return result

    return checked


def _refuse_controls(row: Row) -> None:
    for key, value in row.values.items():
        for text in _strings(value):
            if found := _CONTROLS.search(text):
                raise DataError(
                    f"{row.where}: the field {key!r} holds the control character U+{ord(found[0]):04X} at character "
                    f"{found.start() + 1}; mend it, or say clean.control_characters=remove."
                )


def _fitting(rows: list[Row], config: CleanConfig, done: Cleaning) -> list[Row]:
    """The rows whose fields are as long as the recipe says, in characters (of the longest text, where a field is a list)."""
    for step, limits, sign in (("min_length", config.min_length, 1), ("max_length", config.max_length, -1)):
        for key, limit in limits.items():
            if rows and key not in rows[0].values:
                raise RecipeError(f"clean.{step} names the field {key!r}.{did_you_mean(key, list(rows[0].values))}")
            kept = []
            for row in rows:
                length = max(map(len, _strings(row.values.get(key))), default=0)
                if sign * length >= sign * limit:
                    kept.append(row)
                else:
                    done.note(step, "left_out", f"{row.where}: {key} has {length} characters")
            rows = kept
    return rows


def _first_of_each(keys: Sequence[Any], rows: list[Row], step: str, done: Cleaning) -> list[Row]:
    first: dict[Any, Row] = {}
    for key, row in zip(keys, rows, strict=True):
        if first.setdefault(key, row) is not row:
            done.note(step, "left_out", f"{row.where}: as {first[key].where}")
    return list(first.values())


def _whole(row: Row) -> bytes:
    return canonical({key: value for key, value in row.values.items() if key not in _NUMBERS})


def _texts(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple("\n".join(_strings(row.values.get(column))) for column in columns)


def _map(value: Any, step: Step) -> Any:
    """The value with every text in it changed."""
    if isinstance(value, str):
        return step(value)
    if isinstance(value, list):
        return [_map(item, step) for item in value]
    if isinstance(value, dict):
        return {key: _map(item, step) for key, item in value.items()}
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The first change, with a little of what stands around it."""
    for key in before:
        for old, new in zip(_strings(before[key]), _strings(after[key]), strict=True):
            if old != new:
                at = next(
                    (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
                )
                start = max(0, at - _AROUND)
                return f"{key} {old[start : at + _AROUND]!r} -> {new[start : at + _AROUND]!r}"
    return ""
