"""The report as one page: no request leaves it, it works from a file, in light and dark, on a phone.

Safety rests on three things: Jinja's autoescaping with no filter that switches it off for data; data only ever in
text or in quoted attributes that are no URL and no handler; and a policy that runs our one script, by its hash, alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llama_tasks.report import text
from llama_tasks.report.charts import interval_plots, reliability_plot, training_plots
from llama_tasks.report.content import System
from llama_tasks.report.rows import pack
from llama_tasks.report.verdict import is_better, is_worse, verdicts
from llama_tasks.report.words import LABELS, WORDS, both, first_system, metric

_OWN_PLACE = ("data", "recipe")  # parts of the provenance that are more than a line
_TRAINING = ("steps", "evaluations", "best_step", "trainable_parameters", "total_parameters", "seconds")
_MISTAKES = 6


def html(report: dict[str, Any], systems: Sequence[System] = ()) -> str:
    """The self-contained page of a report, as text; with `systems` it holds all their rows, not the report's examples alone."""
    provenance = report["provenance"]
    training = dict.fromkeys(_TRAINING) | (report.get("training") or {})
    compared = any("adapter" in score for score in report["scores"])
    names = ["base", "adapter"] if compared or "adapter" in report.get("systems", {}) else ["base"]
    labels = report.get("labels") or {}
    return draw(
        "page.html.j2",
        first=first_system(report),
        report=report,
        compared=compared,
        systems=names,
        verdicts=verdicts(report),
        scores=list(zip(report["scores"], interval_plots(report["scores"]), strict=True)),
        count_names=list(dict.fromkeys(name for system in report["counts"].values() for name in system)),
        training=training,
        training_plots=training_plots(training),
        reliability_plots={
            n: reliability_plot(own["reliability"]) for n, own in labels.items() if "reliability" in own
        },
        data=provenance.get("data") or {},
        recipe=provenance.get("recipe") or {},
        facts={key: value for key, value in provenance.items() if key not in _OWN_PLACE and value is not None},
        **rows_of(systems, [row["label"] for own in labels.values() for row in own["table"]]),
    )


def rows_of(systems: Sequence[System], labels: Sequence[str] = ()) -> dict[str, Any]:
    """What the page's list of all rows is drawn from: the rows, and what they can be filtered by."""
    packed = pack(systems, labels)
    return {
        "packed": packed,
        "languages": packed.languages if packed else [],
        "failures": packed.failures if packed else [],
    }


def draw(template: str, scripts: Sequence[str] = ("language.js", "page.js"), first: str = "base", **values: Any) -> str:
    """A page of this folder, as text; `first` as for `environment`."""
    script = "".join(map(asset, scripts))
    # The only texts that are not escaped: files of this package.
    own = {"css": Markup(asset("page.css")), "script": Markup(script), "script_hash": script_hash(script)}
    return environment(first).get_template(template).render(**own, **values)


def language_tag(code: Any) -> str:
    """The code if it can stand as an HTML `lang` (BCP 47 in shape), else nothing."""
    code = str(code or "").replace("_", "-")
    return code if re.fullmatch(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", code) else ""


def shade(share: float) -> int:
    """One of ten shades of a share, 0 to 9."""
    return min(9, int(10 * share))


def mistakes(own: dict[str, Any]) -> list[tuple[str, str | None, int]]:
    """(true label, predicted one or None, rows) of the most frequent confusions."""
    names = [row["label"] for row in own["table"]]
    found = [
        (names[true], names[predicted] if predicted < len(names) else None, count)
        for true, row in enumerate(own["confusion"])
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return sorted(found, key=lambda one: -one[2])[:_MISTAKES]


@cache
def environment(first: str = "base") -> Environment:
    """Templates of this folder, autoescaped, with the filters that make texts of data harmless. Where they say `base` they mean
    the first system, which has the words of the key `first`."""
    made = Environment(
        loader=PackageLoader("llama_tasks", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (text.plain, text.shorten, text.inline, text.shown_fields, text.as_yaml, text.metric_name, text.method_name)
    numbers = (text.number, text.interval, text.p_value, text.duration)
    for function in (*words, *numbers, text.clip, text.label, language_tag, shade, mistakes, both, metric):
        made.filters[function.__name__] = function
    own = {"base": first, "of_base": f"of_{first}"}
    made.globals |= {
        name: {**words, **{key: words[word] for key, word in own.items()}}
        for name, words in (("t", LABELS), ("words", WORDS))
    }
    made.tests |= {"better": is_better, "worse": is_worse, "significant": text.is_significant}
    return made


def asset(name: str) -> str:
    """A file of this folder: style or script of the page."""
    return resources.files("llama_tasks.report").joinpath(name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """The hash by which a content security policy names an inline script (CSP 3, section 2.3.1)."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
