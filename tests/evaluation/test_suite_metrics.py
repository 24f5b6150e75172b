"""Which metrics a suite may name: refused before anything is trained, not after."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_tasks.errors import LlamaTasksError
from llama_tasks.evaluation import check_suite, scoring
from llama_tasks.recipe import Suite, load_recipe
from llama_tasks.report import System, build, markdown
from llama_tasks.report.verdict import is_better, is_worse, verdicts
from llama_tasks.tasks import create


def recipe(root: Path, task: str, metrics: str, *overrides: str):
    return load_recipe(root / f"recipes/{task}.yaml", [f"eval.metrics={metrics}", *overrides])


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("translate", "[bleu:tok=char, chrf++, ter]"),
        ("summarize", "[rougeL:tok=jieba, novelty:n=1, copy_density]"),
        ("qa", "[f1:norm=cmrc, exact_match:rows=noans]"),
        ("classify", "[mcc, weighted_precision, calibration_error:bins=10]"),
    ],
)
def test_suites_that_can_be_scored(root: Path, task: str, metrics: str) -> None:
    check_suite(recipe(root, task, metrics))


@pytest.mark.parametrize(
    ("task", "metrics", "overrides", "message"),
    [
        ("translate", "[ter, chrf]", [], "ter does not grow as outputs get better"),
        ("summarize", "[novelty]", [], "novelty does not grow"),
        ("translate", "[chrf, ter]", ["train.metric_for_best_model=ter"], "ter does not grow"),
        ("qa", "[f1:rows=hasans]", [], "f1:rows=hasans .* is not about every row"),
        ("qa", "[mcc]", [], "mcc compares labels"),
        ("qa", "[f1:norm=squad]", [], "norm=squad is not one of squad1, squad2"),
        (
            "classify",
            "[accuracy, calibration_error:bins=5]",
            ["eval.scoring=generate"],
            "needs `eval.scoring: likelihood`",
        ),
    ],
)
def test_suites_that_cannot(root: Path, task: str, metrics: str, overrides: list[str], message: str) -> None:
    with pytest.raises(LlamaTasksError, match=message):
        check_suite(recipe(root, task, metrics, *overrides))


def test_a_verdict_knows_which_way_is_better() -> None:
    """A fall of TER is a gain; a change of novelty is neither, and not counted."""

    def compared(metric: str, difference: float, higher_is_better: bool | None) -> dict:
        side = {"value": 50.0, "interval": [40.0, 60.0]}
        return {"metric": metric, "lang": "en", "n": 9, "base": side, "adapter": side, "difference": difference,
                "difference_interval": None, "p_value": 0.001, "higher_is_better": higher_is_better}  # fmt: skip

    scores = [compared("chrf", 5.0, True), compared("ter", -5.0, False), compared("novelty", 5.0, None)]
    assert [(is_better(score), is_worse(score)) for score in scores] == [(True, False), (True, False), (False, False)]
    assert is_worse(compared("ter", 5.0, False))
    assert str(verdicts({"scores": scores})[-1]) == "Of 2 comparisons, 2 are better, 0 worse, 0 undecided."


def test_a_report_of_the_base_alone_knows_the_way_too() -> None:
    rows = [{"id": "1", "lang": "en", "input": {}, "references": ["a cat sat"], "prediction": "a cat"}]
    scores = scoring.score(rows, Suite(metrics=["chrf", "ter"], n_resamples=20), create("summarize"))
    base = System("base", scores, {"rows": 1}, rows)
    told = {"comparisons": [], "training": None, "provenance": {}}
    made = build(task="summarize", command="", base=base, adapter=None, **told)
    assert [score["higher_is_better"] for score in made["scores"]] == [True, False]
    table = markdown(made)
    assert "TER ↓" in table and "chrF ↓" not in table
