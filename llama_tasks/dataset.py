"""The data half of a run, station by station: recipe -> rows -> Examples -> Prompts -> Tokens, and the audit that stops it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks import tasks
from llama_tasks.errors import DataError
from llama_tasks.prompts import Prompt, Renderer
from llama_tasks.recipe import Recipe
from llama_tasks.sources import Split, load_splits, read_to_predict
from llama_tasks.tasks import Task
from llama_tasks.tokens import Encoded, Encoder, audit, audit_leaks, stop_on

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SPLIT_SEED = 42  # not the run's seed: runs that differ in it are scored on the same rows


@dataclass(frozen=True)
class Dataset:
    """What a recipe's data became.

    Attributes:
        labels: label set of a classification, else empty.
        prompts: split name -> rendered examples, every row.
        train: the training split as tokens.
        fingerprints: split name -> rows, source, SHA-256.
    """

    task: Task
    labels: list[str]
    renderer: Renderer
    encoder: Encoder
    prompts: dict[str, list[Prompt]]
    train: Encoded
    fingerprints: dict[str, dict[str, Any]]


def prepare(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Read, render, encode and audit the data of a recipe.

    Raises:
        DataError: a broken file, a missing column, a label outside the set, an example too long, or an audit finding.
    """
    task, labels, splits = read(recipe)
    renderer = Renderer(task, recipe.prompt.template)
    encoder = Encoder(tokenizer, recipe.prompt)
    prompts = {name: render_all(task, renderer, split) for name, split in splits.items()}
    is_text = task.name == "text"
    train = encoder.blocks(prompts["train"]) if is_text else encoder.encode(prompts["train"])
    if not train.tokens:
        raise DataError(f"No training example is left: all {len(train.dropped)} were longer than prompt.max_length.")
    findings = [] if is_text else audit(encoder, prompts["train"], train.tokens)
    for name in () if is_text else ("validation", "test"):
        findings += audit_leaks(prompts["train"], prompts[name], name)
    stop_on(findings, recipe.prompt.allow)
    fingerprints = {name: split.describe() for name, split in splits.items()}
    return Dataset(task, labels, renderer, encoder, prompts, train, fingerprints)


def read(recipe: Recipe) -> tuple[Task, list[str], dict[str, Split]]:
    """The rows of all splits, with their task and (classification) label set. Raises DataError."""
    task = tasks.create(recipe.task)
    splits = load_splits(recipe.data, recipe.task, task.main_field, SPLIT_SEED, task.columns)
    labels: list[str] = []
    if recipe.task == "classify":
        labels = recipe.data.labels or tasks.labels_of(splits["train"].rows)
    return tasks.create(recipe.task, labels), labels, splits


def render_all(task: Task, renderer: Renderer, split: Split) -> list[Prompt]:
    """Rows -> Examples -> Prompts, every row of a split."""
    return [renderer(task.example(row)) for row in split.rows]


def for_prediction(recipe: Recipe, source: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, list[Prompt]]:
    """The rows of a file as prompts, by a run's resolved recipe; rows need not have the column to predict.

    Raises:
        DataError: the file is missing, broken, or lacks a column.
    """
    if not source.is_file():
        raise DataError(f"There is no file {str(source)!r}.")
    labels = recipe.data.labels or []
    task = tasks.create(recipe.task, labels)
    blank = labels[0] if labels else task.blank_target
    rows = read_to_predict(source, recipe.data, recipe.task)
    filled = [replace(row, values={task.target_column: blank, **row.values}) for row in rows]
    renderer = Renderer(task, recipe.prompt.template)
    prompts = [renderer(task.example(row)) for row in filled]
    prompts = [
        prompt if task.target_column in row.values else replace(prompt, example=replace(prompt.example, references=()))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    return Dataset(task, labels, renderer, Encoder(tokenizer, recipe.prompt), {}, Encoded(), {}), prompts
