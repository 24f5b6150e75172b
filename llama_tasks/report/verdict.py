"""The report in sentences: what was found on the first metric of each language, and how the rest agrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llama_tasks.report.text import ABSENT, interval, is_interval, is_significant, metric_name, number, p_value, plain
from llama_tasks.report.words import WORDS, first_system, metric_words


@dataclass(frozen=True)
class Finding:
    """A claim, in English and Chinese, and what it rests on (interval, p-value, rows)."""

    claim: str
    chinese: str
    evidence: str = ""

    def __str__(self) -> str:
        return f"{self.claim} {self.evidence}.".replace(" .", ".")


def verdicts(report: dict[str, Any]) -> list[Finding]:
    """One finding a language on its first metric, then one on all comparisons where there are more; leaks, where there are."""
    scores = report["scores"]
    if not scores:
        return [Finding("Nothing was scored", "没有可计分的内容")]
    languages = list(dict.fromkeys(score["lang"] for score in scores))
    leads = [next(score for score in scores if score["lang"] == lang) for lang in languages]
    names = WORDS[first_system(report)]
    findings = [_finding(score, names, name_language=len(languages) > 1) for score in leads]
    if len(scores) > len(leads) and "adapter" in scores[0]:
        findings.append(_overall(scores))
    return findings + _leaks(report.get("leaks") or {})


def asides(report: dict[str, Any]) -> list[str]:
    """A line each on what stands beside the scores: the worst group, general text, a leak check that was not done."""
    return [*_groups(report.get("slices") or {}), *_general(report.get("general") or {}), *_unchecked(report)]


def _groups(slices: dict[str, Any]) -> list[str]:
    """The widest gap between two groups of the last system whose interval does not hold 0."""
    gaps = [(part["column"], own) for part in slices.get("columns", []) for own in list(part["worst"].values())[-1:]]
    sure = [(column, own) for column, own in gaps if is_interval(own["interval"]) and own["interval"][0] > 0]
    if not sure:
        return []
    column, own = max(sure, key=lambda gap: gap[1]["gap"])
    name, gap = plain(column).replace("_", " "), f"{number(own['gap'])} {interval(own['interval'])}"
    return [
        f"worst group: {name} {plain(own['group'])}, {gap} {metric_name(slices['metric'])} below {plain(own['best'])}"
    ]


def _general(general: dict[str, Any]) -> list[str]:
    shown = [score for score in general.get("scores", []) if score["metric"] == "perplexity"]
    parts = []
    for score in shown:
        values = " → ".join(number(score[name]["value"], 2) for name in ("base", "adapter") if name in score)
        change = f" ({p_value(score['p_value'])})" if "p_value" in score else ""
        parts.append(f"{plain(score['lang'])} {values}{change.replace('(', '(p ')}")
    return [f"perplexity of general text: {', '.join(parts)}"] if parts else []


def _unchecked(report: dict[str, Any]) -> list[str]:
    leaks = report.get("leaks") or {"checked": True}
    return [] if leaks["checked"] else [f"leak check: not done, because {plain(leaks['why'])}"]


def is_better(score: dict[str, Any]) -> bool:
    """The adapter is significantly better than the base."""
    return is_significant(score.get("p_value")) and _gain(score) > 0


def is_worse(score: dict[str, Any]) -> bool:
    """The adapter is significantly worse than the base."""
    return is_significant(score.get("p_value")) and _gain(score) < 0


def way(score: dict[str, Any]) -> str:
    """What stands beside a metric of which a greater value is not a better one: `↓` lower is better, `↕` neither way."""
    return {True: "", False: " ↓", None: " ↕"}[score.get("higher_is_better", True)]


def _gain(score: dict[str, Any]) -> float:
    """The difference, turned over where a smaller value is better; 0 for a metric that is neither (`novelty`)."""
    sign = {True: 1.0, False: -1.0, None: 0.0}[score.get("higher_is_better", True)]
    return sign * (score.get("difference") or 0.0)


def _finding(score: dict[str, Any], names: tuple[str, str], *, name_language: bool) -> Finding:
    lang = f" ({plain(score['lang'])})" if name_language else ""
    metric, zh = (name + lang for name in metric_words(score["metric"]))
    rows = f"n = {number(score['n'], 0)}"
    if "adapter" not in score:
        value = number(score["base"]["value"])
        evidence = _join(score["base"]["interval"], rows)
        return Finding(f"The {names[0]} reaches {value} on {metric}", f"{names[1]}在 {zh} 上为 {value}", evidence)
    difference = score["difference"]
    change = number(difference, signed=True)
    p = p_value(score["p_value"])
    if p == ABSENT:
        evidence = _join(None, "not tested", rows)
        return Finding(f"The adapter is at {change} on {metric}", f"适配器在 {zh} 上相差 {change}", evidence)
    evidence = _join(score["difference_interval"], f"p {p.replace('<', '< ')}" if p[0] == "<" else f"p = {p}", rows)
    if not is_significant(score["p_value"]):
        claim = f"No difference could be shown on {metric}: {change}"
        return Finding(claim, f"在 {zh} 上未能显示出差异：{change}", evidence)
    relation, chinese = ("beats", "优于") if is_better(score) else ("is worse than", "不如")
    size = number(abs(difference or 0))
    return Finding(
        f"The adapter {relation} the base on {metric} by {size}", f"适配器在 {zh} 上{chinese}基座 {size}", evidence
    )


def _join(bounds: Any, *parts: str) -> str:
    return f"{interval(bounds)} ({', '.join(parts)})".strip()


def _overall(scores: list[dict[str, Any]]) -> Finding:
    scores = [score for score in scores if score.get("higher_is_better", True) is not None]
    better, worse = sum(map(is_better, scores)), sum(map(is_worse, scores))
    undecided = len(scores) - better - worse
    return Finding(
        f"Of {len(scores)} comparisons, {better} are better, {worse} worse, {undecided} undecided",
        f"共 {len(scores)} 项比较：{better} 项更好，{worse} 项更差，{undecided} 项未定",
    )


def _leaks(leaks: dict[str, Any]) -> list[Finding]:
    if not leaks.get("rows"):
        return []
    rows, of = number(leaks["rows"], 0), number(leaks["of"], 0)
    return [
        Finding(
            f"{rows} of {of} test rows are also in the training rows: look at the scores without them",
            f"{of} 个测试行中有 {rows} 个也在训练数据里：请看去掉它们之后的分数",
        )
    ]
