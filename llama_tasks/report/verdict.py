"""The report in sentences: what was found on the first metric of each language, and how the rest agrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llama_tasks.report.text import ABSENT, interval, is_significant, metric_name, number, p_value, plain


@dataclass(frozen=True)
class Finding:
    """A claim and what it rests on (interval, p-value, rows)."""

    claim: str
    evidence: str = ""

    def __str__(self) -> str:
        return f"{self.claim} {self.evidence}.".replace(" .", ".")


def verdicts(report: dict[str, Any]) -> list[Finding]:
    """One finding a language on its first metric, then one on all comparisons where there are more."""
    scores = report["scores"]
    if not scores:
        return [Finding("Nothing was scored")]
    languages = list(dict.fromkeys(score["lang"] for score in scores))
    leads = [next(score for score in scores if score["lang"] == lang) for lang in languages]
    findings = [_finding(score, name_language=len(languages) > 1) for score in leads]
    if len(scores) > len(leads) and "adapter" in scores[0]:
        findings.append(_overall(scores))
    return findings


def is_better(score: dict[str, Any]) -> bool:
    """The adapter is significantly better than the base."""
    return is_significant(score.get("p_value")) and _gain(score) > 0


def is_worse(score: dict[str, Any]) -> bool:
    """The adapter is significantly worse than the base."""
    return is_significant(score.get("p_value")) and _gain(score) < 0


def _gain(score: dict[str, Any]) -> float:
    """The difference, turned over where a smaller value is better; 0 for a metric that is neither (`novelty`)."""
    sign = {True: 1.0, False: -1.0, None: 0.0}[score.get("higher_is_better", True)]
    return sign * (score.get("difference") or 0.0)


def _finding(score: dict[str, Any], *, name_language: bool) -> Finding:
    metric = metric_name(score["metric"]) + (f" ({plain(score['lang'])})" if name_language else "")
    rows = f"n = {number(score['n'], 0)}"
    if "adapter" not in score:
        value = score["base"]
        return Finding(f"The base reaches {number(value['value'])} on {metric}", _join(value["interval"], rows))
    difference = score["difference"]
    p = p_value(score["p_value"])
    if p == ABSENT:
        claim = f"The adapter is at {number(difference, signed=True)} on {metric}"
        return Finding(claim, _join(None, "not tested", rows))
    evidence = _join(score["difference_interval"], f"p {p.replace('<', '< ')}" if p[0] == "<" else f"p = {p}", rows)
    if not is_significant(score["p_value"]):
        return Finding(f"No difference could be shown on {metric}: {number(difference, signed=True)}", evidence)
    relation = "beats" if is_better(score) else "is worse than"
    return Finding(f"The adapter {relation} the base on {metric} by {number(abs(difference or 0))}", evidence)


def _join(bounds: Any, *parts: str) -> str:
    return f"{interval(bounds)} ({', '.join(parts)})".strip()


def _overall(scores: list[dict[str, Any]]) -> Finding:
    scores = [score for score in scores if score.get("higher_is_better", True) is not None]
    better, worse = sum(map(is_better, scores)), sum(map(is_worse, scores))
    undecided = len(scores) - better - worse
    return Finding(f"Of {len(scores)} comparisons, {better} are better, {worse} worse, {undecided} undecided")
