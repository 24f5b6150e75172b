"""A task of the user's own: one Python file on their disk, which the recipe names (`task: my_task.py`).

The file is run as it stands, like any script of the user's; it is never fetched from anywhere. What is wrong with it is
said in one sentence with file and line, when it is read and when one of its functions is called.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from llama_tasks.errors import DataError, LlamaTasksError, RecipeError
from llama_tasks.recipe import PromptConfig
from llama_tasks.sources import Row
from llama_tasks.tasks.base import Example, Task
from llama_tasks.user_code import line_of, read_source, run_file, spell

_DECLARED: dict[str, tuple[type, str]] = {
    "name": (str, "a short name"), "columns": (tuple, "a tuple of field names"), "main_field": (str, "the name of a field"),
    "target_column": (str, "the name of a field"), "templates": (dict, "a dict of prompt templates by language code"),
    "metrics": (dict, "a dict of metrics by name"),
}  # fmt: skip


def load_task(path: Path) -> type[Task]:
    """The one Task class that the file defines, with its functions guarded.

    Raises:
        RecipeError: no such file, broken Python, no task or several, attributes missing or of another type.
    """
    if not path.is_file():
        raise RecipeError(f"There is no task file {str(path)!r}.")
    return _load(str(path.resolve()), path.stat().st_mtime_ns, str(path))


@lru_cache(maxsize=16)
def _load(resolved: str, _changed: int, shown: str) -> type[Task]:
    """Read once for every state of the file: its classes stay the same objects for the whole run."""
    source = read_source(resolved, shown)
    module = run_file(source, resolved, shown)
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Task)]
    found = [kind for kind in classes if kind.__module__ == module.__name__]
    if len(found) != 1:
        names = ", ".join(kind.__name__ for kind in found) or "none"
        raise RecipeError(
            f"{shown}: a task file must define one class that subclasses llama_tasks.tasks.Task; it defines: {names}."
        )
    _check_class(found[0], source, shown)
    return _guarded(found[0], shown, resolved)


def _check_class(kind: type[Task], source: str, shown: str) -> None:
    """Raise RecipeError, with the line of the class or of the attribute, for what is missing or wrong."""
    lines = _lines(source, kind.__name__)
    here = f"{shown}:{lines['class']}"
    for attribute, (wanted, about) in _DECLARED.items():
        value = getattr(kind, attribute, None)
        if value is None:
            raise RecipeError(f"{here}: the task {kind.__name__} lacks `{attribute}`, {about}.")
        if not isinstance(value, wanted):
            line = lines.get(attribute, lines["class"])
            raise RecipeError(f"{shown}:{line}: `{attribute}` must be {about}, not {value!r}.")
    if kind.target_column not in kind.columns:
        raise RecipeError(
            f"{here}: `target_column` must be one of `columns` {kind.columns}, not {kind.target_column!r}."
        )
    if not all(isinstance(template, str) for template in kind.templates.values()):
        line = lines.get("templates", lines["class"])
        raise RecipeError(f"{shown}:{line}: `templates` must hold texts by language code.")
    asked = [text for key, text in kind.templates.items() if key != "system"]
    if any(f"{{{kind.main_field}}}" not in template for template in asked):
        raise RecipeError(
            f"{shown}:{lines.get('templates', lines['class'])}: every template must name `main_field`: {{{kind.main_field}}}."
        )
    if not kind.templates:
        raise RecipeError(
            f"{shown}:{lines.get('templates', lines['class'])}: `templates` is empty; give `default` at least."
        )
    if kind.example is Task.example:
        raise RecipeError(
            f"{here}: the task {kind.__name__} lacks `example(self, row)`, which turns a row into an Example."
        )
    for name, metric in kind.metrics.items():
        if not callable(metric):
            line = lines.get("metrics", lines["class"])
            raise RecipeError(f"{shown}:{line}: the metric {name!r} must be a function or a class, not {metric!r}.")


def _guarded(kind: type[Task], shown: str, resolved: str) -> type[Task]:
    """The class with functions that name file and line of what goes wrong in them."""

    class Guarded(kind):  # type: ignore[valid-type, misc]
        def __reduce__(self) -> tuple[Callable[..., Task], tuple[Any, ...]]:
            return _again, (resolved, self.labels, self.config, dict(self.weights))

        def examples(self, row: Row, *, training: bool) -> list[Example]:
            with naming(shown, resolved, row.where):
                examples = _all_are(super().examples(row, training=training), Example, kind.examples, shown)
            _check(examples, row, _place(kind.examples, shown))
            return examples

        def example(self, row: Row) -> Example:
            with naming(shown, resolved, row.where):
                example: Example = _is(super().example(row), Example, kind.example, shown)
            _check([example], row, _place(kind.example, shown))
            return example

        def parse(self, text: str, lang: str) -> str:
            with naming(shown, resolved, f"the output {text[:60]!r}"):
                return _is(super().parse(text, lang), str, kind.parse, shown)

        def choose(self, scores: Mapping[str, float]) -> str:
            with naming(shown, resolved, f"{len(scores)} choices"):
                return _is(super().choose(scores), str, kind.choose, shown)

        def failure(self, prediction: str, example: Example) -> str | None:
            with naming(shown, resolved, f"the prediction {prediction[:60]!r}"):
                found = super().failure(prediction, example)
                return found if found is None else _is(found, str, kind.failure, shown)

    Guarded.__name__ = Guarded.__qualname__ = kind.__name__
    return Guarded


def _again(path: str, labels: Sequence[str], config: PromptConfig, weights: Mapping[str, float]) -> Task:
    """The same task in another process, which has only the file."""
    task = load_task(Path(path))(labels, config)
    task.weights = weights
    return task


@contextmanager
def naming(shown: str, resolved: str, what: str) -> Iterator[None]:
    """Turn any error of the user's code into a DataError with its line and what it was given."""
    try:
        yield
    except LlamaTasksError:
        raise
    except Exception as error:
        raise DataError(
            f"{shown}:{line_of(error, resolved)}: the task's code failed on {what}: {spell(error)}."
        ) from None


