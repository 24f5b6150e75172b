"""The report as one page: no request leaves it, it works from a file, in light and dark, on a phone.

Safety rests on three things: Jinja's autoescaping with no filter that switches it off for data; data only ever in
text or in quoted attributes that are no URL and no handler; and a policy that runs our one script, by its hash, alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llama_tasks.report import text
from llama_tasks.report.charts import interval_plots, training_plots
from llama_tasks.report.verdict import is_better, is_worse, verdicts

_LONGEST = 4000  # characters of one text on the page; predictions.jsonl has the rest
_OWN_PLACE = ("data", "recipe")  # parts of the provenance that are more than a line
_TRAINING = ("steps", "evaluations", "best_step", "trainable_parameters", "total_parameters", "seconds")


def html(report: dict[str, Any]) -> str:
    """The self-contained page of a report, as text."""
    provenance = report["provenance"]
    plots = interval_plots(report["scores"])
    training = dict.fromkeys(_TRAINING) | (report.get("training") or {})
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            compared=any("adapter" in score for score in report["scores"]),
            verdicts=verdicts(report),
            scores=list(zip(report["scores"], plots, strict=True)),
            count_names=list(dict.fromkeys(name for system in report["counts"].values() for name in system)),
            training=training,
            training_plots=training_plots(training),
            languages=sorted({label(row["lang"]) for row in report["examples"]}),
            data=provenance.get("data") or {},
            recipe=provenance.get("recipe") or {},
            facts={key: value for key, value in provenance.items() if key not in _OWN_PLACE and value is not None},
            # The only texts that are not escaped: two files of this package.
            css=Markup(asset("page.css")),
            script=Markup(asset("page.js")),
            script_hash=script_hash(asset("page.js")),
        )
    )


def language_tag(code: Any) -> str:
    """The code if it can stand as an HTML `lang` (BCP 47 in shape), else nothing."""
    code = str(code or "").replace("_", "-")
    return code if re.fullmatch(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", code) else ""


def label(name: Any) -> str:
    """A name out of data (id, language, field) as one short line."""
    return text.shorten(text.plain("" if name is None else name), 80)


def clip(whole: str) -> str:
    """The text, cut where it would make the page heavy; the cut is said."""
    if len(whole) <= _LONGEST:
        return whole
    return f"{whole[:_LONGEST]} … ({len(whole) - _LONGEST:,} more characters in predictions.jsonl)"


@cache
def environment() -> Environment:
    """Templates of this folder, autoescaped, with the filters that make texts of data harmless."""
    made = Environment(
        loader=PackageLoader("llama_tasks", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (text.plain, text.shorten, text.inline, text.shown_fields, text.as_yaml, text.metric_name, text.method_name)
    numbers = (text.number, text.interval, text.p_value, text.duration)
    for function in (*words, *numbers, clip, label, language_tag):
        made.filters[function.__name__] = function
    made.tests |= {"better": is_better, "worse": is_worse, "significant": text.is_significant}
    return made


def asset(name: str) -> str:
    """A file of this folder: style or script of the page."""
    return resources.files("llama_tasks.report").joinpath(name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """The hash by which a content security policy names an inline script (CSP 3, section 2.3.1)."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
