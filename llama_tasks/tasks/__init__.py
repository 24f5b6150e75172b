"""The tasks: row -> Example. `create(name)` gives one by its name, or from a Python file of the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from llama_tasks.errors import RecipeError
from llama_tasks.recipe import PromptConfig
from llama_tasks.tasks.base import Example, Task, Turn, guess_lang, lang_of, meta_of, text_of, texts_of
from llama_tasks.tasks.classify import Classify, class_weights, labels_in, labels_of
from llama_tasks.tasks.file import load_task
from llama_tasks.tasks.qa import QA
from llama_tasks.tasks.rows import examples_of, usable
from llama_tasks.tasks.summarize import Summarize
from llama_tasks.tasks.text import Text
from llama_tasks.tasks.translate import Translate
from llama_tasks.user_code import sha256_of_file

__all__ = [
    "BUILT_IN", "QA", "Classify", "Example", "Summarize", "Task", "Text", "Translate", "Turn", "class_weights", "create",
    "examples_of", "guess_lang", "labels_in", "labels_of", "lang_of", "meta_of", "source_sha256", "text_of", "texts_of", "usable",
]  # fmt: skip

BUILT_IN: dict[str, type[Task]] = {task.name: task for task in (Classify, QA, Summarize, Text, Translate)}
_OPTIONS = tuple(name for task in BUILT_IN.values() for name in task.options)


def create(name: str, labels: Sequence[str] | None = None, config: PromptConfig | None = None) -> Task:
    """The task of that name, or the one in that Python file.

    labels: the label set of a classification; config: the recipe's `prompt` section, whose options a task may read.

    Raises:
        RecipeError: an unknown name, a file that holds no usable task, an option of another task.
    """
    kind = load_task(Path(name)) if name.endswith(".py") else BUILT_IN.get(name)
    if kind is None:
        raise RecipeError(
            f"There is no task {name!r}; known: {', '.join(BUILT_IN)}, or a .py file with one of your own."
        )
    config = config or PromptConfig()
    defaults = {field.name: getattr(PromptConfig(), field.name) for field in dataclasses.fields(PromptConfig)}
    prompted = ("num_fewshot",) if kind.name == "text" else ()  # a text has no prompt that examples could stand before
    for option in (*_OPTIONS, *prompted):
        if option not in kind.options and getattr(config, option) != defaults[option]:
            raise RecipeError(f"prompt.{option} does not belong to the task {kind.name!r}; leave it out.")
    return kind(labels or (), config)


def source_sha256(name: str) -> str | None:
    """SHA-256 of the file of a task of the user's own; None for a built-in one."""
    return sha256_of_file(name) if name.endswith(".py") else None
