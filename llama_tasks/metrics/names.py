"""Names of metrics: what they may be followed by, what several of them are called together.

bleu    bleu:tok=intl    rougeL:stem=yes    f1:norm=squad2:rows=hasans    rouge (all four)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from llama_tasks.errors import MetricError
from llama_tasks.metrics.bleu import TOKENIZERS
from llama_tasks.metrics.language_model import NAMES as LANGUAGE_MODELS

_YES_NO = ("yes", "no")
_CASE = ("mixed", "lc")
_WORDS = ("unicode", "jieba")
_TEXT = {"case": _CASE}
_COUNTED = {"tok": _WORDS}
_ROUGE = {"tok": (*_WORDS, "rouge_score"), "stem": _YES_NO}
_ANSWER = {"norm": ("squad1", "squad2", "mlqa", "cmrc"), "rows": ("all", "hasans", "noans")}

TRANSLATION = ("bleu", "chrf", "chrf++", "ter")
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SUMMARY = ("length_ratio", "novelty", "copy_rate", "copy_density")
ANSWERS = ("exact_match", "f1")
LABELS = (
    *("accuracy", "balanced_accuracy"),
    *(f"{average}_{what}" for average in ("macro", "micro", "weighted") for what in ("f1", "precision", "recall")),
    "mcc",
)
CALIBRATION = ("calibration_error",)
LANGUAGE_FREE = (*LABELS, *CALIBRATION)
"""They compare labels, not text."""
ALL = (*TRANSLATION, *ROUGE, *SUMMARY, *ANSWERS, *LABELS, *CALIBRATION)

OPTIONS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "bleu": {"tok": TOKENIZERS, "case": _CASE},
    "ter": {"norm": _YES_NO, "asian": _YES_NO, "punct": _YES_NO, "case": _CASE},
    **dict.fromkeys(("chrf", "chrf++"), _TEXT),
    **dict.fromkeys(ROUGE, _ROUGE),
    "rougeLsum": {**_ROUGE, "sent": ("rule", "newline")},
    **dict.fromkeys(("length_ratio", "copy_rate", "copy_density"), _COUNTED),
    "novelty": {"tok": _WORDS, "n": ("1", "2", "3", "4")},
    **dict.fromkeys(ANSWERS, _ANSWER),
    "calibration_error": {"bins": ("5", "10", "15", "20")},
}

_TOGETHER = {
    "translation": TRANSLATION,
    "rouge": ROUGE,
    "summary": SUMMARY,
    "classification": LABELS,
    "squad1": tuple(f"{name}:norm=squad1" for name in ANSWERS),
    "squad2": tuple(f"{name}:norm=squad2{rows}" for rows in ("", ":rows=hasans", ":rows=noans") for name in ANSWERS),
    "mlqa": tuple(f"{name}:norm=mlqa" for name in ANSWERS),
    "cmrc": tuple(f"{name}:norm=cmrc" for name in ANSWERS),
}


def expand(name: str) -> tuple[str, ...]:
    """The metrics that `name` stands for: itself, or those of a group (`rouge:stem=yes` is four, with the option)."""
    group, colon, options = name.partition(":")
    return tuple(f"{one}{colon}{options}" for one in _TOGETHER.get(group, (group,)))


def is_language_free(name: str) -> bool:
    """Whether the metric (or every one of the group) compares labels, not text, so that rows need no language."""
    return all(parse(one)[0] in LANGUAGE_FREE for one in expand(name))


def groups() -> tuple[str, ...]:
    """The names that stand for several metrics."""
    return tuple(_TOGETHER)


def parse(name: str, own: Iterable[str] = ()) -> tuple[str, dict[str, str]]:
    """`bleu:tok=intl` -> ("bleu", {"tok": "intl"}); `own` names of a task are told as known too.

    Raises:
        MetricError: a name, an option or a value that does not exist.
    """
    kind, *parts = str(name).split(":")
    if kind in LANGUAGE_MODELS:
        raise MetricError(
            f"{kind} is of plain text, not of predictions and references: score rows {{nll, tokens, bytes}} with "
            f"`llama-tasks score --metric {kind} rows.jsonl`, or in Python metrics.LanguageModel({kind!r}); a recipe says "
            "`eval.scoring: perplexity`"
        )
    if kind not in ALL:
        known_here = [*own, *ALL]
        raise MetricError(f"there is no metric {kind!r}{suggest(kind, known_here)} Known are {', '.join(known_here)}")
    allowed, options = OPTIONS.get(kind, {}), {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise MetricError(f"metric {name!r}: {kind} has no option {key!r}{suggest(key, allowed)} Known: {known}")
        if value not in allowed[key]:
            raise MetricError(f"metric {name!r}: {key}={value or '?'} is not one of {', '.join(allowed[key])}")
        if key in options:
            raise MetricError(f"metric {name!r} names {key} twice")
        options[key] = value
    return kind, options


def suggest(name: str, known: Iterable[str]) -> str:
    """ ": did you mean 'rougeL'?" where one is close, and "." otherwise."""
    plain = {one.lower().replace("_", ""): one for one in known}
    wanted = name.lower().replace("_", "").replace("-", "").replace(" ", "")
    close = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.6)
    return f": did you mean {plain[close[0]]!r}?" if close else "."
