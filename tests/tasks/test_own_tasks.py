"""A task in a file of the user's own: what is wrong with it is one sentence with file and line."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from operations import Operations

from llama_tasks import metrics, rundir, tasks
from llama_tasks.errors import DataError, MetricError, RecipeError
from llama_tasks.recipe import PromptConfig, Recipe, load_recipe
from llama_tasks.rundir.lock import LOCK_FILE
from llama_tasks.sources import Row

GOOD = '''"""Shout."""
from llama_tasks.tasks import Example, Task, text_of


def loud(prediction, references):
    return float(prediction.isupper())


class Shout(Task):
    name = "shout"
    columns = ("text", "loud")
    main_field = "text"
    target_column = "loud"
    templates = {"default": "Shout: {text}\\n"}
    metrics = {"loud": loud}

    def example(self, row):
        self.check_columns(row)
        text = text_of(row, "loud")
        return Example(row.id, {"text": text_of(row, "text")}, text, (text,), "en")
'''


def write(folder: Path, text: str) -> str:
    path = folder / "shout.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def row(**values: Any) -> Row:
    return Row("train:0", values, "my.jsonl:1")


def test_a_file_is_a_task(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    task = tasks.create(path)
    assert task.name == "shout"
    assert task.example(row(text="a", loud="A")).target == "A"
    assert task.parse(" A ", "en") == "A"
    assert metrics.score(metrics.create("loud", "en", own=task.metrics), ["A", "b"], [["A"], ["B"]]).value == 50.0
    assert tasks.create(path).__class__ is task.__class__  # read once
    assert len(tasks.source_sha256(path) or "") == 64


def test_a_task_travels_to_another_process(tmp_path: Path) -> None:
    task = tasks.create(write(tmp_path, GOOD), ["a", "b"], PromptConfig(max_length=99))
    task.weights = {"a": 2.0}
    again = pickle.loads(pickle.dumps(task))  # noqa: S301 - our own bytes
    assert (again.labels, again.config, again.weights) == (("a", "b"), task.config, {"a": 2.0})
    assert again.example(row(text="a", loud="A")) == task.example(row(text="a", loud="A"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("def example(self, row):", "def example(self, row:"), "shout.py:17: this is not valid Python"),
        (("class Shout(Task):", "class Shout:"), "must define one class that subclasses llama_tasks.tasks.Task; it defines: none"),
        (('    name = "shout"\n', ""), "shout.py:9: the task Shout lacks `name`, a short name"),
        (('columns = ("text", "loud")', 'columns = "text"'), "shout.py:11: `columns` must be a tuple of field names, not 'text'"),
        (('target_column = "loud"', 'target_column = "lod"'), "shout.py:9: `target_column` must be one of `columns`"),
        (("Shout: {text}", "Shout: {txt}"), "shout.py:14: every template must name `main_field`: {text}"),
        (('{"loud": loud}', '{"loud": 3}'), "shout.py:15: the metric 'loud' must be a function or a class, not 3"),
        (('"default": "Shout', '"default": 5, "en": "Shout'), "shout.py:14: `templates` must hold texts by language code"),
        (("def example", "def sample"), "shout.py:9: the task Shout lacks `example(self, row)`"),
        (("def loud(prediction", "import nosuchthing\ndef loud(prediction"), "shout.py:5: ModuleNotFoundError: No module named"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(RecipeError) as caught:
        tasks.create(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('        text = text_of(row, "loud")', '        text = row.values["nothing"]'),
         "shout.py:19: the task's code failed on my.jsonl:1: KeyError: 'nothing'"),
        (('        return Example(row.id, {"text": text_of(row, "text")}, text, (text,), "en")', "        return text"),
         "shout.py:17: example() must return an Example, not 'A'"),
    ],
)  # fmt: skip
def test_wrong_functions_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(DataError) as caught:
        tasks.create(path).example(row(text="a", loud="A"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_parser_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "\n    def parse(self, text, lang):\n        return [text]\n")
    with pytest.raises(DataError, match=r"shout.py:22: parse\(\) must return a str, not \['A'\]"):
        tasks.create(path).parse("A", "en")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return prediction.nothing", r"shout.py:6: the metric 'loud' failed on the prediction 'A': AttributeError"),
        (
            "return 'much'",
            r"shout.py:5: the metric 'loud' must give a number or \(numerator, denominator\), not 'much'",
        ),
        ("return 3", r"shout.py:5: the metric 'loud' must give 0 to 1 a row, not 3"),
        ("return float('nan')", r"must give a number"),
    ],
)
def test_wrong_metrics_are_named(tmp_path: Path, body: str, message: str) -> None:
    task = tasks.create(write(tmp_path, GOOD.replace("return float(prediction.isupper())", body)))
    with pytest.raises(MetricError, match=message):
        metrics.create("loud", "en", own=task.metrics).statistics(["A"], [["A"]])


def test_a_metric_may_be_a_class(tmp_path: Path) -> None:
    text = '''
import numpy as np


class Longest:
    """The longest prediction, in characters."""

    def __init__(self, lang):
        self.lang = lang

    def statistics(self, predictions, references):
        return np.array([[len(p), 1.0] for p in predictions])

    def aggregate(self, sums):
        return sums[..., 0] / sums[..., 1]


class Shout(Task):'''
    path = write(tmp_path, GOOD.replace("\nclass Shout(Task):", text).replace('"loud": loud', '"length": Longest'))
    score = metrics.score(metrics.create("length", "en", own=tasks.create(path).metrics), ["A", "bbb"], [["A"], ["B"]])
    assert score.value == 2.0
    assert "own:Longest|sha256:" in score.signature
    with pytest.raises(MetricError, match="lacks `statistics`"):
        metrics.create("odd", "en", own={"odd": type("Odd", (), {"__init__": lambda self, lang: None})})


def test_unknown_metrics_name_the_tasks_own(tmp_path: Path) -> None:
    task = tasks.create(write(tmp_path, GOOD))
    with pytest.raises(MetricError, match="did you mean 'loud'"):
        metrics.create("load", "en", own=task.metrics)


def test_the_recipe_finds_the_file_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("task: shout.py\n")
    assert load_recipe(recipe).task == path
    recipe.write_text("task: shouts.py\n")
    with pytest.raises(RecipeError, match=r"there is no task file 'shouts.py' \(looked for"):
        load_recipe(recipe)
    recipe.write_text("task: shout\n")
    with pytest.raises(RecipeError, match=r"A task of your own is a .py file"):
        load_recipe(recipe)


def test_the_file_in_the_documentation_works(root: Path, tmp_path: Path) -> None:
    text = (root / "docs/tasks.md").read_text(encoding="utf-8")
    task = tasks.create(write(tmp_path, text.split("```python\n")[1].split("```")[0]))
    example = task.example(row(article="A dog barks loudly.", headline="Dog barks", lang="en"))
    assert (example.target, task.parse("Dog barks\nMore", "en")) == ("Dog barks", "Dog barks")
    values = {"word_f1": 100 * 2 * 1 / 4, "short_enough": 100.0}
    for name, value in values.items():
        assert (
            metrics.score(metrics.create(name, "en", own=task.metrics), ["Cat barks"], [["Dog barks"]]).value == value
        )


def test_a_run_killed_while_it_is_created_has_not_begun(tmp_path: Path) -> None:
    """At every operation: another run may take the directory, and the copy of the task is the recipe's."""
    source = write(tmp_path, GOOD)
    recipe = Recipe(source)
    with Operations(None).active() as counted:
        rundir.RunDirectory(tmp_path / "counted").create(recipe, {})
    names = [operation.split()[1].split(".")[-3] for operation in counted.done if operation.startswith("write")]
    assert names[-1] == "yaml"  # the recipe is the last
    for fatal in range(len(counted.done) - 2):  # the last two: the recipe has its name, and the folder is flushed
        run = rundir.RunDirectory(tmp_path / f"run{fatal}")
        run.path.mkdir()
        (run.path / LOCK_FILE).touch()
        with pytest.raises(OSError, match="No space"), Operations(fatal, "full").active():
            run.create(recipe, {})
        rundir.claim(run.path, resume=False, overwrite=False, mine=True).create(recipe, {})
        assert tasks.source_sha256(run.recipe().task) == tasks.source_sha256(source)
        rundir.clear(run)
        run.create(Recipe("summarize"), {})
        assert not (run.path / rundir.TASK_FILE).exists()


def test_a_task_file_is_utf8_and_may_have_a_system_text(tmp_path: Path) -> None:
    path = tmp_path / "shout.py"
    path.write_bytes(("# 喊\n" + GOOD).encode("gb18030"))
    with pytest.raises(RecipeError, match="is not UTF-8 text"):
        tasks.create(str(path))
    path.write_text(GOOD.replace('"default": "Shout', '"system": "Be loud.", "default": "Shout'), encoding="utf-8")
    assert tasks.create(str(path)).templates["system"] == "Be loud."
