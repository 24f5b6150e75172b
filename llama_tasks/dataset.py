"""The data half of a run, station by station: recipe -> rows -> Examples -> Prompts -> Tokens, and the audit that stops it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks import tasks
from llama_tasks.audit import Audit, Finding, stop_on
from llama_tasks.clean import clean_splits, clean_texts
from llama_tasks.errors import DataError, RecipeError
from llama_tasks.prompts import Prompt, Renderer
from llama_tasks.recipe import Recipe
from llama_tasks.sources import Split, load_splits, read_to_predict
from llama_tasks.tasks import Task
from llama_tasks.tokens import Encoded, Encoder

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
        findings: of the audit: what is allowed by the recipe, and what is only told.
    """

    task: Task
    labels: list[str]
    renderer: Renderer
    encoder: Encoder
    prompts: dict[str, list[Prompt]]
    train: Encoded
    fingerprints: dict[str, dict[str, Any]]
    findings: list[Finding] = field(default_factory=list)


def prepare(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Read, render, encode and audit the data of a recipe.

    Raises:
        DataError: a broken file, a missing column, a label outside the set, an example too long, or an audit finding.
    """
    task, labels, splits = read(recipe)
    encoder = Encoder(tokenizer, recipe.prompt)
    renderer, drawn = make_renderer(recipe, task, encoder, splits["train"])
    prompts = {name: render_all(task, renderer, split, training=name == "train") for name, split in splits.items()}
    prompts["train"] = [prompt for prompt in prompts["train"] if prompt.example.id not in drawn]
    is_text = task.name == "text"
    train = encoder.blocks(prompts["train"]) if is_text else encoder.encode(prompts["train"])
    if not train.tokens:
        raise DataError(f"No training example is left: all {len(train.dropped)} were longer than prompt.max_length.")
    audit = Audit(encoder, is_text)
    for name in splits:
        audit.add(name, prompts[name], train.tokens if name == "train" else ())
    findings = audit.report().findings
    stop_on(findings, recipe.prompt.allow, named_by(splits))
    fingerprints = {name: split.describe() for name, split in splits.items()}
    return Dataset(task, labels, renderer, encoder, prompts, train, fingerprints, findings)


def make_renderer(recipe: Recipe, task: Task, encoder: Encoder, train: Split) -> tuple[Renderer, set[str]]:
    """The renderer of a run, with its chat template and solved examples; and the ids of those, which leave the training."""
    renderer = Renderer(task, recipe.prompt.template)
    if encoder.chat:
        renderer.templates["chat"] = encoder.chat.source
    drawn: set[str] = set()
    if recipe.prompt.num_fewshot and not renderer.has_fewshot:
        solved = render_all(task, renderer, train, training=True)
        drawn = renderer.draw_fewshot(solved, recipe.prompt.num_fewshot, SPLIT_SEED)
    return renderer, drawn


def named_by(splits: Mapping[str, Split]) -> Callable[[str], str]:
    """id of a row -> the id with file and line: `test:17 (my.jsonl:18)`."""

    def where(name: str) -> str:
        split, index = (*name.split(":"), "")[:2]  # `train:17:back` is an example of the row `train:17`
        rows = splits[split].rows if split in splits else []
        row = next((rows[i] for i in [int(index)] if i < len(rows)), None) if index.isdigit() else None
        return f"{name} ({row.where})" if row is not None and name.startswith(row.id) else name

    return where


def read(recipe: Recipe) -> tuple[Task, list[str], dict[str, Split]]:
    """The rows of all splits, with their task and (classification) label set. Raises DataError."""
    task = tasks.create(recipe.task, config=recipe.prompt)
    splits = load_splits(recipe.data, recipe.task, task.main_field, SPLIT_SEED, task.columns)
    splits = clean_splits(splits, recipe.clean, task.columns, task.target_column)
    train = splits["train"].rows
    labels: list[str] = []
    if task.labelled:
        labels = recipe.data.labels or tasks.labels_of(train, task.target_column)
    elif recipe.train.class_weights is not None:
        raise RecipeError(
            f"train.class_weights belongs to tasks with labels, and {task.name!r} has none; leave it out."
        )
    task = tasks.create(recipe.task, labels, recipe.prompt)
    task.weights = tasks.class_weights(recipe.train.class_weights, labels, train, task.target_column)
    return task, labels, splits


def render_all(task: Task, renderer: Renderer, split: Split, *, training: bool) -> list[Prompt]:
    """Rows -> Examples -> Prompts, every row of a split."""
    return [renderer(example) for row in split.rows for example in task.examples(row, training=training)]


def for_prediction(recipe: Recipe, source: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, list[Prompt]]:
    """The rows of a file as prompts, by a run's resolved recipe; rows need not have the column to predict.

    Raises:
        DataError: the file is missing, broken, or lacks a column.
    """
    if not source.is_file():
        raise DataError(f"There is no file {str(source)!r}.")
    labels = recipe.data.labels or []
    task = tasks.create(recipe.task, labels, recipe.prompt)
    blank = labels[0] if labels else task.blank_target
    rows = clean_texts(read_to_predict(source, recipe.data, recipe.task), recipe.clean)
    filled = [replace(row, values={task.target_column: blank, **row.values}) for row in rows]
    renderer = Renderer(task, recipe.prompt.template)
    prompts = [renderer(task.example(row)) for row in filled]
    prompts = [
        prompt if task.target_column in row.values else replace(prompt, example=replace(prompt.example, references=()))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    return Dataset(task, labels, renderer, Encoder(tokenizer, recipe.prompt), {}, Encoded(), {}), prompts
