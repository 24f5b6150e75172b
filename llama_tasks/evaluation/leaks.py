"""Which test rows the model was trained on, and what the scores are without them. No torch.

A test row is a leak when its input stands among the training rows to the letter (`exact`), but for case, width, spaces and
punctuation (`normalised`), or in pieces (`ngram`): of every field at least 70% of the n-grams are found, wherever they stand in
the training rows. That is the rule of Chowdhery et al. (2022, PaLM, 8 words) by characters, so that it holds for every script:
40 characters without spaces and punctuation, 10 where a character is a syllable or a word. A shorter field is found only
where a whole field or target of the training rows equals it. So a new question about a passage that was trained on is no leak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llama_tasks.duplicates import normalised
from llama_tasks.duplicates.overlap import hash_text
from llama_tasks.prompts import Prompt
from llama_tasks.tokens.audit import inputs_of

if TYPE_CHECKING:
    from llama_tasks.dataset import Dataset

FOUND = 0.7  # share of a field's n-grams
LETTERS, SYLLABLES = 40, 10  # characters of an n-gram
KINDS = ("exact", "normalised", "ngram")
SIEVE = 8  # places of a table for each n-gram of the test rows
SHOWN = 10  # leaked rows that a report names
STREAMED = (
    "the training rows were a stream, and are not kept (the audit compared each with the test rows, by whole rows)"
)
NEVER = "this evaluation was made before llama-tasks looked for leaks; evaluate the run again"
_WIDE = 0x2E80
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64

_Codes = NDArray[np.uint64]


@dataclass(frozen=True)
class Leak:
    """How a test row was found, and the first training row that holds it (none for n-grams, which may come from many)."""

    kind: str
    row: str | None = None


def check(dataset: Dataset) -> dict[str, Any]:
    """What eval/leaks.json holds: {checked, of, rows: {id: [kind, training row]}}, or {checked: false, why}."""
    if dataset.stream is not None:
        return {"checked": False, "why": STREAMED}
    test = dataset.prompts["test"]
    found = find(dataset.prompts["train"], test)
    return {"checked": True, "of": len(test), "rows": {name: [leak.kind, leak.row] for name, leak in found.items()}}


def find(train: Iterable[Prompt], test: Sequence[Prompt]) -> dict[str, Leak]:
    """Id of a test row -> how it leaked. Training rows pass once, and nothing of them is kept."""
    inputs = [_read(prompt) for prompt in test]
    wanted = {kind: _places([fields[kind] for fields in inputs]) for kind in ("exact", "normalised")}
    held: dict[str, dict[int, str]] = {kind: {} for kind in wanted}
    grams = _Grams([fields["normalised"] for fields in inputs])
    for prompt in train:
        fields = _read(prompt)
        for kind, places in wanted.items():
            key = _key(fields[kind])
            if key in places:
                held[kind].setdefault(key, prompt.example.id)
        grams.see([*fields["normalised"], normalised(prompt.example.target)])
    solved = sorted({prompt.fewshot for prompt in test})  # examples in every prompt, which left the training rows
    grams.see(list(map(normalised, solved)))
    found: dict[str, Leak] = {}
    for place in grams.found():
        found[test[place].example.id] = Leak("ngram")
    for kind in ("normalised", "exact"):
        for key, row in held[kind].items():
            found |= {test[place].example.id: Leak(kind, row) for place in wanted[kind][key]}
    return {prompt.example.id: found[prompt.example.id] for prompt in test if prompt.example.id in found}


def summary(
    found: Mapping[str, Any] | None,
    systems: Mapping[str, tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]],
    score: Callable[[list[Mapping[str, Any]]], list[dict[str, Any]]],
) -> dict[str, Any]:
    """The report's `leaks` out of eval/leaks.json; `systems` are name -> (rows, scores), `score` scores other rows.

    `scores` is empty where nothing leaked, and where everything did; it lacks those that the rows left have no value for.
    """
    if found is None or not found["checked"]:
        return {"checked": False, "why": found["why"] if found else NEVER}
    leaked = {name: kind for name, (kind, _) in found["rows"].items()}
    told = {
        "checked": True,
        "of": found["of"],
        "rows": len(leaked),
        "kinds": {kind: list(leaked.values()).count(kind) for kind in KINDS},
        "first": [[name, row] for name, (_, row) in list(found["rows"].items())[:SHOWN]],
    }
    return told | {"scores": list(_with_and_without(leaked, systems, score)) if leaked else []}


def _with_and_without(leaked: Mapping[str, str], systems: Mapping[str, Any], score: Any) -> Iterator[dict[str, Any]]:
    clean = {name: [row for row in rows if row["id"] not in leaked] for name, (rows, _) in systems.items()}
    if not all(clean.values()):
        return
    without = {name: {(s["metric"], s["lang"]): s for s in score(rows)} for name, rows in clean.items()}
    scored = {name: {(s["metric"], s["lang"]): s for s in scores} for name, (_, scores) in systems.items()}
    for key in next(iter(scored.values())):
        if not all(key in own for own in without.values()):  # every row of that language, or of that metric, leaked
            continue
        sides = {name: {"with": _value(scored[name][key]), "without": _value(without[name][key])} for name in systems}
        yield {"metric": key[0], "lang": key[1], "n": next(iter(without.values()))[key]["n"], **sides}


def _value(score: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": score["value"], "interval": list(score["interval"])}


def _read(prompt: Prompt) -> dict[str, list[str]]:
    """The fields of a row's input as they are compared."""
    fields = list(inputs_of(prompt))
    return {"exact": fields, "normalised": list(map(normalised, fields))}


