"""The data half of a run, station by station: recipe -> rows -> Examples -> Prompts -> Tokens, and the audit that stops it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks import tasks, token_cache
from llama_tasks.errors import DataError, RecipeError
from llama_tasks.prompts import Prompt, Renderer
from llama_tasks.recipe import Recipe
from llama_tasks.sources import Row, Split, describe_stream, load_splits, read_to_predict, stream_rows
from llama_tasks.stream import CHUNK, Stream
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
        train: the training split as tokens; of a stream, its first rows (those in `prompts` too).
        fingerprints: split name -> rows, source, SHA-256.
        stream: the training rows where they do not fit memory.
    """

    task: Task
    labels: list[str]
    renderer: Renderer
    encoder: Encoder
    prompts: dict[str, list[Prompt]]
    train: Encoded
    fingerprints: dict[str, dict[str, Any]]
    stream: Stream | None = None


def prepare(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Read, render, encode and audit the data of a recipe.

    Raises:
        DataError: a broken file, a missing column, a label outside the set, an example too long, or an audit finding.
    """
    task, labels, splits = read(recipe)
    renderer = Renderer(task, recipe.prompt.template)
    encoder = Encoder(tokenizer, recipe.prompt)
    prompts = {name: render_all(task, renderer, split) for name, split in splits.items()}
    fingerprints = {name: split.describe() for name, split in splits.items()}
    stream = None
    if recipe.data.streaming:
        stream = _stream(recipe, RowEncoder(task, renderer, encoder, prompts))
        prompts = {"train": first_prompts(task, renderer, stream), **prompts}
        fingerprints = {"train": describe_stream(recipe.data, recipe.task), **fingerprints}
    train = encode(task, encoder, prompts, recipe.data.cache)
    if not train.tokens:
        raise DataError(f"No training example is left: all {len(train.dropped)} were longer than prompt.max_length.")
    return Dataset(task, labels, renderer, encoder, prompts, train, fingerprints, stream)


def encode(task: Task, encoder: Encoder, prompts: dict[str, list[Prompt]], cache: bool = False) -> Encoded:
    """The training prompts as tokens, audited by themselves and against the other splits. Raises DataError."""
    if task.name == "text":
        return encoder.blocks(prompts["train"])
    train = token_cache.encode(encoder, prompts["train"]) if cache else encoder.encode(prompts["train"])
    findings = audit(encoder, prompts["train"], train.tokens)
    for name in ("validation", "test"):
        findings += audit_leaks(prompts["train"], prompts[name], name)
    stop_on(findings, encoder.config.allow)
    return train


@dataclass(frozen=True)
class RowEncoder:
    """Rows of a stream -> tokens, rendered, encoded and audited as rows at hand are."""

    task: Task
    renderer: Renderer
    encoder: Encoder
    held_out: dict[str, list[Prompt]]

    def __call__(self, rows: Sequence[Row]) -> Encoded:
        """Encode some rows. Raises DataError for what stops a training."""
        prompts = [self.renderer(self.task.example(row)) for row in rows]
        return encode(self.task, self.encoder, {**self.held_out, "train": prompts})


def first_prompts(task: Task, renderer: Renderer, stream: Stream) -> list[Prompt]:
    """The first rows of the first epoch, rendered."""
    return [renderer(task.example(row)) for row in itertools.islice(stream.rows(0, None), CHUNK)]


def _stream(recipe: Recipe, rows_to_tokens: RowEncoder) -> Stream:
    """The training rows as a stream. Raises RecipeError where the recipe does not say how long it is to be trained."""
    if recipe.train.max_steps < 1:
        raise RecipeError("data.streaming does not know how many rows will come; say train.max_steps.")
    task = rows_to_tokens.task
    rows = functools.partial(
        stream_rows, recipe.data, recipe.task, "train", recipe.train.seed, fields=task.columns, group_by=task.main_field
    )
    return Stream(rows, rows_to_tokens, recipe.data.num_workers)


def read(recipe: Recipe) -> tuple[Task, list[str], dict[str, Split]]:
    """The rows of all splits, with their task and (classification) label set. Raises DataError."""
    task = tasks.create(recipe.task)
    if recipe.data.streaming and recipe.task == "classify" and not recipe.data.labels:
        raise RecipeError("data.streaming does not see all labels before the training; list them in data.labels.")
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
