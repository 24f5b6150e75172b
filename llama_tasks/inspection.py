"""`llama-tasks inspect`: what the model will see, before anything is trained."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.text import Text

from llama_tasks import adapters
from llama_tasks.dataset import Dataset, prepare
from llama_tasks.recipe import Recipe
from llama_tasks.report import plain
from llama_tasks.sources import notes
from llama_tasks.tokens import IGNORE, Tokens

_EXAMPLES = 3


def inspect(recipe: Recipe, console: Console) -> Dataset:
    """Print lengths, the outcome of the audit and the first examples with their mask.

    Raises:
        DataError: whatever would stop a training of this recipe.
    """
    dataset = prepare(recipe, adapters.load_tokenizer(recipe.base))
    lengths = sorted(len(item.input_ids) for item in dataset.train.tokens)
    for name, about in dataset.fingerprints.items():
        console.print(
            f"{name:11} {about['rows']:>7,} rows  sha256 {about['sha256'][:12]}  {about['source']}",
            highlight=False,
            markup=False,
        )
    for line in notes(dataset.fingerprints):
        console.print(plain(line), highlight=False, markup=False)
    console.print(
        f"tokens of a training example: median {statistics.median(lengths):.0f}, 95% at most {lengths[len(lengths) * 95 // 100]}, "
        f"longest {lengths[-1]} (limit {recipe.prompt.max_length}); {len(dataset.train.dropped)} dropped, "
        f"{len(dataset.train.truncated)} shortened",
        highlight=False,
    )
    if dataset.labels:
        console.print(f"labels: {', '.join(dataset.labels)}", highlight=False, markup=False)
    console.print(
        "audit: every example has a target, EOS carries loss, one BOS at most, targets decode back, no test row in training."
    )
    for item in dataset.train.tokens[:_EXAMPLES]:
        console.print(
            Text(
                f"\n{item.id}: {len(item.input_ids)} tokens, {len(item.input_ids) - item.prompt_length} carry loss",
                "bold",
            )
        )
        console.print(masked(item, dataset.encoder.tokenizer))
    return dataset


def masked(item: Tokens, tokenizer: object) -> Text:
    """The example's tokens, those that carry loss in green, separated where the eye would miss a boundary."""
    pieces = tokenizer.convert_ids_to_tokens(item.input_ids)  # type: ignore[attr-defined]
    text = Text()
    for index, (piece, label) in enumerate(zip(pieces, item.labels, strict=True)):
        shown = plain(piece.replace("<0x0A>", "⏎\n")) if piece == "<0x0A>" else plain(piece)
        style = "dim" if label == IGNORE else ("bold green" if index % 2 else "green")
        text.append(shown + ("" if piece == "<0x0A>" else "·"), style)
    return text
