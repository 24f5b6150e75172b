"""Several systems on the same rows: scores, which differences are more than chance, where they lie, which rows won and lost.

    systems = [read("runs/a"), read("runs/b"), read("other/predictions.jsonl")]
    result = compare(systems, metrics=["rougeL"])    # what --json prints; docs/report.md has its fields

Rows are matched by their id (lines of text by their number). No torch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_tasks import metrics
from llama_tasks.errors import DataError, MetricError, RunError
from llama_tasks.evaluation import scoring, slices
from llama_tasks.evaluation.pairs import outcome, pairs
from llama_tasks.evaluation.score_files import choices_of, read_rows
from llama_tasks.metrics.names import LABELS, is_language_free
from llama_tasks.recipe import Suite
from llama_tasks.report import System
from llama_tasks.rundir import RunDirectory
from llama_tasks.tasks import Task, create

FORMAT = 1
NAMED = 5  # ids that an error names
# What a row must have alike in every system, and what to say where it has not.
_SAME = (
    ("references", "references", "they were not asked the same"),
    ("lang", "languages", "give --lang, such as --lang en"),
)

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Compared:
    """A comparison as plain JSON values, and the systems that it is of."""

    result: dict[str, Any]
    systems: list[System]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Side:
    """One system to compare: where it is from, its rows, and the suite and task of its run, if it has one."""

    name: str
    rows: Rows
    suite: Suite | None = None
    task: Task | None = None


def read(path: str | Path, references: Sequence[Path] = (), source: Path | None = None) -> Side:
    """A run directory (its adapter's answers, or its only ones), a predictions.jsonl, or lines of text with `references`.

    Raises:
        RunError: a run without predictions. DataError: a file that cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"There is no file and no run {path}.")
    if path.is_dir():
        run = RunDirectory(path)
        recipe = run.recipe()
        files = [path / "eval" / name / "predictions.jsonl" for name in ("adapter", "base")]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise RunError(f"{path} has no predictions yet; `llama-tasks evaluate {path}` makes them.")
        task = create(recipe.task, recipe.data.labels, recipe.prompt)
        return Side(str(path), read_rows(found, []), recipe.eval, task)
    is_rows = path.suffix == ".jsonl"
    rows = read_rows(path, [] if is_rows else references, None if is_rows else source)
    return Side(str(path), [{"id": str(number), "input": _source(row), **row} for number, row in enumerate(rows, 1)])


def compare(
    sides: Sequence[Side],
    names: Sequence[str] = (),
    lang: str | None = None,
    labels: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    n_resamples: int = 1000,
    seed: int = 12345,
) -> Compared:
    """Compare systems as the first one's rows ask for.

    names: metrics; by default those of the first run's suite. columns: to slice by, beside those that are always looked at.

    Raises:
        DataError: fewer than two systems, other rows, or no such column. MetricError: no metric, or one that does not fit.
    """
    if len(sides) < 2:
        raise DataError("There is one system; give two or more to compare.")
    called = _short_names([side.name for side in sides])
    rows = _aligned(sides, called, lang or _no_language(sides, names))
    if not rows[0]:
        raise DataError(f"{sides[0].name} has no rows to compare.")
    suite, task = _measures(sides, rows[0], names, labels, n_resamples, seed)
    _check_labels(rows[0], suite, task)
    optional = _parts_of_groups(names)
    systems = [_scored(name, own, suite, task, optional) for name, own in zip(called, rows, strict=True)]
    values = {system.name: system.row_values for system in systems}
    drawn = {"n_resamples": n_resamples, "seed": seed}
    found = slices.slices(rows[0], values, **drawn)
    asked = [slices.slice_by(rows[0], name, values, **drawn) for name in columns]
    result = {
        "format": FORMAT,
        "systems": {system.name: side.name for system, side in zip(systems, sides, strict=True)},
        "rows": len(rows[0]),
        "row_metric": systems[0].row_metric,
        "scores": [_joined(own) for own in zip(*(system.scores for system in systems), strict=True)],
        "counts": {system.name: dict(system.counts) for system in systems},
        "pairs": list(pairs(systems, suite, task, optional)),
        "outcomes": [outcome(a, b) for a, b in itertools.combinations(systems, 2)],
        "slices": asked + [part for part in found if part["column"] not in columns],
    }
    return Compared(result, systems, task.labels)


def _source(row: Mapping[str, Any]) -> dict[str, str]:
    return {"source": row["source"]} if "source" in row else {}


def _no_language(sides: Sequence[Side], names: Sequence[str]) -> str | None:
    """What stands for the language where no row names one and no metric reads it."""
    told = any("lang" in row for side in sides for row in side.rows)
    return scoring.EVERY if names and not told and all(map(is_language_free, names)) else None


def _short_names(names: Sequence[str]) -> list[str]:
    """The parts of paths that tell them apart: runs/a/eval/adapter/predictions.jsonl and the same of runs/b are a and b. A path
    that comes several times is numbered."""
    paths = [tuple(part for part in Path(name).with_suffix("").parts if part != "/") for name in names]
    different = list(dict.fromkeys(paths))
    short = dict(zip(different, _told_apart(different), strict=True))
    times = Counter(paths)
    return [
        short[path] if times[path] == 1 else f"{short[path]}#{paths[: place + 1].count(path)}"
        for place, path in enumerate(paths)
    ]