def _is(value: Any, wanted: type, function: Callable[..., Any], shown: str) -> Any:
    if isinstance(value, wanted):
        return value
    article = "an" if wanted.__name__[0] in "AEIOU" else "a"
    raise DataError(f"{_place(function, shown)} must return {article} {wanted.__name__}, not {value!r:.60}.")


def _all_are(values: Sequence[Any], wanted: type, function: Callable[..., Any], shown: str) -> Any:
    for value in _is(values, list, function, shown):
        _is(value, wanted, function, shown)
    return values


def _check(examples: Sequence[Example], row: Row, place: str) -> None:
    """Raise DataError for an Example that holds anything but text, RecipeError for ids that do not tell them apart."""
    for example in examples:
        for what, texts in _texts(example):
            wrong = [text for text in texts if not isinstance(text, str)]
            if isinstance(texts, str) or wrong:
                found = texts if isinstance(texts, str) else wrong[0]
                due = "a tuple of texts" if isinstance(texts, str) else "text"
                raise DataError(f"{row.where}: {place} gave an Example whose {what} is {found!r:.60}, not {due}.")
    _check_ids(examples, row, place)


def _texts(example: Example) -> Iterator[tuple[str, Sequence[Any]]]:
    """What an Example holds, by its name in a message; a text where texts are due is wrong too."""
    yield from ((f"field {key!r}", (text,)) for key, text in example.fields.items())
    yield from (("target", (example.target,)), ("lang", (example.lang,)))
    yield from (("references", example.references), ("choices", example.choices))
    for turn in example.turns:
        yield "turn", (*turn.fields.values(), turn.answer)


def _check_ids(examples: Sequence[Example], row: Row, place: str) -> None:
    """Raise RecipeError unless every Example can be told from all others by its id: audit and predictions go by it."""
    seen: set[str] = set()
    for name in (example.id for example in examples):
        if name in seen:
            raise RecipeError(
                f'{place} gave two Examples of {row.where} one id, {name!r}; give each its own, such as f"{{row.id}}:2".'
            )
        if name != row.id and not str(name).startswith(f"{row.id}:"):
            raise RecipeError(
                f"{place} gave an Example of {row.where} the id {name!r}; it must be row.id, or begin with it and a colon, such "
                'as f"{row.id}:2".'
            )
        seen.add(name)


def _place(function: Callable[..., Any], shown: str) -> str:
    """A function of the user's, with file and line."""
    return f"{shown}:{function.__code__.co_firstlineno}: {function.__name__}()"


def _lines(source: str, name: str) -> dict[str, int]:
    """Line of the class, and of each attribute set in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            lines = {"class": node.lineno}
            for item in node.body:
                targets = (
                    item.targets
                    if isinstance(item, ast.Assign)
                    else [item.target]
                    if isinstance(item, ast.AnnAssign)
                    else []
                )
                lines |= {target.id: item.lineno for target in targets if isinstance(target, ast.Name)}
            return lines
    return {"class": 1}
