"""A recipe's training rows as a stream, for data beyond memory: all that looks at one row is done, what needs all is refused."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from llama_tasks.clean import asks, by_row, clean_piece, clean_splits
from llama_tasks.dataset.stream import Chunk, Stream
from llama_tasks.errors import RecipeError
from llama_tasks.prompts import Renderer
from llama_tasks.recipe import CleanConfig, Recipe
from llama_tasks.sources import BadRows, Position, Row, Split, StreamedRow, describe_stream, stream_rows
from llama_tasks.tasks import Task, examples_of, usable
from llama_tasks.tokens import Encoder
from llama_tasks.tokens.audit import Audit, stop_on


@dataclass(frozen=True)
class RowEncoder:
    """Rows of a stream -> tokens: cleaned, rendered, encoded and audited as rows at hand are.

    Attributes:
        held_out: the audit, which holds the splits that are scored.
        clean: what is done to each row.
        skip: whether rows that the task cannot use are set aside.
    """

    task: Task
    renderer: Renderer
    encoder: Encoder
    held_out: Audit
    clean: CleanConfig = field(default_factory=CleanConfig)
    skip: bool = False

    def __call__(self, rows: Sequence[Row]) -> Chunk:
        """Encode some rows. Raises DataError for what stops a training."""
        allow = self.encoder.config.allow
        chunk = Chunk(bad=BadRows(self.skip))
        kept = clean_piece(rows, self.clean, chunk.cleaning) if asks(self.clean) else rows
        may_be_empty = not self.skip or "empty_field" in allow
        make = functools.partial(self.task.examples, training=True)
        made = examples_of(make, kept, chunk.bad, may_be_empty=may_be_empty)
        prompts = [self.renderer(example, row.where) for row, examples in made for example in examples]
        chunk.bad.settle()
        encoded = self.encoder.blocks(prompts) if self.task.name == "text" else self.encoder.encode(prompts)
        places = {row.id: f"{row.id} ({row.where})" for row in rows}
        stop_on(self.held_out.check(prompts, encoded.tokens), allow, lambda name: places.get(name, name))
        return replace(chunk, **vars(encoded))


def make_stream(recipe: Recipe, task: Task, renderer: Renderer, encoder: Encoder, held_out: Audit) -> Stream:
    """The training rows as tokens."""
    skip = recipe.data.on_bad_row == "skip"
    bad = BadRows(skip)
    encode = RowEncoder(task, renderer, encoder, held_out, by_row(recipe.clean), skip)
    return Stream(_rows(recipe, task, bad), encode, recipe.data.num_workers, bad)


LOOKED_AT = 10_000  # rows of a stream, at most, before anything is trained


def beginning(recipe: Recipe, task: Task) -> Split:
    """The first training rows in the order of the first epoch, to be looked at: cleaned, those that can be used."""
    return next(pieces(recipe, task, LOOKED_AT))


def pieces(recipe: Recipe, task: Task, count: int) -> Iterator[Split]:
    """The first `LOOKED_AT` rows in pieces of `count`, each as `beginning` gives all of them."""
    bad, read_as = BadRows(recipe.data.on_bad_row == "skip"), list[str]()
    rows = itertools.islice(_rows(recipe, task, bad, read_as)(0, None), LOOKED_AT)
    told = describe_stream(recipe.data, recipe.task)
    which = "the first"
    while piece := list(itertools.islice(rows, count)):
        numbered = [Row(f"train:{i}", row.values, row.where) for i, row in enumerate(piece)]
        source = f"{which} {len(numbered):,} rows of the stream {told['source']}"
        split = Split(numbered, source, told["sha256"], tuple(read_as), bad)
        cleaned = clean_splits({"train": split}, by_row(recipe.clean), task.columns, task.target_column)
        yield usable(task, cleaned, recipe.prompt.allow, skip=bad.skip)["train"]
        which = "the next"


def _rows(
    recipe: Recipe, task: Task, bad: BadRows, read_as: list[str] | None = None
) -> Callable[[int, Position | None], Iterator[StreamedRow]]:
    return functools.partial(
        stream_rows, recipe.data, recipe.task, "train", recipe.train.seed,
        fields=task.columns, group_by=task.main_field, bad=bad, read_as=read_as,
    )  # fmt: skip


def check(recipe: Recipe, task: Task) -> None:
    """Raise RecipeError where the recipe asks for something that needs all rows at hand, or does not say when to end."""
    if task.labelled and not recipe.data.labels:
        raise RecipeError("data.streaming does not see all labels before the training; list them in data.labels.")
    if recipe.train.max_steps < 1:
        raise RecipeError("data.streaming does not know how many rows will come; say train.max_steps.")
    clean, trains = recipe.clean, "train" in recipe.clean.splits
    for key, asked in (
        ("prompt.num_fewshot", recipe.prompt.num_fewshot and not Renderer(task, recipe.prompt.template).has_fewshot),
        ("train.class_weights: balanced", recipe.train.class_weights == "balanced"),
        ("clean.exact_duplicates", trains and clean.exact_duplicates),
        ("clean.near_duplicates", trains and clean.near_duplicates is not None),
    ):
        if asked:
            raise RecipeError(
                f"{key} needs all training rows at hand, which data.streaming does not keep; leave one out."
            )
