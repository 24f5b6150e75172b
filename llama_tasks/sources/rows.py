"""What a reader gives: rows, and the rows that cannot be used with the reason."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_tasks.errors import DataError

SHOWN = 10  # bad rows that an error or a report spells out; all are counted
MAY_BE_EMPTY = ("answers", "input")  # an unanswerable question, an instruction without input
#: Fields that a built-in task reads where a row has them.
OPTIONAL = {
    "classify": ("text_pair", "lang"), "qa": ("lang",), "summarize": ("lang", "references", "length"), "text": ("lang",),
    "translate": ("source_lang", "target_lang"),
}  # fmt: skip
_UNSEEN = " \t\r\n\u00a0\u00ad\u200b\u200c\u200d\u2060\u3000\ufeff"  # no-break, soft-hyphen, zero-width, ideographic
SKIP_HINT = "Mend them, or set data.on_bad_row=skip to set such rows aside."


@dataclass(frozen=True)
class Row:
    """One row as found: its values, a stable id (`test:17`) and where it stands (`my.jsonl:18`)."""

    id: str
    values: dict[str, Any]
    where: str


@dataclass(frozen=True)
class BadRow:
    """A row that was set aside: where it stands and why."""

    where: str
    why: str


class BadRows:
    """Collects the rows that cannot be used, so that all are told at once.

    Attributes:
        skip: whether the recipe sets such rows aside (`data.on_bad_row: skip`) or stops.
        count: all of them.
        first: the first few.
        hint: what to do about them, behind the list.
    """

    def __init__(self, skip: bool = False, hint: str = SKIP_HINT) -> None:
        self.skip, self.count, self.hint = skip, 0, hint
        self.first: list[BadRow] = []

    def add(self, where: str, why: str) -> None:
        """Note a bad row; `why` is a sentence without its full stop."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(BadRow(where, why))

    def take(self, other: BadRows) -> None:
        """Note the bad rows of another piece of the data."""
        self.count += other.count
        self.first += other.first[: SHOWN - len(self.first)]

    def settle(self) -> None:
        """Raise DataError with what was collected, unless the recipe sets bad rows aside."""
        if self.skip or not self.count:
            return
        if self.count == 1:
            stop = "" if self.first[0].why.endswith("?") else "."
            raise DataError(f"{self.first[0].where}: {self.first[0].why}{stop} {self.hint.replace('them', 'it')}")
        more = f"\n  … and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        listed = "".join(f"\n  {bad.where}: {bad.why}" for bad in self.first)
        raise DataError(f"{self.count} rows cannot be used:{listed}{more}\n{self.hint}")

    def describe(self) -> dict[str, Any]:
        """For the run's fingerprints: how many rows were set aside, and the first of them, each once."""
        return {"rows": self.count, "first": list(dict.fromkeys(f"{bad.where}: {bad.why}" for bad in self.first))}


@dataclass(frozen=True)
class Split:
    """The rows of one split with their fingerprint, and what happened on the way.

    Attributes:
        source: the items of the recipe in words, a Hub dataset with its commit.
        sha256: of the rows' canonical JSON.
        read_as: names of the published shapes that were recognised.
        set_aside: rows that could not be used, where the recipe allows it.
        mix: item of the recipe: rows taken from it, where `data.weights` mixes several.
    """

    rows: list[Row]
    source: str
    sha256: str
    read_as: tuple[str, ...] = ()
    set_aside: BadRows = field(default_factory=BadRows, compare=False)
    mix: Mapping[str, int] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Provenance as JSON: number of rows, source, SHA-256, and the rest where there is any."""
        told: dict[str, Any] = {"rows": len(self.rows), "source": self.source, "sha256": self.sha256}
        if self.read_as:
            told["read_as"] = list(self.read_as)
        if self.mix:
            told["mix"] = dict(self.mix)
        if self.set_aside.count:
            told["set_aside"] = self.set_aside.describe()
        if not self.mix and (repeated := _repeated_ids(self.rows)):
            told["repeated_ids"] = repeated
        return told


def _repeated_ids(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows whose own column `id` says what an earlier row's does: how many, and the first pair; nothing where there are none."""
    seen: dict[Any, str] = {}
    found: dict[str, Any] = {}
    for row in rows:
        own = row.values.get("id")
        if not isinstance(own, (str, int)):
            continue
        if own in seen:
            found = {"first": f"{listed([str(own)])[:60]!r} in {seen[own]} and {row.where}", **found}
            found["rows"] = found.get("rows", 0) + 1
        else:
            seen[own] = row.where
    return found


def notes(fingerprints: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a run says once of its data: the shapes that were recognised, the mix, the rows that were set aside and why."""
    lines = []
    for name, about in fingerprints.items():
        if "read_as" in about:
            lines.append(f"{name}: read as {', '.join(about['read_as'])}")
        if "mix" in about:
            lines.append(
                f"{name}: mixed of {', '.join(f'{rows:,} rows of {item}' for item, rows in about['mix'].items())}"
            )
        if "repeated_ids" in about:
            told = about["repeated_ids"]
            lines.append(
                f"{name}: rows whose column 'id' repeats an earlier row's: {told['rows']:,}, first {told['first']}"
            )
        if "set_aside" in about:
            lines.append(
                f"{name}: rows set aside (data.on_bad_row: skip): {about['set_aside']['rows']:,}, the first of them:"
            )
            lines += [f"  {bad}" for bad in about["set_aside"]["first"]]
    return lines


def listed(names: Iterable[str]) -> str:
    """Names out of the data for a sentence, without characters that would steer a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in ", ".join(names)) or "nothing"


