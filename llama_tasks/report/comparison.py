"""A comparison of several systems (`llama_tasks.evaluation.systems`), for the terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llama_tasks.report.as_html import draw, rows_of
from llama_tasks.report.content import System
from llama_tasks.report.text import (
    inline,
    interval,
    is_significant,
    label,
    metric_name,
    number,
    p_value,
    plain,
    shorten,
    shown_fields,
)
from llama_tasks.report.verdict import way

_TEXT = 200  # characters of each text of an example
_EXAMPLES = 2  # of each kind, in the terminal
_GROUPS = 14  # of a slice, in the terminal


def page(result: Mapping[str, Any], systems: Sequence[System], labels: Sequence[str] = ()) -> str:
    """The comparison as one self-contained page with every row."""
    names = list(result["systems"])
    return draw(
        "comparison.html.j2",
        result=result,
        systems=names,
        count_names=list(dict.fromkeys(name for own in result["counts"].values() for name in own)),
        **rows_of(systems, labels),
    )


def terminal(result: Mapping[str, Any]) -> RenderableType:
    """Scores, pairs, slices, and a few rows that got better and worse."""
    return Group(
        _scores(result),
        Text(f"\n{result['rows']:,} rows; 95% bootstrap intervals. " + _counted(result), style="dim"),
        _pairs(result),
        Text(
            "* p < 0.05, corrected for all pairs of a metric (Holm). Detectable: the smallest true difference that such a test "
            "finds in four of five cases. ↓ lower is better, ↕ neither way. Rows of that language: better, worse, the same by "
            f"{metric_name(result['row_metric'])}.",
            style="dim",
        ),
        *[part for one in result["slices"] for part in (Text(), _slice(one))],
        *[part for one in result["outcomes"] for part in _examples(one, result["row_metric"])],
    )


def _table(*heads: str, text: int = 1, title: str = "") -> Table:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=Text(title) if title else None, title_justify="left")
    for place, head in enumerate(heads):
        shown.add_column(Text(head), justify="left" if place < text else "right", overflow="fold")
    return shown


def _value(score: Mapping[str, Any]) -> Text:
    return Text.assemble((number(score["value"]), "bold"), (f" {interval(score['interval'])}", "dim"))


def _scores(result: Mapping[str, Any]) -> Table:
    shown = _table("metric", "lang", "n", *map(label, result["systems"]), text=2)
    for score in result["scores"]:
        name, lang = f"{metric_name(score['metric'])}{way(score)}", plain(score["lang"])
        shown.add_row(Text(name), Text(lang), number(score["n"], 0), *map(_value, score["values"]))
    return shown


def _counted(result: Mapping[str, Any]) -> str:
    parts = []
    for name, own in result["counts"].items():
        failed = ", ".join(
            f"{number(count, 0)} {plain(kind)}" for kind, count in own.items() if kind != "rows" and count
        )
        parts.append(f"{label(name)}: {failed or 'no failed answer'}")
    return "; ".join(parts) + "."


def _pairs(result: Mapping[str, Any]) -> Table:
    shown = _table("metric", "lang", "pair", "difference", "p", "detectable", "rows +/-/=", text=3)
    for pair in result["pairs"]:
        bounds = interval(pair["interval"])
        shown.add_row(
            Text(f"{metric_name(pair['metric'])}{way(pair)}"), Text(plain(pair["lang"])),
            Text(f"{label(pair['a'])} → {label(pair['b'])}"),
            Text.assemble((number(pair["difference"], signed=True), "bold"), (f" {bounds}", "dim")),
            p_value(pair["p_value"]) + (" *" if is_significant(pair["p_value"]) else "  "),
            f"±{number(pair['detectable'])}" if pair["detectable"] else "–",
            f"{pair['wins']:,}/{pair['losses']:,}/{pair['ties']:,}",
        )  # fmt: skip
    return shown


def _slice(part: Mapping[str, Any]) -> RenderableType:
    systems = list(part["groups"][0]["systems"]) if part["groups"] else []
    shown = _table(label(part["column"]).replace("_", " "), "rows", *map(label, systems))
    for group in part["groups"][:_GROUPS]:
        values = [_value(group["systems"][name]) for name in systems]
        shown.add_row(Text(label(group["group"])), number(group["n"], 0), *values)
    left = len(part["groups"]) - _GROUPS
    told = [f"… and {left} more groups"] if left > 0 else []
    told += [
        f"{label(name)}: worst {label(own['group'])}, {number(own['gap'])} {interval(own['interval'])} below {label(own['best'])}"
        for name, own in part["worst"].items()
    ]
    return Group(shown, *(Text(line, style="dim") for line in told))


def _examples(one: Mapping[str, Any], metric: str) -> Iterator[RenderableType]:
    for kind, said in (("lost", "got worse"), ("won", "got better")):
        for row in one[kind][:_EXAMPLES]:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(overflow="fold")
            told = f"{plain(row['id'])} {said} by {number(abs(row['gain']))} {metric_name(metric)}"
            grid.add_row("row", Text(told, style="bold"))
            for field, value in shown_fields(row["input"]).items():
                grid.add_row(Text(shorten(plain(field), 14)), Text(shorten(plain(value), _TEXT)))
            grid.add_row("reference", Text(shorten(inline(row["references"]), _TEXT)))
            for side in ("a", "b"):
                grid.add_row(Text(label(one[side])), Text(shorten(plain(row[side]), _TEXT) or "(empty)"))
            yield Text()
            yield grid
