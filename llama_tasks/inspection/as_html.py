"""The inspection as one page, in English and Chinese: no request leaves it, it works from a file, in light and dark, on a phone.

It is safe for the reasons that the report's page is (`report/as_html.py`), by the same environment and the same policy.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from llama_tasks.inspection.gathering import Inspection, Seen
from llama_tasks.inspection.words import RULES_ZH, WORDS
from llama_tasks.report.as_html import asset, environment, script_hash
from llama_tasks.report.histograms import histogram
from llama_tasks.report.words import both

_MOST_PIECES = 1200  # of one example on the page; of longer ones head and tail


def html(found: Inspection) -> str:
    """The self-contained page, as text."""
    script = asset("language.js")
    return (
        _environment()
        .get_template("inspection.html.j2")
        .render(
            found=found,
            report=found.report,
            plots=_plots(found),
            examples=[(example, *_middle_out(example)) for example in found.examples],
            balance=_balance(found),
            words=WORDS,
            rules_zh=RULES_ZH,
            t={key: both(*pair) for key, pair in WORDS.items()},
            css=Markup(asset("page.css") + _own("page.css")),  # three files of this package
            script=Markup(script),
            script_hash=script_hash(script),
        )
    )


def _plots(found: Inspection) -> list[tuple[str, Any]]:
    prompt, response = found.report.lengths
    total = [a + b for a, b in zip(prompt, response, strict=True)]
    drawn = [("prompt", prompt, None), ("response", response, None), ("total", total, found.recipe.prompt.max_length)]
    return [(name, plot) for name, values, limit in drawn if (plot := histogram(values, limit))]


def _balance(found: Inspection) -> list[dict[str, Any]]:
    """Rows of the label table, the most frequent first: label, count in each split, share of the training rows."""
    counts = found.report.labels
    names = list(
        dict.fromkeys([name for name, _ in counts["train"].most_common()] + [n for c in counts.values() for n in c])
    )
    total, most = sum(counts["train"].values()), max(counts["train"].values(), default=0)
    return [
        {"label": name, **{split: counts[split][name] for split in counts}, "share": counts["train"][name] / max(total, 1),
         "bar": 100 * counts["train"][name] / max(most, 1)}
        for name in names
    ]  # fmt: skip


def _middle_out(example: Seen) -> tuple[list[Any], int, list[Any]]:
    """(first pieces, number of tokens left out, last pieces)."""
    pieces, half = example.pieces, _MOST_PIECES // 2
    if len(pieces) <= _MOST_PIECES:
        return pieces, 0, []
    return pieces[:half], sum(len(piece.ids) for piece in pieces[half:-half]), pieces[-half:]


@cache
def _environment() -> Environment:
    shared = environment()
    loaders = [PackageLoader("llama_tasks", "inspection"), shared.loader]
    return shared.overlay(loader=ChoiceLoader([loader for loader in loaders if loader is not None]))


def _own(name: str) -> str:
    return resources.files("llama_tasks.inspection").joinpath(name).read_text(encoding="utf-8")
