"""The inspection for a terminal of 80 columns. Texts are `rich.text.Text`, never markup strings, so `[red]` in data stays text."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import chain

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llama_tasks.clean import told
from llama_tasks.inspection.gathering import Inspection, Seen
from llama_tasks.report import plain, shorten
from llama_tasks.sources import notes

_EXAMPLES = 3
_LABELS = 12
_BAR = 24  # columns of the longest bar
_IDS = 16  # ids shown of either side


def terminal(found: Inspection) -> RenderableType:
    """Sources, lengths, labels, findings, and the first examples with their mask."""
    set_aside = (Text(plain(line), "yellow") for line in notes(found.sources))
    parts: list[RenderableType] = [Text(), _sources(found), *set_aside, *_cleaning(found), Text(), _lengths(found)]
    parts += _too_long(found)
    if any(found.report.labels["train"]):
        parts += [Text(), _labels(found)]
    parts += [Text(), *_findings(found)]
    for example in found.examples[:_EXAMPLES]:
        parts += [Text(), *_example(found, example)]
    return Group(*parts, Text())


def masked(example: Seen) -> Text:
    """The example's tokens: those that carry loss in green after `▸`, special ones inverted, every second one underlined so
    that the eye sees where one ends."""
    text = Text()
    before = False
    for index, piece in enumerate(example.pieces):
        if piece.trained and not before:
            text.append("▸", "bold green")
        before = piece.trained
        style = "green" if piece.trained else "dim"
        style += " reverse" if piece.special else (" underline" if index % 2 else "")
        text.append(piece.text, style)
    return text


def _sources(found: Inspection) -> Table:
    table = Table("split", "rows", "sha256", "source", box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.columns[1].justify = "right"
    table.columns[3].overflow = "fold"
    for name, about in found.sources.items():
        table.add_row(
            Text(name), f"{found.report.rows[name]:,}", Text(about["sha256"][:12]), Text(plain(about["source"]))
        )
    return table


def _cleaning(found: Inspection) -> Iterator[Text]:
    """What cleaning did, with the first rows of each step; and that the other splits stay as they are."""
    cleaned = {name: about["cleaning"] for name, about in found.sources.items() if "cleaning" in about}
    for name, cleaning in cleaned.items():
        yield Text(f"\ncleaned {name} ({cleaning['rows_before']:,} rows before): {told(cleaning)}")
        for step in cleaning.values():
            if isinstance(step, dict):
                yield from (Text(f"  {shorten(plain(line), 200)}", "dim") for line in step["first"])
    others = [name for name in found.sources if name not in cleaned]
    if cleaned and others:
        yield Text(f"{' and '.join(others)} rows stay as they are (clean.splits)", "dim")


def _lengths(found: Inspection) -> Table:
    prompt, response = found.report.lengths
    table = Table("tokens", "median", "95%", "longest", "", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in table.columns[1:4]:
        column.justify = "right"
    limit = f"prompt.max_length {found.recipe.prompt.max_length}"
    total = [a + b for a, b in zip(prompt, response, strict=True)]
    for name, values, note in (("prompt", prompt, ""), ("response", response, "with EOS"), ("both", total, limit)):
        if len(values):
            ordered = sorted(values)
            numbers = (statistics.median(ordered), ordered[len(ordered) * 95 // 100], ordered[-1])
            table.add_row(name, *(f"{number:,.0f}" for number in numbers), Text(note, "dim"))
    return table


def _too_long(found: Inspection) -> Iterator[Text]:
    """What happens to training rows that are too long, with the first of them; where a training stops on them a finding says so."""
    if found.recipe.prompt.on_too_long == "error":
        return
    cut = f" ({found.answer_cut:,} of them because shortening would cut out the answer)" if found.answer_cut else ""
    for done, (total, first), why in (("dropped, too long", found.dropped, cut), ("shortened", found.shortened, "")):
        if total:
            yield Text(plain(f"{done}: {total:,}{why}, first {', '.join(map(found.where, first))}"), "yellow")


def _labels(found: Inspection) -> Table:
    counts = found.report.labels["train"].most_common()
    table = Table(
        f"label ({len(counts)})", "rows", "", box=None, padding=(0, 2, 0, 0), header_style="dim", title_justify="left"
    )
    table.columns[1].justify = "right"
    total, most = sum(count for _, count in counts), counts[0][1]
    for label, count in counts[:_LABELS]:
        bar = Text("▇" * max(1, round(_BAR * count / most)), "green").append(f" {100 * count / total:.1f}%", "dim")
        table.add_row(Text(shorten(plain(label), 30)), f"{count:,}", bar)
    if len(counts) > _LABELS:
        rest = counts[_LABELS:]
        table.add_row(
            Text(f"{len(rest)} more", "dim"), f"{sum(c for _, c in rest):,}", Text(f"the rarest {rest[-1][1]:,}", "dim")
        )
    return table


def _findings(found: Inspection) -> Iterator[Text]:
    stops = found.stops
    allowed = any(finding.stops for finding in found.report.findings)
    if found.may_start and not allowed:
        yield Text("audit: a training may start. Every example has its target and EOS in the loss, one BOS at most, no cut target; "
                   "no scored row is trained on to the letter or once normalised.", "green")  # fmt: skip
    elif found.may_start:
        yield Text("audit: a training may start, with what prompt.allow allows.", "yellow")
    if found.refused is not None:
        yield Text.assemble(("✗", "bold red"), f" the evaluation could not be made: {plain(str(found.refused))}")
    for finding in found.report.findings:
        mark, style = ("✗", "bold red") if finding in stops else ("•", "yellow")
        allow = f" (prompt.allow=[{finding.switch}])" if finding.switch else ""
        line = f" {plain(finding.explanation)}{allow}: {finding.total:,}, first {plain(finding.named(found.where))}"
        yield Text.assemble((mark, style), line)
    looked, rows_of = found.report.near_rows, found.report.rows
    if any(looked[name] < rows_of[name] for name in looked):
        sample = ", ".join(f"{looked[name]:,} of {rows_of[name]:,} {name} rows" for name in looked)
        yield Text(f"near duplicates were looked for among {sample}", "dim")


def _example(found: Inspection, example: Seen) -> Iterator[Text]:
    title = f"{found.where(example.id)}: {example.length} tokens, {example.trained} carry loss"
    yield Text(plain(title), "bold")
    yield masked(example)
    sides = [list(chain.from_iterable(p.ids for p in example.pieces if p.trained == side)) for side in (False, True)]
    yield Text(f"ids {_some(sides[0])} ▸ {_some(sides[1])}", "dim")


def _some(ids: list[int]) -> str:
    """The ids, the middle of many left out."""
    if len(ids) <= _IDS:
        return " ".join(map(str, ids))
    half = _IDS // 2
    return f"{' '.join(map(str, ids[:half]))} … {' '.join(map(str, ids[-half:]))}"