def _told_apart(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The last parts of paths, as few as there have to be; `predictions` says nothing of whose they are."""
    folders = [path[:-1] if path[-1] == "predictions" and len(path) > 1 else path for path in paths]
    parts = folders if len(set(folders)) == len(paths) else list(paths)
    while len(parts) > 1 and all(len(own) > 1 for own in parts) and len({own[-1] for own in parts}) == 1:
        parts = [own[:-1] for own in parts]
    for depth in range(1, max(map(len, parts)) + 1):
        short = ["/".join(own[-depth:]) for own in parts]
        if len(set(short)) == len(short):
            break
    return short


def _aligned(sides: Sequence[Side], called: Sequence[str], lang: str | None) -> list[list[dict[str, Any]]]:
    """The rows of every system in the order of the first one's. Raises DataError where they are not the same ones."""
    tables = []
    for name, side in zip(called, sides, strict=True):
        table = {
            str(row["id"]): {**row, "id": str(row["id"]), **({"lang": lang} if lang else {})}
            for row in side.rows
            if "id" in row
        }
        if len(table) < len(side.rows):
            raise DataError(
                f"{side.name}: {len(side.rows) - len(table)} rows have no id of their own; rows are matched by it."
            )
        tables.append(table)
        odd = [row for row in {**tables[0], **table} if row not in tables[0] or row not in table]
        if odd:
            first = ", ".join(odd[:NAMED])
            raise DataError(
                f"{called[0]} and {name} hold different rows: {len(odd)} ids are in one only, first {first}. Compare systems "
                "on the same test rows."
            )
    asked = tables[0]
    for name, table in zip(called, tables, strict=True):
        for key, said, told in _SAME:
            other = [row for row in asked if table[row].get(key) != asked[row].get(key)]
            if other:
                raise DataError(
                    f"{called[0]} and {name} have other {said} in {len(other)} rows, first {', '.join(other[:NAMED])}; {told}."
                )
    return [[table[row] for row in asked] for table in tables]


def _measures(
    sides: Sequence[Side], rows: Rows, names: Sequence[str], labels: Sequence[str] | None, n_resamples: int, seed: int
) -> tuple[Suite, Task]:
    own = next((side for side in sides if side.suite is not None), None)
    wanted = [one for name in names for one in metrics.expand(name)] or (
        list(own.suite.metrics) if own and own.suite else []
    )
    if not wanted:
        raise MetricError("None of these systems is a run with a suite; say what to measure, such as --metric chrf.")
    lacking = next((str(row["id"]) for row in rows if "lang" not in row), None)
    if lacking is not None:
        raise MetricError(f"row {lacking} does not say its language; give --lang, such as --lang en")
    known = labels or (own.task.labels if own and own.task else None) or choices_of(rows)
    task = own.task if own and own.task and not labels else Task(known)
    return Suite(metrics=wanted, n_resamples=n_resamples, seed=seed), task


def _check_labels(rows: Rows, suite: Suite, task: Task) -> None:
    """Raise MetricError where labels are measured and there is no set of them, or a row's own is not in it."""
    named = [name for name in suite.metrics if name not in task.metrics and metrics.parse(name)[0] in LABELS]
    if not named:
        return
    if not task.labels:
        raise MetricError(
            f"{named[0]} compares labels; say which there are: --labels, such as --labels positive,negative."
        )
    for row in rows:
        truth = row.get("references")
        if not isinstance(truth, list):  # the metric says so
            continue
        wrong = [label for label in truth if label not in task.labels]
        if wrong:
            raise MetricError(
                f"{row['id']}: the true label {wrong[0]!r} is not among the labels {', '.join(task.labels)}; add it to --labels, "
                "or mend the row."
            )


def _parts_of_groups(names: Sequence[str]) -> set[str]:
    """Metrics that nobody named by itself and that are about a part of the rows: of `squad2`, those of answerable ones ..."""
    groups = [several for several in map(metrics.expand, names) if len(several) > 1]
    return {one for several in groups for one in several if metrics.parse(one)[1].get("rows", "all") != "all"}


def _of_every_row(name: str) -> str:
    """`f1:norm=squad2:rows=noans` -> `f1:norm=squad2`"""
    return ":".join(part for part in name.split(":") if not part.startswith("rows="))


def _scored(name: str, rows: Rows, suite: Suite, task: Task, optional: Collection[str]) -> System:
    # Of one row alone a metric must say which way is better; chrF does of any text.
    names = [one for one in map(_of_every_row, suite.metrics) if one in task.metrics or metrics.may_lead(one)]
    lead, values = scoring.row_values(rows, replace(suite, metrics=names or ["chrf"]), task)
    counts = metrics.count(rows, task.labels or None)
    return System(name, scoring.score(rows, suite, task, optional), counts, rows, values, lead)


def _joined(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One score of every system; the name is added by the order."""
    row = {key: scores[0][key] for key in ("metric", "lang", "n", "signature", "higher_is_better")}
    return row | {"values": [{key: score[key] for key in ("value", "interval")} for score in scores]}
