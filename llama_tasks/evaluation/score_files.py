"""Scores of files that need no run: lines of text against lines of text, or the rows of a predictions.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llama_tasks import metrics
from llama_tasks.errors import DataError, MetricError
from llama_tasks.evaluation.scoring import EVERY
from llama_tasks.metrics import language_model
from llama_tasks.metrics.names import LABELS, is_language_free, parse
from llama_tasks.report.text import plain
from llama_tasks.rundir import read_jsonl

Rows = list[dict[str, Any]]

_OBJECT = "an object {name: value}"
_NUMBER = "a number"
_TRUTH = "true or false"
_LOSS = ("nll", "tokens", "bytes")
_FORMS: tuple[tuple[str, Any, str], ...] = (
    ("lang", str, "a language code"),
    ("source", str, "the text that was summarised"),
    ("failure", str, "the name of a failure"),
    *((key, bool, _TRUTH) for key in ("shortened", "answer_cut")),
    *((key, dict, _OBJECT) for key in ("choices", "input", "meta")),
    *((key, int | float, _NUMBER) for key in _LOSS),
)
_OPTIONAL = {key for key, *_ in _FORMS}  # null says that a row has none


def read_rows(predictions: Path, references: Sequence[Path], source: Path | None = None) -> Rows:
    """Rows {prediction, references, source?}: line i of every file, or the objects of one .jsonl.

    Raises:
        DataError: a file is missing, is not UTF-8, or has another number of lines; references beside a .jsonl, or none
            beside a text; a row of a .jsonl of another form. RunError: a .jsonl that is missing or broken.
    """
    if predictions.suffix == ".jsonl":
        if references or source:
            raise DataError(f"{predictions} has its references and sources in its rows; leave the other files out.")
        return [_checked(row, predictions, number) for number, row in enumerate(read_jsonl(predictions, whole=True), 1)]
    if not references:
        raise DataError(f"{predictions} needs at least one file of references after it, one a line.")
    lines = _lines(predictions)
    others = [_lines(path) for path in (*references, *([source] if source else []))]
    for path, found in zip([*references, source], others, strict=False):
        if len(found) != len(lines):
            raise DataError(
                f"{path} has {len(found)} lines, and {predictions} has {len(lines)}; line i answers line i."
            )
    rows = []
    for prediction, *texts in zip(lines, *others, strict=True):
        row = {"prediction": prediction, "references": texts[: len(references)]}
        rows.append({**row, "source": texts[-1]} if source else row)
    return rows


def score_rows(
    rows: Rows,
    names: Sequence[str],
    lang: str | None,
    labels: Sequence[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 12345,
) -> dict[str, Any]:
    """Every metric by language: {scores, counts}, and for labels {labels, confusion}, for calibration {reliability}. What has
    no value (all references empty, say) stands in {without_value: [{metric, lang, why}]} beside the others.

    Raises:
        MetricError: an unknown metric, rows that lack what it reads or that it does not fit, no language (labels and losses
            need none), or no value at all.
    """
    if not rows:
        raise MetricError("there are no rows to score")
    labels = labels or choices_of(rows) or None
    result: dict[str, Any] = {"scores": []}
    failed: list[tuple[str, str, MetricError]] = []
    for name in names:
        for one in metrics.expand(name):
            for code, part in _by_language(rows, lang, _is_language_free(one)).items():
                try:
                    score = _scored(one, code, part, labels, n_resamples=n_resamples, seed=seed)
                    result["scores"].append(score.to_dict())
                except (metrics.NoRows, metrics.TooLarge) as error:
                    if one == name or not _is_of_a_part(one):  # nobody asked for that part of a group
                        failed.append((one, code, error))
            result |= _pictures(one, rows, labels)
    if failed and not result["scores"]:
        raise failed[0][-1]
    if failed:
        result["without_value"] = [{"metric": one, "lang": code, "why": str(why)} for one, code, why in failed]
    if all(name in language_model.NAMES for name in names):
        return result
    return result | {"counts": metrics.count(rows, labels)}


def choices_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The choices that all rows have; none where they differ, as in multiple choice, or are missing."""
    first, *others = [list(row.get("choices") or []) for row in rows]
    return first if all(set(other) == set(first) for other in others) else []


