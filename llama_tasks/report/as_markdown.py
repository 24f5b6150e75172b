"""The report as GitHub-flavoured Markdown: for a README, an issue, a model card."""

from __future__ import annotations

import re
from typing import Any

from llama_tasks.report.text import (
    as_yaml,
    inline,
    interval,
    is_significant,
    metric_name,
    number,
    p_value,
    plain,
    shorten,
    shown_fields,
)
from llama_tasks.report.verdict import verdicts, way
from llama_tasks.report.words import WORDS, first_system

_EXAMPLES = 5
_CELL = 240  # characters; the page holds the whole text
_MARKUP = re.compile(r"[\\`*_\[\]~$]|:(?=[\w+/-])")  # the colon: of URLs and of :emoji:


def markdown(report: dict[str, Any]) -> str:
    """The whole report. Data is escaped: it can neither leave its cell nor become markup, a link or a mention."""
    called = _called(report)
    parts = [
        f"# {escape(report['title'])}",
        "\n".join(f"**{escape(finding.claim)}** {escape(finding.evidence)}  " for finding in verdicts(report)),
        scores_table(report),
        _counts(report["counts"], called),
        *_labels(report.get("labels") or {}, called),
        *_slices(report.get("slices") or {}, called),
        *_leaks(report.get("leaks") or {}, called),
        *_general(report.get("general") or {}, called),
        *_rows("Rows that got worse", "Those whose own value fell most.", report["regressions"], called),
        *_rows("Examples", _sampling(report), report["examples"][:_EXAMPLES], called),
        *_provenance(report),
    ]
    return "\n\n".join(parts) + "\n"


def scores_table(report: dict[str, Any]) -> str:
    """The table of scores with its signatures beneath; fits a model card."""
    compared = any("adapter" in score for score in report["scores"])
    head = ["metric", "language", "n", _called(report)["base"]] + (
        ["adapter", "difference", "p", "detectable"] if compared else []
    )
    lines = [_row(head), "|:--|:--|--:|" + "--:|" * (len(head) - 3)]
    lines += [_row(_score_cells(score, compared)) for score in report["scores"]]
    note = "Values are 0 to 100, higher is better (↓ lower, ↕ neither way), with 95% bootstrap intervals."
    if compared:
        note += (
            " Bold p-values are below 0.05, not corrected for the number of comparisons. Detectable: the smallest true"
        )
        note += " difference that a test on so many rows finds in four of five cases."
    signatures = [
        f"- {escape(metric_name(score['metric']))} ({escape(score['lang'])}): {_code(score['signature'])}"
        + (f", tested by {_code(score['method'])}" if score.get("method") else "")
        for score in report["scores"]
    ]
    return "\n".join([*lines, "", note, "", *signatures])


def _called(report: dict[str, Any]) -> dict[str, str]:
    return {"base": WORDS[first_system(report)][0], "adapter": "adapter"}


def escape(text: object) -> str:
    """Text as Markdown (CommonMark, GitHub tables) that shows exactly this text, on one line."""
    safe = _MARKUP.sub(r"\\\g<0>", plain(text))
    safe = safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    # A mention would notify a stranger each time the report is pasted into an issue.
    safe = safe.replace("@", "@&#8203;").replace("www.", "www&#46;")
    return safe.strip().replace("\n", "<br>").replace("\t", " ")


def _score_cells(score: dict[str, Any], compared: bool) -> list[str]:
    name = escape(metric_name(score["metric"])) + way(score)
    cells = [name, escape(score["lang"]), number(score["n"], 0), _value(score["base"])]
    if compared:
        p = escape(p_value(score["p_value"]))
        bounds = interval(score["difference_interval"])
        cells += [
            _value(score["adapter"]),
            f"{number(score['difference'], signed=True)} {bounds}".strip(),
            f"**{p}**" if is_significant(score["p_value"]) else p,
            number(score.get("detectable") or None),  # no row changed: nothing can be said
        ]
    return cells


def _value(score: dict[str, Any]) -> str:
    return f"{number(score['value'])} {interval(score['interval'])}".strip()


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _counts(counts: dict[str, Any], called: dict[str, str]) -> str:
    names = list(dict.fromkeys(name for system in counts.values() for name in system))
    lines = [
        _row(["answers", *(escape(called.get(system, system)) for system in counts)]),
        "|:--|" + "--:|" * len(counts),
    ]
    lines += [_row([escape(name), *(number(system.get(name), 0) for system in counts.values())]) for name in names]
    return "\n".join(["## How the systems answered", "", *lines])


def _table(head: list[str], rows: list[list[str]], words: int = 1) -> str:
    """A table whose first `words` columns are text and the others numbers."""
    return "\n".join([_row(head), "|" + ":--|" * words + "--:|" * (len(head) - words), *map(_row, rows)])


