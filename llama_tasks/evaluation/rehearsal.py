"""Before anything is trained: whether a suite can be scored afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_tasks import metrics, tasks
from llama_tasks.errors import RecipeError
from llama_tasks.evaluation import forgetting
from llama_tasks.evaluation.prediction import blank_row
from llama_tasks.evaluation.scoring import measures
from llama_tasks.metrics.names import CALIBRATION, LANGUAGE_FREE
from llama_tasks.recipe import Recipe, Suite
from llama_tasks.recipe.decoding_fields import check_decoding

if TYPE_CHECKING:
    from llama_tasks.dataset import Dataset


def check_suite(recipe: Recipe) -> None:
    """Raise MetricError or RecipeError for a suite that could not be scored after the training."""
    suite, lead = recipe.eval, recipe.train.metric_for_best_model
    check_decoding(suite)
    task = tasks.create(recipe.task, config=recipe.prompt)
    if (suite.scoring == "perplexity") != (recipe.task == "text"):
        raise RecipeError(f"eval.scoring: perplexity belongs to the task text, and the task is {task.name!r}.")
    if suite.scoring == "perplexity":
        if lead or suite.metrics:
            key = "train.metric_for_best_model" if lead else "eval.metrics"
            raise RecipeError(
                f"{key} is not read: eval.scoring=perplexity measures the loss, and goes by it; leave it out."
            )
        return
    if not suite.metrics:
        known = [*task.metrics, *metrics.names()]
        raise RecipeError(f"eval.metrics is empty; name at least one of {', '.join(known)}.")
    if suite.scoring == "likelihood" and not task.chooses:
        raise RecipeError(
            f"eval.scoring: likelihood ranks choices, which the task {task.name!r} does not have; use generate."
        )
    for name in [*suite.metrics, *([lead] if lead else [])]:
        if name in task.metrics:
            metrics.create(name, "en", own=task.metrics)
            continue
        if name in LANGUAGE_FREE and not task.labelled:
            raise RecipeError(f"eval.metrics: {name} compares labels, which the task {task.name!r} does not have.")
        if metrics.parse(name, task.metrics)[0] in CALIBRATION and suite.scoring != "likelihood":
            raise RecipeError(f"eval.metrics: {name} reads log-likelihoods; it needs `eval.scoring: likelihood`.")
    first = lead or suite.metrics[0]
    if first not in task.metrics and not metrics.may_lead(first):
        raise RecipeError(
            f"{first} does not grow as outputs get better, or is not about every row, so it cannot choose the best checkpoint; "
            "name another metric first in eval.metrics, or as train.metric_for_best_model."
        )


def rehearse(dataset: Dataset, suite: Suite, splits: Sequence[str] = ("validation", "test")) -> None:
    """Take every step of the evaluation but the model, before anything is trained.

    Raises:
        MetricError: a metric does not fit the references (a language code, a script, a label set).
        DataError: a prompt too long to be answered, or no file of general texts.
    """
    if suite.scoring == "perplexity":
        return
    if suite.general_text is not None:
        forgetting.read(suite.general_text)
    for name in splits:
        prompts = dataset.prompts[name]
        dataset.encoder.fit(prompts, suite.max_new_tokens)
        for _, metric, part in measures([blank_row(prompt, 0) for prompt in prompts], suite, dataset.task):
            if getattr(metric, "needs", None) != "choices":  # those come with the predictions
                metrics.value_of(metric, metrics.row_statistics(metric, [{**row, "prediction": ""} for row in part]))
