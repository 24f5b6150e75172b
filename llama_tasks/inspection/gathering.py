"""Recipe -> what there is to show: lengths, findings, overlaps, repeats, and ten examples as the model sees them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from llama_tasks import dataset
from llama_tasks.contract import special_ids, tokenizer_sha256
from llama_tasks.dataset import Dataset, render_all, streaming
from llama_tasks.errors import LlamaTasksError
from llama_tasks.evaluation import check_suite, rehearse
from llama_tasks.inspection.pieces import Piece, Speller
from llama_tasks.prompts import Prompt, Renderer
from llama_tasks.recipe import Recipe
from llama_tasks.sources import Row, Split
from llama_tasks.tasks import Task
from llama_tasks.tokens import Encoded, Encoder, Tokens
from llama_tasks.tokens.audit import NAMED, Audit, Finding, Report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLES = 10
CHUNK = 1000  # rows that pass together


@dataclass(frozen=True)
class Seen:
    """One training example as the model sees it."""

    id: str
    lang: str
    length: int
    pieces: list[Piece]

    @property
    def trained(self) -> int:
        """Tokens that carry loss."""
        return sum(len(piece.ids) for piece in self.pieces if piece.trained)


@dataclass(frozen=True)
class Shown:
    """A row that a finding names: where it stands, its input and its target."""

    where: str
    input: str
    target: str


@dataclass(frozen=True)
class Inspection:
    """Everything that `inspect` shows.

    Attributes:
        sources: split -> rows, source, SHA-256, and what cleaning did.
        dropped, shortened: how many training rows are too long and are left out or lose the end of their main field, and the
            first; with `prompt.on_too_long: error` the former are those that stop a training.
        answer_cut: how many of the dropped are so because with the end of the field their answer would go.
        rows: id -> the row, for the ids that overlaps, repeats and contradictions name.
        special: BOS, EOS, padding -> (id, token).
        refused: what stops a training whose rows pass the audit: a suite that cannot score them, a prompt too long to be answered.
    """

    recipe: Recipe
    task: str
    labels: list[str]
    templates: dict[str, str]
    sources: dict[str, dict[str, Any]]
    report: Report
    dropped: tuple[int, list[str]]
    shortened: tuple[int, list[str]]
    answer_cut: int
    examples: list[Seen]
    rows: dict[str, Shown]
    special: dict[str, tuple[int, str] | None]
    tokenizer_sha256: str
    refused: LlamaTasksError | None

    def where(self, name: str) -> str:
        """The id of a row with the name of its file, and the line."""
        return f"{name} ({PurePath(self.rows[name].where).name})" if name in self.rows else name

    @property
    def stops(self) -> list[Finding]:
        """The findings on which a training would stop."""
        return [f for f in self.report.findings if f.stops and f.switch not in self.recipe.prompt.allow]

    @property
    def may_start(self) -> bool:
        """Whether a training of these rows would start."""
        return not self.stops and self.refused is None


def gather(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Inspection:
    """Look at the rows of a recipe, of a stream at the first ones. Raises DataError for rows that cannot be read or do not fit."""
    task, labels, splits = dataset.read(recipe)
    if recipe.data.streaming:
        splits = {"train": streaming.beginning(recipe, task), **splits}
    return look(recipe, tokenizer, task, labels, splits)


def look(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, task: Task, labels: list[str], splits: Mapping[str, Split]
) -> Inspection:
    """Look at rows that are read already. `rows` of a split may be any sequence; it is passed through twice."""
    config = recipe.prompt
    lenient = replace(config, on_too_long="drop") if config.on_too_long == "error" else config
    encoder = Encoder(tokenizer, lenient)
    renderer = dataset.make_renderer(recipe, task, encoder)
    drawn = dataset.draw_fewshot(recipe, task, renderer, splits["train"])
    is_text = task.name == "text"
    audit, sample = Audit(encoder, is_text, recipe.data.streaming), _Sample()
    dropped, shortened, answer_cut = _Counted(), _Counted(), 0
    for name, split in splits.items():
        for prompts in _prompts(task, renderer, split, name == "train"):
            encode = encoder.blocks if is_text else encoder.encode
            learned = [prompt for prompt in prompts if name == "train" and prompt.example.id not in drawn]
            encoded = encode(learned) if learned else Encoded()
            audit.add(name, prompts, encoded.tokens)  # solved examples too: their answers stand in every prompt
            sample.add(learned, encoded.tokens)
            dropped.add(encoded.dropped)
            shortened.add(encoded.truncated)
            answer_cut += len(encoded.answer_cut)
    report = audit.report()
    if dropped.total and config.on_too_long == "error":
        report.findings.insert(0, _too_long(dropped, config.max_length))
    elif dropped.total and not report.lengths[0]:
        told = (
            f"no training example is left: all are longer than prompt.max_length ({config.max_length} tokens; raise it)"
        )
        report.findings.insert(0, Finding("too_long", dropped.first, dropped.total, told))
    examples = list(sample.seen(Speller(tokenizer)))
    named = [*dropped.first, *shortened.first, *(example.id for example in examples)]
    return Inspection(
        recipe=recipe,
        task=task.name,
        labels=labels,
        templates=dict(renderer.templates),
        sources={name: split.describe() for name, split in splits.items()},
        report=report,
        dropped=(dropped.total, dropped.first),
        shortened=(shortened.total, shortened.first),
        answer_cut=answer_cut,
        examples=examples,
        rows=_named(report, named, task, renderer, splits),
        special=_special(tokenizer),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        refused=_refused(recipe, task, labels, renderer, Encoder(tokenizer, config), splits),
    )


def _refused(
    recipe: Recipe, task: Task, labels: list[str], renderer: Renderer, encoder: Encoder, splits: Mapping[str, Split]
) -> LlamaTasksError | None:
    """The rehearsal that a training makes of its evaluation."""
    scored = {name: render_all(task, renderer, splits[name], training=False) for name in ("validation", "test")}
    try:
        check_suite(recipe)
        rehearse(Dataset(task, labels, renderer, encoder, scored, Encoded(), {}), recipe.eval)
    except LlamaTasksError as error:
        return error
    return None


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, str] | None]:
    ids = special_ids(tokenizer)
    return {name: None if i is None else (i, tokenizer.convert_ids_to_tokens(i)) for name, i in ids.items()}


class _Counted:
    """How many ids came, and the first of them."""

    def __init__(self) -> None:
        self.total = 0
        self.first: list[str] = []

    def add(self, names: list[str]) -> None:
        self.total += len(names)
        self.first += names[: NAMED - len(self.first)]


class _Sample:
    """A seeded sample of the examples, in their order (Vitter's algorithm R)."""

    def __init__(self) -> None:
        self._random = random.Random(0)
        self._count = 0
        self._kept: dict[int, tuple[int, Tokens, str]] = {}

    def add(self, prompts: list[Prompt], tokens: list[Tokens]) -> None:
        langs = {prompt.example.id: prompt.example.lang for prompt in prompts}
        for item in tokens:
            place = self._count if self._count < EXAMPLES else self._random.randrange(self._count + 1)
            if place < EXAMPLES:
                self._kept[place] = (self._count, item, langs.get(item.id) or langs[item.id.rpartition(".")[0]])
            self._count += 1

    def seen(self, speller: Speller) -> Iterator[Seen]:
        for _, item, lang in sorted(self._kept.values(), key=lambda kept: kept[0]):
            yield Seen(item.id, lang, len(item.input_ids), speller.pieces(item))


def _prompts(task: Task, renderer: Renderer, split: Split, training: bool) -> Iterator[list[Prompt]]:
    """The prompts of a split, in pieces."""
    for start in range(0, len(split.rows), CHUNK):
        rows = split.rows[start : start + CHUNK]
        yield [renderer(example, row.where) for row in rows for example in task.examples(row, training=training)]


def _too_long(dropped: _Counted, limit: int) -> Finding:
    return Finding(
        "too_long", dropped.first, dropped.total,
        f"examples longer than prompt.max_length ({limit} tokens; raise it, or say prompt.on_too_long=truncate_prompt or drop)",
    )  # fmt: skip


def _named(
    report: Report, more: list[str], task: Task, renderer: Renderer, splits: Mapping[str, Split]
) -> dict[str, Shown]:
    """The rows that anything names, looked up in a second pass."""
    matches = [*report.overlaps.values(), *report.repeats.values(), report.contradictions]
    wanted = {name for match in matches for pair in match.pairs for name in pair} | set(more)
    wanted |= {name for finding in report.findings for name in finding.rows}
    ids = {
        ":".join(name.split(".")[0].split(":")[:2]) for name in wanted
    }  # `train:17:back` comes of the row `train:17`
    found: dict[str, Shown] = {}
    for name, split in splits.items():
        for row in (row for row in split.rows if row.id in ids):
            examples = task.examples(row, training=name == "train")
            found |= {example.id: _shown(row, renderer(example)) for example in examples}
    return found


def _shown(row: Row, prompt: Prompt) -> Shown:
    fields = [
        text for key, text in prompt.example.fields.items() if f"{{{key}}}" in prompt.template and key != "labels"
    ]
    return Shown(row.where, "\n".join(fields) or prompt.response, prompt.example.target)