def _key(fields: Sequence[str]) -> int:
    return hash_text("\0".join(fields))


def _places(inputs: Sequence[Sequence[str]]) -> dict[int, list[int]]:
    places: dict[int, list[int]] = {}
    for place, fields in enumerate(inputs):
        places.setdefault(_key(fields), []).append(place)
    return places


class _Grams:
    """The n-grams of test rows (their normalised fields), and which of them were seen elsewhere."""

    def __init__(self, inputs: Sequence[Sequence[str]]) -> None:
        widths = [[_width(text) for text in fields] for fields in inputs]
        self._widths = sorted({width for row in widths for width in row}) or [LETTERS]
        self._fields = [
            [_grams(text, [width]) for text, width in zip(*both, strict=True)]
            for both in zip(inputs, widths, strict=True)
        ]
        every = [grams for fields in self._fields for grams in fields]
        self._known: _Codes = np.unique(np.concatenate(every)) if every else np.empty(0, np.uint64)
        self._seen = np.zeros(len(self._known), bool)
        # Most n-grams of training rows are in no test row, and one look here tells so of seven in eight and more.
        bits = max(1, (SIEVE * len(self._known)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._sieve = np.zeros(1 << bits, bool)
        self._sieve[self._known >> self._shift] = True

    def see(self, texts: Sequence[str]) -> None:
        """Note the n-grams of training texts, which are normalised, as long as the test rows ask: what is in a Chinese field
        may stand in an English text."""
        for text in texts:
            grams = _grams(text, self._widths)
            grams = grams[self._sieve[grams >> self._shift]]
            if len(grams):
                at = np.minimum(np.searchsorted(self._known, grams), len(self._known) - 1)
                self._seen[at[self._known[at] == grams]] = True

    def found(self) -> Iterator[int]:
        """Places of the rows of which every field was seen."""
        for place, fields in enumerate(self._fields):
            shares = [self._seen[np.searchsorted(self._known, grams)].mean() for grams in fields]
            if shares and min(shares) >= FOUND:
                yield place


def _width(text: str) -> int:
    """How many characters an n-gram of a test field has, by the field's script."""
    codes = _codes(text)
    return SYLLABLES if 3 * np.count_nonzero(codes >= _WIDE) >= len(codes) else LETTERS


def _codes(text: str) -> _Codes:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)


def _grams(text: str, widths: Sequence[int]) -> _Codes:
    """Hashes of all n-grams of a normalised text, of each width; where the text is shorter, the one of the whole.

    With S the prefix sums of code x base^i, an n-gram's hash is (S[i + n] - S[i]) base^-i, all modulo 2^64.
    """
    codes = _codes(text)
    if not len(codes):
        return np.zeros(1, np.uint64)
    mixed = (codes + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
    mixed ^= mixed >> np.uint64(32)
    up, down = _powers(len(codes))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * up, dtype=np.uint64)])
    found = [
        (sums[width:] - sums[:-width]) * down[: len(codes) - width + 1] + np.uint64(width)
        for width in {min(width, len(codes)) for width in widths}
    ]
    return found[0] if len(found) == 1 else np.concatenate(found)


def _powers(n: int) -> tuple[_Codes, _Codes]:
    """base^i and base^-i for i < n, modulo 2^64."""
    if n > len(_POWERS[0]):
        size = 2 * n
        for at, base in enumerate((_BASE, pow(_BASE, -1, 2**64))):
            steps = np.full(size, base, np.uint64)
            steps[0] = 1
            _POWERS[at] = np.cumprod(steps, dtype=np.uint64)
    return _POWERS[0][:n], _POWERS[1][:n]


_POWERS: list[_Codes] = [np.ones(1, np.uint64), np.ones(1, np.uint64)]