def canonical(values: Any) -> bytes:
    """A value as JSON that is the same for equal values: what fingerprints and sides of a split hang on."""
    text = json.dumps(values, ensure_ascii=False, sort_keys=True, default=str)
    return text.encode("utf-8", "surrogatepass")


def sha256_of(rows: Iterable[Row]) -> str:
    """SHA-256 of the rows' values, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical(row.values) + b"\n")
    return digest.hexdigest()


# --- fields that a task reads ---------------------------------------------------------------------------------------


class Checker:
    """Lets the rows pass whose `fields` hold text (or numbers, lists or objects of text), of one kind in all rows and files.

    Attributes:
        hint: what else to say of a row in which a field is nowhere to be found (`These look like ...`).
    """

    def __init__(self, fields: Sequence[str], hint: Callable[[Mapping[str, Any]], str]) -> None:
        self.fields, self.hint = fields, hint
        self._kinds: dict[str, tuple[str, str]] = {}  # field -> kind in the first good row, and where that is

    def usable(self, rows: Iterable[Row], bad: BadRows) -> Iterator[Row]:
        """The good rows of one file; the others go to `bad`.

        Raises:
            DataError: a field that no row of the file has, with the columns that are there and the likely match.
        """
        found: dict[str, None] = {}
        first: Row | None = None
        for row in rows:
            first = first or row
            if not row.values.keys() <= found.keys():
                found.update(dict.fromkeys(row.values))
            why = self._fault(row)
            if why:
                bad.add(row.where, why)
            else:
                yield row
        for name in self.fields if first else ():
            if first and name not in found:
                raise DataError(no_column(name, found, self.fields, first.where) + self.hint(first.values))

    def _fault(self, row: Row) -> str | None:
        lacking = next((name for name in self.fields if name not in row.values), None)
        if lacking:
            return f"the field {lacking!r} is missing (the row has: {listed(row.values)})"
        kinds = {}
        for name in self.fields:
            value = row.values[name]
            if (value == "" and name in MAY_BE_EMPTY) or value == []:
                continue
            if why := _fault(value):
                return f"the field {name!r} {why}"
            kinds[name] = kind_of(value)
            kind, where = self._kinds.get(name, (kinds[name], ""))
            if kinds[name] != kind:
                return f"the field {name!r} is {kinds[name]}, but {kind} in {where}; make them the same"
        if len(self._kinds) < len(self.fields):
            self._kinds = {**{name: (kind, row.where) for name, kind in kinds.items()}, **self._kinds}
        return None


def no_column(name: str, found: Iterable[str], fields: Sequence[str], where: str, task: str = "") -> str:
    """The sentence about a column that is nowhere: what is there, and what was probably meant: the likeliest of those, or the
    only one, that are no field of a task themselves."""
    fields = (*fields, *(field for optional in OPTIONAL.values() for field in optional))
    free = [column for column in found if column not in fields]
    near = free if len(free) == 1 else difflib.get_close_matches(name, free, n=1, cutoff=0.4)
    return (
        f"{where}: the task{f' {task!r}' if task else ''} needs the column {name!r}; found: {listed(found)}. "
        f"Name yours in the recipe: data.columns.{name}={listed(near) if near else 'YOUR_COLUMN'}"
    )


def kind_of(value: Any) -> str:
    """The kind of a value in words: text, a number, true/false, null, a list, an object, a date or time, bytes."""
    if isinstance(value, str):
        return "text"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, (int, float)):
        return "a number"
    names = {"list": "a list", "tuple": "a list", "dict": "an object", "bytes": "bytes"}
    dates = {"date", "datetime", "time", "timedelta", "Timestamp", "Timedelta"}
    name = type(value).__name__
    return "a date or time" if name in dates else names.get(name, f"of type {name}")


def _fault(value: Any, inner: bool = False) -> str | None:
    """What is wrong with one value, looked at to its depth; None where nothing is. A number counts as its text, not in a list."""
    if isinstance(value, str):
        return _fault_of_text(value)
    if isinstance(value, (list, tuple)):
        items = ((i, item) for i, item in enumerate(value, 1) if item != "")
        return next((f"holds a list whose item {i} {why}" for i, why in _faults(items)), None)
    if isinstance(value, Mapping):
        return next((f"holds an object whose {key!r} {why}" for key, why in _faults(value.items())), None)
    if value is None:
        return "is null; give it a value"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which stands for a missing value; give it one"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not inner:
        return None
    return f"is {kind_of(value)}; it must be text"


def _faults(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, str]]:
    return ((key, why) for key, value in items if (why := _fault(value, inner=True)))


def _fault_of_text(text: str) -> str | None:
    if not text or ((text[0].isspace() or text[0] in _UNSEEN) and not text.strip().strip(_UNSEEN)):
        return "holds only white space" if text else "is empty"
    if "\x00" in text:
        return "holds a NUL character (U+0000); remove it"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate); mend the text"
    return None
