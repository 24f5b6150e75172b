"""Before anything is trained: whether a suite can be scored afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llama_tasks import metrics, tasks
from llama_tasks.errors import ModelError, RecipeError
from llama_tasks.evaluation import forgetting
from llama_tasks.evaluation.prediction import blank_row, fit_choices
from llama_tasks.evaluation.scoring import measures
from llama_tasks.metrics.names import CALIBRATION, LANGUAGE_FREE
from llama_tasks.recipe import Recipe, Suite
from llama_tasks.recipe.decoding_fields import check_decoding
from llama_tasks.tasks import Task

if TYPE_CHECKING:
    from llama_tasks.dataset import Dataset
    from llama_tasks.prompts import Prompt


@dataclass(frozen=True)
class Demand:
    """What rows ask of a model.

    Attributes:
        places: tokens of the longest prompt with its answer.
        row: whose prompt that is.
        token: the largest id.
    """

    places: int = 0
    row: str = ""
    token: int = 0


def check_answering(recipe: Recipe) -> Task:
    """The recipe's task. Raises RecipeError for a suite by which its rows could not be answered, scored or not."""
    check_decoding(recipe.eval)
    task = tasks.create(recipe.task, config=recipe.prompt)
    scoring = recipe.eval.scoring
    if (scoring == "perplexity") != (recipe.task == "text"):
        raise RecipeError(f"eval.scoring: perplexity belongs to the task text, and the task is {task.name!r}.")
    if scoring == "likelihood" and not task.chooses:
        raise RecipeError(
            f"eval.scoring: likelihood ranks choices, which the task {task.name!r} does not have; use generate."
        )
    return task


def check_suite(recipe: Recipe) -> None:
    """Raise MetricError or RecipeError for a suite that could not be scored after the training."""
    suite, lead = recipe.eval, recipe.train.metric_for_best_model
    task = check_answering(recipe)
    if suite.scoring == "perplexity":
        given = {
            "train.metric_for_best_model": lead,
            "eval.metrics": suite.metrics,
            "eval.general_text": suite.general_text not in (None, Suite().general_text),
        }
        for key in (key for key, value in given.items() if value):
            raise RecipeError(
                f"{key} is not read: eval.scoring=perplexity measures the loss, and goes by it; leave it out."
            )
        return
    if not suite.metrics:
        known = [*task.metrics, *metrics.names()]
        raise RecipeError(f"eval.metrics is empty; name at least one of {', '.join(known)}.")
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


def rehearse(dataset: Dataset, suite: Suite, splits: Sequence[str] = ("validation", "test")) -> Demand:
    """Take every step of the evaluation but the model, before anything is trained; returns what the rows will ask of it.

    Raises:
        MetricError: a metric does not fit the references (a language code, a script, a label set).
        DataError: a prompt too long to be answered, or no file of general texts.
    """
    if suite.scoring == "perplexity":
        return Demand()
    if suite.general_text is not None:
        forgetting.read(suite.general_text)
    demands = []
    for name in splits:
        prompts = dataset.prompts[name]
        demands.append(_demand(dataset, suite, prompts))
        for _, metric, part in measures([blank_row(prompt, 0) for prompt in prompts], suite, dataset.task):
            if getattr(metric, "needs", None) != "choices":  # those come with the predictions
                metrics.value_of(metric, metrics.row_statistics(metric, [{**row, "prediction": ""} for row in part]))
    longest = max(demands, key=lambda demand: demand.places)
    return replace(longest, token=max(demand.token for demand in demands))


def _demand(dataset: Dataset, suite: Suite, prompts: Sequence[Prompt]) -> Demand:
    encoder = dataset.encoder
    answers = [encoder.eos]
    if suite.scoring == "likelihood":
        ids = fit_choices(encoder, prompts).ids
        answers += encoder.ids(sorted({choice for prompt in prompts for choice in prompt.example.choices}))
        longest = max(map(len, answers)) + 1
    else:
        ids = encoder.fit(prompts, suite.max_new_tokens).ids
        longest = suite.max_new_tokens - 1  # the last new token is not read
    row = max(range(len(ids)), key=lambda i: len(ids[i]), default=None)
    if row is None:
        return Demand()
    return Demand(len(ids[row]) + longest, prompts[row].name, max(max(part) for part in [*ids, *answers] if part))


def check_room(demand: Demand, model: Any, tokenizer: Any, say: Callable[[str], None]) -> None:
    """Whether a model has a row in its embedding for every token of the rows, and places for the longest one. Beyond its places
    a model with rotary positions still answers, so that is only said.

    Raises:
        ModelError: it has not.
    """
    config = model.config
    if demand.token >= config.vocab_size:
        raise ModelError(
            f"the rows hold the token {tokenizer.convert_ids_to_tokens(demand.token)!r} (id {demand.token}), and the "
            f"model's embedding has {config.vocab_size} rows; use the tokenizer that the model was trained with."
        )
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or demand.places <= limit:
        return
    told = (
        f"{demand.row} needs {demand.places} tokens, its answer counted in, and the model was made for {limit}; lower "
        "prompt.max_length (with prompt.on_too_long=truncate_prompt) or eval.max_new_tokens"
    )
    if not (getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)):
        raise ModelError(f"{told}.")
    say(f"{told}: what it answers beyond that is worth little.")