def table(result: Mapping[str, Any]) -> RenderableType:
    """The result of `score_rows` for a terminal: values, signatures, counts, and the tables of labels."""
    scores = Table(box=None, pad_edge=False)
    for heading in ("metric", "lang", "value", "95% interval", "n"):
        scores.add_column(heading, justify="left" if heading in ("metric", "lang") else "right")
    for score in result["scores"]:
        low, high = score["interval"]
        scores.add_row(
            Text(score["metric"]), score["lang"], f"{score['value']:.2f}", f"{low:.2f} to {high:.2f}", str(score["n"])
        )
    for lacking in result.get("without_value", ()):
        scores.add_row(Text(lacking["metric"]), lacking["lang"], "no value", "", "")
    parts: list[RenderableType] = [scores, *(Text(lacking["why"]) for lacking in result.get("without_value", ()))]
    if "counts" in result:
        parts.append(Text("\n" + ", ".join(f"{name} {number}" for name, number in result["counts"].items())))
    if "labels" in result:
        parts += [Text(), _label_table(result["labels"]), Text(), _confusion(result["labels"], result["confusion"])]
    parts.append(Text())
    return Group(
        *parts, *(Text(f"{s['metric']} ({s['lang']}): {s['signature']}", style="dim") for s in result["scores"])
    )


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}).") from None
    # Not splitlines: it also cuts at characters that belong to a text, such as a carriage return within a line.
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _checked(row: Any, path: Path, number: int) -> dict[str, Any]:
    """The row, if what is read beside its texts has the form that it must have (the metrics look at the texts)."""
    if not isinstance(row, dict):
        raise DataError(f"{path}, row {number}: it must hold one object a line, {{prediction, references, ...}}.")
    for key, kind, said in _FORMS:
        if row.get(key) is not None and not isinstance(row[key], kind):
            raise DataError(f"{path}, row {number}: `{key}` must be {said}, not {row[key]!r:.40}.")
    if not all(isinstance(value, int | float) for value in (row.get("choices") or {}).values()):
        raise DataError(f"{path}, row {number}: `choices` must give each label its log-likelihood, a number.")
    return {key: value for key, value in row.items() if value is not None or key not in _OPTIONAL}


def _scored(name: str, lang: str, rows: Rows, labels: Sequence[str] | None, **drawn: int) -> metrics.Score:
    if name not in language_model.NAMES:
        return metrics.score_rows(metrics.create(name, lang, labels), rows, **drawn)
    measure = metrics.LanguageModel(name, lang)
    for index, row in enumerate(rows):
        lacking = [key for key in _LOSS if key not in row]
        if lacking:
            raise MetricError(f"{name}: row {index} has no {', '.join(lacking)}; such rows are {{nll, tokens, bytes}}")
    return metrics.score_statistics(
        measure, measure.statistics(*([row[key] for row in rows] for key in _LOSS)), **drawn
    )


def _is_language_free(name: str) -> bool:
    return name in language_model.NAMES or is_language_free(name)


def _is_of_a_part(name: str) -> bool:
    """Whether the metric is about a part of the rows: those with an answer, those without."""
    return name not in language_model.NAMES and parse(name)[1].get("rows", "all") != "all"


def _by_language(rows: Rows, lang: str | None, free: bool) -> dict[str, Rows]:
    if lang:
        return {lang: rows}
    if free and any("lang" not in row for row in rows):
        return {EVERY: rows}
    parts: dict[str, Rows] = {}
    for index, row in enumerate(rows):
        if "lang" not in row:
            raise MetricError(f"row {index} does not say its language; give --lang, such as --lang en")
        parts.setdefault(row["lang"], []).append(row)
    return dict(sorted(parts.items()))


def _pictures(name: str, rows: Rows, labels: Sequence[str] | None) -> dict[str, Any]:
    kind = name if name in language_model.NAMES else parse(name)[0]
    if kind in LABELS and labels:
        texts = [row["prediction"] for row in rows], [row["references"] for row in rows]
        return {"labels": metrics.label_table(*texts, labels), "confusion": metrics.confusion(*texts, labels)}
    if kind == "calibration_error":
        return {"reliability": metrics.reliability(metrics.row_statistics(metrics.create(name, "en"), rows))}
    return {}


def _label_table(labels: Sequence[Mapping[str, Any]]) -> Table:
    shown = Table("label", box=None, pad_edge=False)
    for heading in ("precision", "recall", "f1", "rows", "predicted"):
        shown.add_column(heading, justify="right")
    for row in labels:
        values = (f"{row[key]:.2f}" for key in ("precision", "recall", "f1"))
        shown.add_row(Text(plain(row["label"])), *values, str(row["support"]), str(row["predicted"]))
    return shown


def _confusion(labels: Sequence[Mapping[str, Any]], matrix: Sequence[Sequence[int]]) -> Table:
    shown = Table("true \\ predicted", box=None, pad_edge=False)
    for label in labels:
        shown.add_column(Text(plain(label["label"])), justify="right")
    shown.add_column("none of them", justify="right")
    for label, row in zip(labels, matrix, strict=True):
        shown.add_row(Text(plain(label["label"])), *map(str, row))
    return shown
