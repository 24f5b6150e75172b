"""The report for the terminal. Texts are `rich.text.Text`, never markup strings, so `[red]` in data stays text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llama_tasks.report.text import (
    inline,
    interval,
    is_significant,
    method_name,
    metric_name,
    number,
    p_value,
    plain,
    shorten,
    shown_fields,
)
from llama_tasks.report.verdict import asides, is_better, is_worse, verdicts, way
from llama_tasks.report.words import WORDS, first_system

_EXAMPLES = 2
_TEXT = 160  # characters of each text of an example
_WIDE = 110  # columns from which a value and its interval share a line


def terminal(report: dict[str, Any]) -> RenderableType:
    """The verdict, the scores, the counts, two example rows and the provenance; legible from 80 columns on."""
    first = WORDS[first_system(report)][0]
    parts: list[RenderableType] = [Text()]
    parts += [Text.assemble((finding.claim, "bold"), " ", finding.evidence) for finding in verdicts(report)]
    parts += [Text(), _Scores(report), _counts(report["counts"], first), *map(Text, asides(report))]
    for example in report["examples"][:_EXAMPLES]:
        parts += [Text(), _example(example, first)]
    return Group(*parts, Text(), _provenance(report), Text())


@dataclass(frozen=True)
class _Scores:
    """The table of scores; in a narrow terminal the intervals go under their values."""

    report: dict[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        gap = " " if options.max_width >= _WIDE else "\n"
        scores = self.report["scores"]
        compared = any("adapter" in score for score in scores)
        key = first_system(self.report)
        alone = "the base model" if key == "base" else f"the {WORDS[key][0]}"
        about = "base and adapter on the same rows" if compared else alone
        title = Text(f"{plain(self.report['title'])}: {about}")
        table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("metric", overflow="fold")
        table.add_column("lang", overflow="fold")
        for head in ["n", WORDS[key][0]] + (["adapter", "difference", "p"] if compared else []):
            table.add_column(head, justify="right", no_wrap=True)
        for score in scores:
            table.add_row(*_score_cells(score, gap, compared))
        yield table
        yield Text(_note(scores, compared), style="dim")


def _score_cells(score: dict[str, Any], gap: str, compared: bool) -> list[Text]:
    cells = [
        Text(f"{metric_name(score['metric'])}{way(score)}"),
        Text(plain(score["lang"])),
        Text(number(score["n"], 0)),
    ]
    cells.append(_value(number(score["base"]["value"]), interval(score["base"]["interval"]), gap))
    if compared:
        style = "green" if is_better(score) else "red" if is_worse(score) else ""
        bounds = interval(score["difference_interval"])
        marker = " *" if is_significant(score["p_value"]) else "  "
        cells += [
            _value(number(score["adapter"]["value"]), interval(score["adapter"]["interval"]), gap),
            _value(number(score["difference"], signed=True), bounds, gap, style),
            Text(p_value(score["p_value"]) + marker),
        ]
    return cells


def _value(value: str, bounds: str, gap: str, style: str = "") -> Text:
    return Text.assemble((value, f"bold {style}"), (f"{gap}{bounds}" if bounds else "", "dim"))


def _note(scores: list[dict[str, Any]], compared: bool) -> str:
    note = "0 to 100, higher is better (↓ lower, ↕ neither way); [95% bootstrap interval]."
    if not compared:
        return note
    methods = ", ".join(dict.fromkeys(method_name(score["method"]) for score in scores if score.get("method")))
    return f"{note} * p < 0.05{f' ({methods})' if methods else ''}."


def _counts(counts: dict[str, Any], first: str) -> RenderableType:
    """`base     300 rows · 2 empty (0.7%) · ...`, one line a system."""
    grid = Table.grid(padding=(0, 2))
    for name, system in counts.items():
        rows = system.get("rows")
        parts = [_count(key, value, rows) for key, value in system.items()]
        grid.add_row(Text(first if name == "base" else plain(name), style="bold"), Text(" · ".join(parts)))
    return Padding(grid, (1, 0, 0, 0))


def _count(name: str, value: Any, rows: Any) -> str:
    share = f" ({100 * value / rows:.1f}%)" if name != "rows" and value and rows else ""
    return f"{number(value, 0)} {plain(name)}{share}"


def _example(example: dict[str, Any], first: str) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("example", Text(shorten(plain(f"{example['id']} ({example['lang']})"), 80), style="dim"))
    for field, value in shown_fields(example["input"]).items():
        grid.add_row(Text(shorten(plain(field), 12)), _text(value))
    grid.add_row("reference", _text(" / ".join(map(plain, example["references"] or []))))
    for system in ("base", "adapter"):
        if system in example:
            grid.add_row(
                Text(first if system == "base" else system, style="bold not dim"), _text(plain(example[system]))
            )
    return grid


def _text(text: str) -> Text:
    return Text(shorten(text, _TEXT)) if text.strip() else Text("(empty)", style="dim italic")


def _provenance(report: dict[str, Any]) -> Text:
    provenance = report["provenance"]
    facts = [("llama-tasks", "llama_tasks", 20), ("base", "base_model", 60), ("revision", "base_revision", 12)]
    facts += [("git", "git", 12), ("seed", "seed", 12)]
    known = [(label, inline(provenance[key])[:most]) for label, key, most in facts if provenance.get(key) is not None]
    parts = [f"{label} {' '.join(value.split())}" for label, value in known]
    return Text(" · ".join([*parts, f"created {plain(report['created'])}"]), style="dim")
