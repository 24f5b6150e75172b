"""`llama-tasks inspect`: what the model will see, before anything is trained; in the terminal, and as a page.

Rows pass once, in pieces, through the stations of a training (rows, Examples, Prompts, Tokens) and through its audit; what is kept
of them are hashes, counts and a few to show, so a million rows are looked at in the memory of the rows themselves. Those that are
scored are rehearsed too, all at once, as before a training.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from llama_tasks.files import write_text
from llama_tasks.inspection.as_html import html as page
from llama_tasks.inspection.as_terminal import terminal
from llama_tasks.inspection.gathering import Inspection, gather
from llama_tasks.recipe import Recipe
from llama_tasks.tokens.audit import stop_on
from llama_tasks.tokens.tokenizer import load_tokenizer

__all__ = ["Inspection", "gather", "inspect", "page", "terminal"]


def inspect(recipe: Recipe, console: Console, html: Path | None = None) -> Inspection:
    """Print (and write to the file `html`) lengths, audit, overlaps and examples with their mask.

    Raises:
        LlamaTasksError: whatever in suite or rows would stop a training of this recipe, after everything has been shown.
    """
    found = gather(recipe, load_tokenizer(recipe.base))
    console.print(terminal(found))
    if html is not None:
        write_text(html, page(found))
        console.print(f"page: {html}", highlight=False, markup=False, soft_wrap=True)
    stop_on(found.report.findings, recipe.prompt.allow, found.where)
    if found.refused is not None:
        raise found.refused
    return found
