"""One output of a run, token by token: which of the prompt's tokens it rests on; a line for the terminal and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_tasks import dataset, evaluation
from llama_tasks.adapters import load_tokenizer
from llama_tasks.errors import DataError, RecipeError
from llama_tasks.inspection.pieces import Piece, Speller
from llama_tasks.prompts import Prompt
from llama_tasks.recipe import Recipe, Suite
from llama_tasks.report import plain
from llama_tasks.report.as_html import draw
from llama_tasks.report.rows import compressed
from llama_tasks.rundir import RunDirectory
from llama_tasks.tokens import Encoder, Tokens

TOP = 5  # tokens that the terminal names
METHODS = {"input_x_gradient": "input x gradient", "attention_rollout": "attention rollout"}


@dataclass(frozen=True)
class Explanation:
    """An output and what it rests on, by pieces (tokens; several where they write one character together).

    Attributes:
        prompt, output: the pieces of the prompt, and of what was answered.
        weights: method -> [output pieces][all pieces], sums over their tokens; 0 for later ones.
    """

    row: str
    lang: str
    model: str
    prompt: list[Piece]
    output: list[Piece]
    weights: dict[str, list[list[float]]]

    def summed(self, method: str) -> list[float]:
        """The weight of each of the prompt's pieces for the whole output."""
        rows = self.weights[method]
        return [sum(row[place] for row in rows) for place in range(len(self.prompt))]

    def lines(self) -> list[str]:
        """The output, and of each method the prompt's heaviest tokens."""
        said = "".join(piece.text for piece in self.output if not piece.special)
        told = [f"{plain(self.row)}: {plain(said)!r}"]
        for method, name in METHODS.items():
            weights = self.summed(method)
            heaviest = sorted(range(len(weights)), key=lambda place: -abs(weights[place]))[:TOP]
            tokens = (f"{plain(self.prompt[place].text)!r} {weights[place]:+.2f}" for place in heaviest)
            told.append(f"{name}: {', '.join(tokens)}")
        return told

    def page(self) -> str:
        """The self-contained picture: heat over the prompt, for the whole output or one of its tokens."""
        rounded = {m: [[round(x, 4) for x in row] for row in rows] for m, rows in self.weights.items()}
        return draw("explanation.html.j2", ("language.js", "explanation.js"), found=self, data=compressed(rounded))


def explain(run: RunDirectory, recipe: Recipe, row: str) -> Explanation:
    """Explain the answer of a run's adapter to a row of the test split, by its id or its number (from 0).

    Raises:
        DataError: no such row. RecipeError: plain text, which has no answers. Also what `evaluation.load` raises.
    """
    from llama_tasks.score.attribution import explain as attribute

    evaluation.check_suite(recipe)
    if recipe.eval.scoring == "perplexity":
        raise RecipeError("Plain text is measured (eval.scoring: perplexity); there is no answer to explain.")
    encoder, prompt = _find(recipe, row)
    model = evaluation.load(run, recipe)
    asked, output = _answer(model, encoder, prompt, recipe.eval)
    found = attribute(model, [*asked, *output], len(asked))
    pieces = Speller(encoder.tokenizer).pieces(Tokens(prompt.example.id, [*asked, *output], len(asked)))
    spans = _spans(pieces)
    weights = {name: _by_piece(matrix.tolist(), spans, len(asked)) for name, matrix in found.items()}
    cut = next(i for i, (start, _) in enumerate(spans) if start >= len(asked))
    return Explanation(prompt.example.id, prompt.example.lang, recipe.base.model, pieces[:cut], pieces[cut:], weights)


def _find(recipe: Recipe, row: str) -> tuple[Encoder, Prompt]:
    """The prompt of a row of the test split, and what encodes it."""
    task, _, splits = dataset.read(recipe)
    encoder = Encoder(load_tokenizer(recipe.base), recipe.prompt)
    renderer = dataset.make_renderer(recipe, task, encoder)
    dataset.draw_fewshot(recipe, task, renderer, splits.get("train"))
    prompts = dataset.render_all(task, renderer, splits["test"], training=False)
    of = {prompt.example.id: prompt for prompt in prompts}
    if row in of:
        return encoder, of[row]
    if row.isascii() and row.isdecimal() and int(row) < len(prompts):
        return encoder, prompts[int(row)]
    last = prompts[-1].example.id if prompts else "none"
    raise DataError(
        f"The test split has no row {row!r}; it has {len(prompts)}, from {next(iter(of), 'none')} (or 0) to {last} "
        f"(or {len(prompts) - 1})."
    )


def _answer(model: Any, encoder: Encoder, prompt: Prompt, suite: Suite) -> tuple[list[int], list[int]]:
    """Ids of a prompt and of its answer, made as an evaluation makes it: decoded as the suite says, or the likeliest choice."""
    from llama_tasks.evaluation.prediction import fit_choices
    from llama_tasks.generate import generate
    from llama_tasks.score.choices import score_choices

    if suite.scoring == "likelihood":
        asked, choices = fit_choices(encoder, [prompt]).ids, prompt.example.choices
        (scores,) = score_choices(model, encoder, [prompt], asked, [choices], suite.tokens_per_batch)
        return asked[0], encoder.choice_ids(prompt, [max(choices, key=scores.__getitem__)])[0]
    asked = encoder.fit([prompt], suite.max_new_tokens).ids
    (output,) = generate(model, encoder, asked, suite, [prompt.example.id])
    return asked[0], output.ids


def _spans(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    spans, start = [], 0
    for piece in pieces:
        spans.append((start, start + len(piece.ids)))
        start += len(piece.ids)
    return spans


def _by_piece(matrix: Sequence[Sequence[float]], spans: Sequence[tuple[int, int]], asked: int) -> list[list[float]]:
    """Weights by tokens [N, T] -> by pieces: sums over what is looked at, means over the tokens of an output's piece."""
    outputs = [(start - asked, end - asked) for start, end in spans if start >= asked]
    return [
        [sum(sum(row[start:end]) for row in matrix[first:last]) / (last - first) for start, end in spans]
        for first, last in outputs
    ]


def write(found: Explanation, path: Path) -> None:
    """Write the picture, whole or not at all."""
    from llama_tasks.files import write_text

    write_text(path, found.page())
