"""Prompts -> the rows of predictions.jsonl, as they end; and how they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks.prompts import Prompt
from llama_tasks.recipe import Suite
from llama_tasks.recipe.decoding_fields import settings
from llama_tasks.rundir import read_jsonl
from llama_tasks.rundir.journal import ALONE, Ranks, journal
from llama_tasks.tasks import Task
from llama_tasks.tokens import Encoder, Fitted, loses_answer

if TYPE_CHECKING:
    from llama_tasks.dataset import Dataset

WINDOW = 2048  # rows that are encoded and decoded together; more would fill no batch better
SAMPLE = 8  # rows that are decoded once more, alone


def predict(model: Any, dataset: Dataset, prompts: Sequence[Prompt], suite: Suite) -> list[dict[str, Any]]:
    """One prediction row for every prompt, in order, as predictions.jsonl holds them."""
    rows = dict(stream(model, dataset, prompts, suite, range(len(prompts))))
    return [rows[index] for index in range(len(prompts))]


def stream(
    model: Any, dataset: Dataset, prompts: Sequence[Prompt], suite: Suite, indices: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, row) of the prompts with these indices, as they end; only a window of them is held as tokens."""
    for start in range(0, len(indices), WINDOW):
        window = indices[start : start + WINDOW]
        chosen = [prompts[index] for index in window]
        for number, row in _window(model, dataset, chosen, suite):
            yield window[number], row


def write(
    target: Path,
    fingerprint: str,
    model: Any,
    dataset: Dataset,
    prompts: Sequence[Prompt],
    suite: Suite,
    ranks: Ranks = ALONE,
    voucher: Path | None = None,
) -> None:
    """predictions.jsonl of all prompts; a killed one is gone on with where it stopped, and several processes share the work.
    `journal.forget` ends it; `voucher` as there.

    Raises:
        RunError: another process is writing it.
    """
    with journal(target, fingerprint, len(prompts), ranks, voucher) as rows:
        for index, row in stream(model, dataset, prompts, suite, rows.missing):
            rows.append(index, row)


def describe(
    model: Any, dataset: Dataset, prompts: Sequence[Prompt], suite: Suite, predictions: Path
) -> dict[str, Any]:
    """How predictions were made: engine, decoding, and on how many rows of a sample it mattered what was decoded with them."""
    if suite.scoring != "generate":
        return settings(suite)
    from llama_tasks.generate import engine_of

    sample = range(0, len(prompts), max(1, len(prompts) // SAMPLE))[:SAMPLE]
    rows = {i: row for i, row in enumerate(read_jsonl(predictions)) if i in sample}
    return {**settings(suite), "engine": engine_of(model, suite), "alone": alone(model, dataset, prompts, suite, rows)}


def alone(
    model: Any, dataset: Dataset, prompts: Sequence[Prompt], suite: Suite, rows: Mapping[int, Mapping[str, Any]]
) -> dict[str, int]:
    """How many of some rows (by index) have another text when each is decoded alone.

    Sums of floating-point numbers depend on how many are added together, and where two tokens are nearly as likely the
    other one may win.
    """
    again = (dict(stream(model, dataset, prompts, suite, [index])) for index in rows)
    differ = sum(found[index]["raw"] != rows[index]["raw"] for found, index in zip(again, rows, strict=True))
    return {"sample": len(rows), "differ": differ}


def blank_row(prompt: Prompt, prompt_tokens: int) -> dict[str, Any]:
    """What predictions.jsonl says of a prompt before there is a prediction."""
    example = prompt.example
    inputs = {key: value for key, value in example.fields.items() if key != "labels"}
    return {"id": example.id, "lang": example.lang, "input": inputs, "references": list(example.references),
            "prompt_tokens": prompt_tokens, **({"meta": dict(example.meta)} if example.meta else {})}  # fmt: skip


def _window(
    model: Any, dataset: Dataset, prompts: Sequence[Prompt], suite: Suite
) -> Iterator[tuple[int, dict[str, Any]]]:
    answer = _choose if suite.scoring == "likelihood" else _generate
    fitted, answers = answer(model, dataset, prompts, suite)
    for i, found in answers:
        row = {**blank_row(prompts[i], len(fitted.ids[i])), **_cut(prompts[i], fitted.shortened.get(i)), **found}
        yield i, {**row, **_failure(dataset.task, prompts[i], found["prediction"])}


Answers = tuple[Fitted, Iterator[tuple[int, dict[str, Any]]]]


def _generate(model: Any, dataset: Dataset, prompts: Sequence[Prompt], suite: Suite) -> Answers:
    """The prompts as they fit, and (index, what the row says of the answer)."""
    from llama_tasks import generate

    fitted = dataset.encoder.fit(prompts, suite.max_new_tokens)
    names = [prompt.example.id for prompt in prompts]
    outputs = generate.stream(model, dataset.encoder, fitted.ids, suite, names)
    return fitted, (
        (i, {"prediction": dataset.task.parse(output.text, prompts[i].example.lang), "raw": output.text,
             "finish": output.finish, "output_tokens": output.tokens})
        for i, output in outputs
    )  # fmt: skip


def _choose(model: Any, dataset: Dataset, prompts: Sequence[Prompt], suite: Suite) -> Answers:
    from llama_tasks.score.choices import stream_choices

    encoder = dataset.encoder
    choices = [prompt.example.choices for prompt in prompts]
    fitted = fit_choices(encoder, prompts)
    scored = stream_choices(model, encoder, prompts, fitted.ids, choices, suite.tokens_per_batch)
    return fitted, ((i, _chosen(dataset.task, found)) for i, found in scored)


def fit_choices(encoder: Encoder, prompts: Sequence[Prompt]) -> Fitted:
    """The prompts as ids that leave room for the longest of their choices."""
    every = sorted({choice for prompt in prompts for choice in prompt.example.choices})
    return encoder.fit(prompts, max(map(len, encoder.ids(every)), default=0) + 2)


def _cut(prompt: Prompt, shorter: Prompt | None) -> dict[str, bool]:
    lost = shorter is not None and loses_answer(prompt, shorter)
    return {"shortened": shorter is not None, **({"answer_cut": True} if lost else {})}


def _chosen(task: Task, choices: Mapping[str, float]) -> dict[str, Any]:
    best = max(choices, key=lambda choice: choices[choice])
    rounded = {key: round(value, 4) for key, value in choices.items()}
    return {"prediction": task.choose(choices), "raw": best, "finish": "choice", "output_tokens": 0, "choices": rounded}


def _failure(task: Task, prompt: Prompt, prediction: str) -> dict[str, str]:
    name = task.failure(prediction, prompt.example)
    return {"failure": name} if name else {}
