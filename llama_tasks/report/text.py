"""Small pieces of text that all three renderings share: harmless strings, numbers, intervals, names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

from llama_tasks.metrics.language_model import NAMES
from llama_tasks.metrics.names import ALL

ABSENT = "–"
LONGEST = 4000  # characters of one text on a page; predictions.jsonl has the rest
SIGNIFICANT = 0.05  # the usual level; the reports print the p-value itself beside every marker

_METRIC_NAMES = {name: name.replace("_f1", " F1").replace("_", " ") for name in (*ALL, *NAMES)} | {
    "bleu": "BLEU",
    "chrf": "chrF",
    "chrf++": "chrF++",
    "ter": "TER",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "f1": "F1",
    "mcc": "MCC",
}

# ECMA-48: control strings (OSC, DCS, SOS, PM, APC) up to their terminator, control sequences (CSI), short escapes.
# No class may cross another introducer, so the search stays linear on a text made of introducers only.
_ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]*[0-~]"
)
_LINE_ENDS = re.compile(r"\r\n?|[\x85\u2028\u2029]")
# Controls, directional overrides and isolates (they reorder what stands beside them), halves of surrogate pairs.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: object) -> str:
    r"""The text without terminal escapes, control characters and directional overrides; `\n` and `\t` stay."""
    text = str(text)
    if text.isprintable():  # none of what is looked for, nor a line's end
        return text
    unescaped = _ESCAPES.sub("", text)
    return _CONTROLS.sub("", _LINE_ENDS.sub("\n", unescaped))


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters on one line; what is left out is said."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit].rstrip()} … (+{len(line) - limit:,} characters)"


def label(name: Any) -> str:
    """A name out of data (id, language, field) as one short line."""
    return shorten(plain("" if name is None else name), 80)


def clip(whole: str) -> str:
    """The text, cut where it would make a page heavy; the cut is said."""
    if len(whole) <= LONGEST:
        return whole
    return f"{whole[:LONGEST]} … ({len(whole) - LONGEST:,} more characters in predictions.jsonl)"


def metric_name(metric: object) -> str:
    """The name as the field writes it: `rougeL` -> `ROUGE-L`, `macro_f1:...` -> `macro F1:...`."""
    name, colon, options = plain(metric).partition(":")
    return _METRIC_NAMES.get(name, name) + colon + options


def method_name(signature: object) -> str:
    """The test in words, out of its signature: `paired-bootstrap|bs:1000|seed:12345` -> `paired bootstrap`."""
    return plain(signature).split("|")[0].replace("-", " ")


def shown_fields(fields: dict[str, Any] | None) -> dict[str, str]:
    """The texts of an input, without the fields that only name a language (`source_lang`, `target_language`)."""
    return {key: inline(text) for key, text in (fields or {}).items() if not key.endswith(("lang", "language"))}


def is_number(value: object) -> bool:
    """A finite number; `True`, NaN, None and text are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 1, *, signed: bool = False) -> str:
    """`41.2`, with `signed` `+41.2`; a dash where there is no number."""
    if not is_number(value):
        return ABSENT
    return f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"


def interval(bounds: Any, digits: int = 1) -> str:
    """`[38.0, 44.1]`, or nothing."""
    return f"[{number(bounds[0], digits)}, {number(bounds[1], digits)}]" if is_interval(bounds) else ""


def is_interval(bounds: Any) -> bool:
    """Two finite numbers."""
    return isinstance(bounds, Sequence) and len(bounds) == 2 and all(is_number(bound) for bound in bounds)


def p_value(p: Any) -> str:
    """`0.012`, `<0.001`, or a dash."""
    if not is_number(p):
        return ABSENT
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def is_significant(p: Any) -> bool:
    """Below the usual level of 0.05."""
    return is_number(p) and p < SIGNIFICANT


def duration(seconds: Any) -> str:
    """`3 min 12 s`, `2 h 05 min`."""
    if not is_number(seconds):
        return ABSENT
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def inline(value: Any) -> str:
    """A small value on one line: `python 3.12 · torch 2.13`."""
    if isinstance(value, dict):
        return " · ".join(f"{plain(key)} {inline(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(inline(item) for item in value)
    return ABSENT if value is None else plain(value)


def as_yaml(value: Any) -> str:
    """The recipe as its author would write it."""
    return plain(yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=100)).rstrip()
