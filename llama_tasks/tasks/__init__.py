"""The tasks: row -> Example. `create(name, labels)` gives one by its name."""

from __future__ import annotations

from collections.abc import Sequence

from llama_tasks.errors import RecipeError
from llama_tasks.tasks.base import Example, Task
from llama_tasks.tasks.classify import Classify, labels_of
from llama_tasks.tasks.qa import QA
from llama_tasks.tasks.summarize import Summarize
from llama_tasks.tasks.text import Text
from llama_tasks.tasks.translate import Translate

__all__ = ["QA", "Classify", "Example", "Summarize", "Task", "Text", "Translate", "create", "labels_of"]

_PLAIN: dict[str, type[Task]] = {task.name: task for task in (QA, Summarize, Text, Translate)}


def create(name: str, labels: Sequence[str] | None = None) -> Task:
    """The task of that name; `labels` is the label set of a classification. Raises RecipeError for an unknown name."""
    if name == Classify.name:
        return Classify(labels or ())
    if name not in _PLAIN:
        raise RecipeError(f"There is no task {name!r}; known: {', '.join([Classify.name, *_PLAIN])}.")
    return _PLAIN[name]()
