"""The data half of a run, station by station: recipe -> rows -> Examples -> Prompts -> Tokens, and the audit that stops it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks import tasks
from llama_tasks.clean import clean_splits, clean_texts
from llama_tasks.dataset import streaming, token_cache
from llama_tasks.dataset.spool import Spool
from llama_tasks.dataset.stream import CHUNK, Stream
from llama_tasks.errors import DataError, RecipeError
from llama_tasks.prompts import Prompt, Renderer
from llama_tasks.recipe import Recipe
from llama_tasks.sources import BadRows, Row, Split, describe_stream, load_split, load_splits, read_to_predict
from llama_tasks.tasks import Example, Task
from llama_tasks.tokens import Encoded, Encoder
from llama_tasks.tokens.audit import Audit, stop_on

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
        findings: of the audit, in words: what is allowed by the recipe, and what is only told.
        stream: the training rows where they do not fit memory.
    """

    task: Task
    labels: list[str]
    renderer: Renderer
    encoder: Encoder
    prompts: dict[str, list[Prompt]]
    train: Encoded
    fingerprints: dict[str, dict[str, Any]]
    findings: list[str] = field(default_factory=list)
    stream: Stream | None = None


def prepare(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Read, render, encode and audit the data of a recipe.

    Raises:
        DataError: a broken file, a missing column, a label outside the set, an example too long, or an audit finding.
        RecipeError: `data.streaming` with what needs all rows at hand.
    """
    return assemble(recipe, tokenizer, *read(recipe))


def assemble(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, task: Task, labels: list[str], splits: dict[str, Split]
) -> Dataset:
    """What `prepare` makes of rows that `read` gave. Raises what it raises."""
    encoder = Encoder(tokenizer, recipe.prompt)
    renderer = make_renderer(recipe, task, encoder)
    drawn = draw_fewshot(recipe, task, renderer, splits.get("train"))
    prompts = {name: render_all(task, renderer, split, training=name == "train") for name, split in splits.items()}
    fingerprints = {name: split.describe() for name, split in splits.items()}
    audit = Audit(encoder, task.name == "text", recipe.data.streaming)
    for name in prompts:
        if name != "train":
            audit.add(name, prompts[name])
    stream = None
    if recipe.data.streaming:
        stream = streaming.make_stream(recipe, task, renderer, encoder, audit)
        first, begun = _beginning(recipe, task, renderer, encoder)
        prompts = {"train": begun, **prompts}
        about = describe_stream(recipe.data, recipe.task)
        fingerprints = {"train": about | ({"read_as": list(first.read_as)} if first.read_as else {}), **fingerprints}
    held = prompts["train"]
    prompts["train"] = [prompt for prompt in held if prompt.example.id not in drawn]
    train = encode(task, encoder, prompts["train"], recipe.data.cache)
    if not train.tokens:
        of = f" of the first {streaming.LOOKED_AT:,} rows" if recipe.data.streaming else ""
        raise DataError(
            f"No training example is left: all{of} are longer than prompt.max_length ({recipe.prompt.max_length} tokens); raise it."
        )
    audit.add("train", held, train.tokens)  # solved examples too: their answers stand in every prompt
    findings = audit.report().findings
    where = named_by(splits)
    stop_on(findings, recipe.prompt.allow, where)
    told = [finding.told(where) for finding in findings]
    return Dataset(task, labels, renderer, encoder, prompts, train, fingerprints, told, stream)


def _beginning(recipe: Recipe, task: Task, renderer: Renderer, encoder: Encoder) -> tuple[Split, list[Prompt]]:
    """The first rows of a stream as prompts; where `on_too_long: drop` leaves none of them, the next of which it leaves some."""
    for rows in streaming.pieces(recipe, task, CHUNK):
        prompts = render_all(task, renderer, rows, training=True)
        if encode(task, encoder, prompts).tokens:
            break
    return rows, prompts


def encode(task: Task, encoder: Encoder, prompts: Sequence[Prompt], cache: bool = False) -> Encoded:
    """The training prompts as tokens."""
    if task.name == "text":
        return encoder.blocks(prompts)
    return token_cache.encode(encoder, prompts) if cache else encoder.encode(prompts)


def make_renderer(recipe: Recipe, task: Task, encoder: Encoder | None) -> Renderer:
    """The renderer of a run as the recipe has it, with its chat template."""
    renderer = Renderer(task, recipe.prompt.template)
    if encoder and encoder.chat:
        renderer.templates["chat"] = encoder.chat.source
    return renderer


def draw_fewshot(recipe: Recipe, task: Task, renderer: Renderer, train: Split | None) -> set[str]:
    """Put the solved examples that the recipe asks for before all prompts; returns their ids, which leave the training."""
    if not recipe.prompt.num_fewshot or train is None:
        return set()
    solved = render_all(task, renderer, train, training=True)
    return renderer.draw_fewshot(solved, recipe.prompt.num_fewshot, SPLIT_SEED)


def named_by(splits: Mapping[str, Split]) -> Callable[[str], str]:
    """id of a row -> the id with file and line: `test:17 (my.jsonl:18)`."""

    def where(name: str) -> str:
        split, index = (*name.split(":"), "")[:2]  # `train:17:back` is an example of the row `train:17`
        rows = splits[split].rows if split in splits else []
        row = next((rows[i] for i in [int(index)] if i < len(rows)), None) if index.isdigit() else None
        return f"{name} ({row.where})" if row is not None and name.startswith(row.id) else name

    return where


def _check_weights(recipe: Recipe) -> None:
    """Raise RecipeError where rows that a mix repeats on purpose would be left out again."""
    clean = recipe.clean
    for key, asked in (("exact_duplicates", clean.exact_duplicates), ("near_duplicates", clean.near_duplicates)):
        if asked and recipe.data.weights and "train" in clean.splits:
            raise RecipeError(
                f"clean.{key} would undo the shares of data.weights, which repeats rows; leave one out, or clean the files "
                "before they are mixed."
            )


def read(recipe: Recipe) -> tuple[Task, list[str], dict[str, Split]]:
    """The rows of all splits (a stream's training rows are left where they are), with their task and label set.

    Raises:
        DataError: a broken file, a missing column, a row that the task cannot use. RecipeError: keys that do not fit each other.
    """
    task = tasks.create(recipe.task, config=recipe.prompt)
    if recipe.data.streaming:
        streaming.check(recipe, task)
    _check_weights(recipe)
    splits = load_splits(recipe.data, recipe.task, task.main_field, SPLIT_SEED, task.columns)
    splits = clean_splits(splits, recipe.clean, task.columns, task.target_column)
    labels, splits = _fitting(recipe, task, splits)
    train = splits["train"].rows if "train" in splits else []
    if recipe.train.class_weights is not None and not task.labelled:
        raise RecipeError(
            f"train.class_weights belongs to tasks with labels, and {task.name!r} has none; leave it out."
        )
    return make_task(recipe, labels, train), labels, splits


def make_task(recipe: Recipe, labels: list[str], train: Sequence[Row]) -> Task:
    """The task of a recipe, with the class weights that follow from the training rows."""
    task = tasks.create(recipe.task, labels, recipe.prompt)
    task.weights = tasks.class_weights(recipe.train.class_weights, labels, train, task.target_column)
    return task


def _fitting(recipe: Recipe, task: Task, splits: dict[str, Split]) -> tuple[list[str], dict[str, Split]]:
    """The label set, and the rows that the task can use. The labels of rows that are set aside are no labels."""
    column, given = task.target_column, recipe.data.labels or []
    train = splits["train"].rows if "train" in splits else []
    labels = given or (tasks.labels_in(train, column) if task.labelled else [])
    task = tasks.create(recipe.task, labels, recipe.prompt)
    splits = _usable(recipe, task, splits)
    if task.labelled and not given and (left := tasks.labels_of(splits["train"].rows, column)) != labels:
        return _fitting(replace(recipe, data=replace(recipe.data, labels=left)), task, splits)
    return labels, splits


def _usable(recipe: Recipe, task: Task, splits: dict[str, Split]) -> dict[str, Split]:
    return tasks.usable(task, splits, recipe.prompt.allow, skip=recipe.data.on_bad_row == "skip")


def render_all(task: Task, renderer: Renderer, split: Split, *, training: bool) -> list[Prompt]:
    """Rows -> Examples -> Prompts, every row of a split; one that is scored keeps what else its row says of itself."""
    if training:
        return [renderer(example, row.where) for row in split.rows for example in task.examples(row, training=True)]
    return [
        renderer(
            replace(example, meta={k: v for k, v in tasks.meta_of(row, task).items() if k not in example.fields}),
            row.where,
        )
        for row in split.rows
        for example in task.examples(row, training=False)
    ]


def for_scoring(recipe: Recipe, split: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The rows of one split as prompts, to score a model that was not trained here. Raises as `to_score`."""
    encoder = Encoder(tokenizer, recipe.prompt)
    task, rows, renderer = to_score(recipe, split, encoder)
    prompts = {"test": render_all(task, renderer, rows, training=False)}
    return Dataset(task, list(task.labels), renderer, encoder, prompts, Encoded(), {"test": rows.describe()})


def to_score(recipe: Recipe, split: str, encoder: Encoder | None = None) -> tuple[Task, Split, Renderer]:
    """The rows of one split with their task and renderer; solved examples come from `data.train`.

    Raises:
        RecipeError: solved examples are asked for, and the rows to score are the only ones there are.
        DataError: no such split, a broken file, a missing column, a row that the task cannot use.
    """
    task = tasks.create(recipe.task, config=recipe.prompt)
    splits = {split: load_split(recipe.data, recipe.task, split, SPLIT_SEED, task.columns)}
    labels = (recipe.data.labels or _labels_of_all(recipe, split, task)) if task.labelled else []
    task = tasks.create(recipe.task, labels, recipe.prompt)
    if recipe.prompt.num_fewshot:
        train = load_split(recipe.data, recipe.task, "train", SPLIT_SEED, task.columns)
        if {row.where for row in train.rows} & {row.where for row in splits[split].rows}:
            raise RecipeError(
                "prompt.num_fewshot needs rows other than those that are scored; name them in data.train."
            )
        splits["train"] = train
    splits = _usable(recipe, task, splits)
    renderer = make_renderer(recipe, task, encoder)
    draw_fewshot(recipe, task, renderer, splits.get("train"))
    return task, splits[split], renderer


def _labels_of_all(recipe: Recipe, split: str, task: Task) -> list[str]:
    """The labels of all rows of the split: fewer of them under a limit would be an easier task. Those of rows that are set aside
    are no labels."""
    whole = replace(recipe.data, max_train_samples=None, max_validation_samples=None, max_test_samples=None)
    rows = load_split(whole, recipe.task, split, SPLIT_SEED, task.columns)
    labels = tasks.labels_of(rows.rows, task.target_column, split)
    if recipe.data.on_bad_row == "skip":
        rows = _usable(recipe, tasks.create(recipe.task, labels, recipe.prompt), {split: rows})[split]
    return tasks.labels_of(rows.rows, task.target_column, split)


def for_prediction(
    recipe: Recipe, source: Path, tokenizer: PreTrainedTokenizerBase, folder: Path | None = None
) -> tuple[Dataset, Spool]:
    """The rows of a file as prompts, by a run's resolved recipe; rows need not have the column to predict. None stays in memory:
    `folder` is where there is room for them.

    Raises:
        DataError: the file is missing, broken, or lacks a column.
    """
    if not source.is_file():
        raise DataError(f"There is no file {str(source)!r}.")
    labels = recipe.data.labels or []
    task = tasks.create(recipe.task, labels, recipe.prompt)
    blank = labels[0] if labels else task.blank_target
    rows = clean_texts(read_to_predict(source, recipe.data, recipe.task, task.columns), recipe.clean)
    renderer = Renderer(task, recipe.prompt.template)
    bad = BadRows(hint="Mend them: every row gets its prediction, none is set aside.")

    def answerless(row: Row) -> list[Example]:
        task.check_columns(row, to_predict=True)
        return [task.example(replace(row, values={task.target_column: blank, **row.values}))]

    def rendered() -> Iterator[Prompt]:
        for row, (example,) in tasks.examples_of(answerless, rows, bad):
            prompt = renderer(example, row.where)
            known = task.target_column in row.values
            yield prompt if known else replace(prompt, example=replace(prompt.example, references=()))

    prompts = Spool(rendered(), folder)
    bad.settle()
    return Dataset(task, labels, renderer, Encoder(tokenizer, recipe.prompt), {}, Encoded(), {}), prompts
