"""Which metrics a suite may name: refused before anything is trained, not after."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_tasks.errors import LlamaTasksError
from llama_tasks.evaluation import check_suite
from llama_tasks.recipe import load_recipe


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