def _labels(labels: dict[str, Any], called: dict[str, str]) -> list[str]:
    parts = []
    for name, own in labels.items():
        cells = [
            [escape(row["label"]), number(row["support"], 0), number(row["predicted"], 0)]
            + [number(row[key]) for key in ("precision", "recall", "f1")]
            for row in own["table"]
        ]
        parts += [
            f"## Labels, {escape(called.get(name, name))}",
            _table(["label", "rows", "predicted", "precision", "recall", "F1"], cells),
        ]
    return parts


def _slices(slices: dict[str, Any], called: dict[str, str]) -> list[str]:
    if not slices.get("columns"):
        return []
    parts = ["## Slices", f"Means over the rows of a group ({escape(metric_name(slices['metric']))})."]
    for part in slices["columns"]:
        systems = list(part["groups"][0]["systems"])
        head = [escape(part["column"].replace("_", " ")), "rows", *(escape(called.get(name, name)) for name in systems)]
        rows = [
            [escape(group["group"]), number(group["n"], 0), *(_value(group["systems"][name]) for name in systems)]
            for group in part["groups"]
        ]
        parts.append(_table(head, rows))
    return parts


def _leaks(leaks: dict[str, Any], called: dict[str, str]) -> list[str]:
    if not leaks:
        return []
    if not leaks["checked"]:
        return ["## Leak check", f"Not done: {escape(leaks['why'])}."]
    kinds = ", ".join(f"{kind} {number(count, 0)}" for kind, count in leaks["kinds"].items())
    told = f"{number(leaks['rows'], 0)} of {number(leaks['of'], 0)} test rows are also in the training rows ({kinds})."
    systems = [name for name in ("base", "adapter") if any(name in score for score in leaks["scores"])]
    head = ["metric", "language", "n", *(f"{called[name]}, {side}" for name in systems for side in ("with", "without"))]
    rows = [
        [escape(metric_name(score["metric"])), escape(score["lang"]), number(score["n"], 0)]
        + [_value(score[name][side]) for name in systems for side in ("with", "without")]
        for score in leaks["scores"]
    ]
    return ["## Leak check", told, *([_table(head, rows, 2)] if rows else [])]


def _general(general: dict[str, Any], called: dict[str, str]) -> list[str]:
    scores = general.get("scores", [])
    if not scores:
        return []
    systems = [name for name in ("base", "adapter") if name in scores[0]]
    head = [
        "metric",
        "language",
        "texts",
        *(called[name] for name in systems),
        *(["difference", "p"] if len(systems) > 1 else []),
    ]
    rows = []
    for score in scores:
        row = [escape(metric_name(score["metric"])), escape(score["lang"]), number(score["n"], 0)]
        row += [f"{number(score[name]['value'], 3)} {interval(score[name]['interval'], 3)}" for name in systems]
        if len(systems) > 1:
            bounds = interval(score["difference_interval"], 3)
            row += [f"{number(score['difference'], 3, signed=True)} {bounds}", escape(p_value(score["p_value"]))]
        rows.append(row)
    return [
        "## General text, before and after",
        "Lower is better; a rise is what was forgotten.",
        _table(head, rows, 2),
    ]


def _sampling(report: dict[str, Any]) -> str:
    sample = report["sample"]
    return (
        f"The first {min(_EXAMPLES, len(report['examples']))} of a seeded draw from {number(sample.get('of'), 0)} rows "
        f"(seed {escape(sample.get('seed'))}), evenly over languages; not chosen by hand."
    )


def _rows(title: str, note: str, rows: list[dict[str, Any]], called: dict[str, str]) -> list[str]:
    if not rows:
        return []
    systems = [name for name in ("base", "adapter") if name in rows[0]]
    head = ["input", "reference", *(called[name] for name in systems)]
    lines = [_row(head), "|" + ":--|" * len(head)]
    for row in rows:
        texts = [" / ".join(shown_fields(row["input"]).values()), " / ".join(map(plain, row["references"] or []))]
        texts += [plain(row[name]) for name in systems]
        lines.append(_row([escape(shorten(text, _CELL)) or "*(empty)*" for text in texts]))
    return [f"## {title}", note, "\n".join(lines)]


def _provenance(report: dict[str, Any]) -> list[str]:
    known = {key: value for key, value in report["provenance"].items() if value is not None}
    facts = [f"- {escape(key)}: {escape(inline(value))}" for key, value in known.items() if key != "recipe"]
    facts.append(f"- created: {escape(report.get('created'))}")
    parts = ["## Where these numbers come from", "\n".join(facts)]
    if "recipe" in known:
        parts.append(_fenced(as_yaml(known["recipe"]), "yaml"))
    return [*parts, "To reproduce:", _fenced(plain(report["command"]), "sh")]


def _code(text: object) -> str:
    """A code span, whatever backticks the text holds (CommonMark 6.1)."""
    line = " ".join(plain(text).split())
    ticks = "`" * (_longest_ticks(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}" if line else "–"


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_ticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
