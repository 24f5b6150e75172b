"""What a task reads beside its columns: a row where that is wrong is told with all others, or set aside and counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import make_base, make_rows

from llama_tasks import dataset
from llama_tasks.adapters import load_tokenizer
from llama_tasks.dataset import streaming
from llama_tasks.errors import DataError, RecipeError
from llama_tasks.inspection import gather
from llama_tasks.prompts import Renderer
from llama_tasks.recipe import load_recipe

OWN = '''"""Shout, with a hint that rows may have."""
from llama_tasks.tasks import Example, Task, text_of


class Shout(Task):
    name = "shout"
    columns = ("text", "loud")
    main_field = "text"
    target_column = "loud"
    templates = {"default": "{hint} Shout: {text}\\n"}

    def example(self, row):
        loud = text_of(row, "loud")
        if "fails" in row.values:
            return row.values["nothing"]
        hint = row.values["hint"] if "tip" not in row.values else text_of(row, "tip")
        return Example(row.id, {"text": text_of(row, "text"), "hint": hint}, loud, (loud,), "en")
'''
QA = {"context": "Anna lives in Oakfield.", "question": "Where?", "answers": ["Oakfield"]}
TRANSLATION = {"source": "Ein Hund", "target": "A dog", "source_lang": "de", "target_lang": "en"}
# task: (a good row, what the recipe says, [(what makes another row bad, what is said of it)])
CASES: dict[str, tuple[dict[str, Any], str, list[tuple[dict[str, Any], str]]]] = {
    "classify": ({"text": "good", "label": "yes"}, "", [
        ({"text_pair": None}, "the field 'text_pair' must be text, not null"),
        ({"text_pair": " "}, "the field 'text_pair' is empty"),
        ({"label": ["yes", "no"]}, "the field 'label' is a list, but text in"),
        ({"lang": 5}, "the field 'lang' must be a language code such as en or zh, not 5"),
    ]),
    "qa": (QA, "prompt: {extractive: true}\ndata: {free_answers: true}", [
        ({"answers": ["Hillford"]}, "the answer 'Hillford' does not stand in the context"),
        ({"answers": ["Oakfield", "oakfield"]}, "the answer 'oakfield' does not stand in the context"),
        ({"lang": ""}, "the field 'lang' must be a language code"),
    ]),
    "summarize": ({"document": "A dog barks.", "summary": "A dog"}, "prompt: {length: 5}", [
        ({"references": "A dog", "lang": []}, "the field 'lang' must be a language code"),
        ({"references": [3]}, "the field 'references' must be a list of texts, not [3]"),
        ({"length": "some"}, "the field 'length' must be a whole number above 0, not 'some'"),
    ]),
    "translate": (TRANSLATION, "", [
        ({"source_lang": None}, "a translation needs 'source_lang'"),
        ({"target_lang": ""}, "a translation needs 'target_lang'"),
    ]),
    "text": ({"text": "A dog barks."}, "", [({"lang": 5}, "the field 'lang' must be a language code")]),
    "shout.py": ({"text": "a", "loud": "A", "hint": "Now"}, "", [
        ({"tip": None}, "the field 'tip' must be text, not null"),
        ({"fails": 1}, "shout.py:15: the task's code failed: KeyError: 'nothing'"),
        ({"hint": 7}, "shout.py:12: example() gave an Example whose field 'hint' is 7, not text"),
    ]),
}  # fmt: skip


def recipe_of(folder: Path, task: str, *overrides: str) -> Any:
    """Six good rows to train on, and the bad ones of the case in the test split, between two good ones."""
    good, settings, bad = CASES[task]
    (folder / "shout.py").write_text(OWN)
    rows: list[dict[str, Any]] = [{**good, "number": n} for n in range(6)]
    if task == "classify":
        rows += [{**rows[0], "label": "no", "number": 6}]
    for name in ("train", "validation"):
        make_rows(folder / f"{name}.jsonl", rows)
    make_rows(folder / "test.jsonl", [rows[0], *({**good, **change} for change, _ in bad), rows[1]])
    (folder / "mine.yaml").write_text(f"task: {task}\n{settings}\n")
    files = [f"data.{name}={folder / name}.jsonl" for name in ("train", "validation", "test")]
    return load_recipe(folder / "mine.yaml", [*files, *overrides])


@pytest.mark.parametrize("task", CASES)
def test_all_are_told_at_once(tmp_path: Path, task: str) -> None:
    bad = [(n, why) for n, (_, why) in enumerate(CASES[task][2], 2) if "is a list, but" not in why]
    with pytest.raises(DataError) as caught:
        dataset.read(
            recipe_of(tmp_path, task, "data.on_bad_row=stop") if task != "classify" else _without_list(tmp_path)
        )
    told = str(caught.value)
    for number, why in bad:
        assert f"test.jsonl:{number}: {why}" in told.replace(f"{tmp_path}/shout", "shout")
    assert "data.on_bad_row=skip" in told
    assert told.count(f"{tmp_path}/test.jsonl") == len(bad)


def _without_list(folder: Path) -> Any:
    """Rows of which sources lets all pass."""
    recipe = recipe_of(folder, "classify")
    lines = (folder / "test.jsonl").read_text().splitlines()
    (folder / "test.jsonl").write_text("\n".join("" if '["yes", "no"]' in line else line for line in lines))
    return recipe


@pytest.mark.parametrize("task", CASES)
def test_they_are_set_aside_and_counted(tmp_path: Path, task: str) -> None:
    made, _, splits = dataset.read(recipe_of(tmp_path, task, "data.on_bad_row=skip"))
    test, bad = splits["test"], CASES[task][2]
    assert [(row.id, row.where.rpartition(":")[2]) for row in test.rows] == [
        ("test:0", "1"),
        ("test:1", str(len(bad) + 2)),
    ]
    told = test.describe()["set_aside"]
    assert told["rows"] == len(bad)
    assert all(any(why in line.replace(f"{tmp_path}/shout", "shout") for line in told["first"]) for _, why in bad)
    assert "set_aside" not in splits["train"].describe()
    assert len(dataset.render_all(made, Renderer(made), test, training=False)) == 2


@pytest.mark.parametrize("task", [task for task in CASES if task != "classify"])  # where sources finds one before
def test_rows_of_a_set_are_told_or_set_aside_too(tmp_path: Path, task: str) -> None:
    skipping = recipe_of(tmp_path, task, "data.on_bad_row=skip")
    _, rows, _ = dataset.to_score(skipping, "test")
    assert (len(rows.rows), rows.set_aside.count) == (2, len(CASES[task][2]))
    with pytest.raises(DataError) as caught:
        dataset.to_score(replace(skipping, data=replace(skipping.data, on_bad_row="stop")), "test")
    assert str(caught.value).count(f"{tmp_path}/test.jsonl:") == len(CASES[task][2])


def test_labels_of_rows_that_a_set_leaves_out_are_no_choices(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in ("yes", "no", "maybe ")]
    (tmp_path / "mine.yaml").write_text("task: classify\n")
    given = f"data.test={make_rows(tmp_path / 'test.jsonl', rows)}"
    task, kept, _ = dataset.to_score(load_recipe(tmp_path / "mine.yaml", [given, "data.on_bad_row=skip"]), "test")
    assert (task.labels, kept.set_aside.count) == (("no", "yes"), 1)


def test_labels_of_rows_that_are_set_aside_are_no_labels(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "classify", "data.on_bad_row=skip")
    rows = [{"text": f"{n}", "label": label} for n, label in enumerate(["yes", "no", "yes"])]
    make_rows(tmp_path / "train.jsonl", [*rows, {"text": "3", "text_pair": None, "label": "maybe"}])
    make_rows(tmp_path / "test.jsonl", [*rows, {"text": "4", "label": "maybe"}])
    task, labels, splits = dataset.read(recipe)
    assert labels == ["no", "yes"] == list(task.labels)
    assert "the label 'maybe' is not in the label set" in splits["test"].describe()["set_aside"]["first"][0]


def test_a_split_of_bad_rows_alone_is_an_error(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "translate", "data.on_bad_row=skip")
    make_rows(tmp_path / "test.jsonl", [{**TRANSLATION, "source_lang": None}] * 3)
    with pytest.raises(
        DataError, match=r"No row of the test split can be used: all 3 were set aside, .*test.jsonl:3: a tr"
    ):
        dataset.read(recipe)


def test_a_blank_field_of_the_prompt(tmp_path: Path) -> None:
    """Set aside with the others; otherwise the audit names it, with its switch."""
    recipe = recipe_of(tmp_path, "shout.py", "data.on_bad_row=skip")
    make_rows(tmp_path / "test.jsonl", [CASES["shout.py"][0], {"text": "b", "loud": "B", "hint": ""}])
    _, _, splits = dataset.read(recipe)
    assert "the field 'hint' of its prompt is empty" in splits["test"].describe()["set_aside"]["first"][0]
    allowed = replace(recipe, prompt=replace(recipe.prompt, allow=["empty_field"]))
    assert len(dataset.read(allowed)[2]["test"].rows) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_of_a_stream(tmp_path: Path, workers: int) -> None:
    stream = ["data.streaming=true", "train.max_steps=2", f"data.num_workers={workers}"]
    recipe = recipe_of(
        tmp_path, "translate", "data.on_bad_row=skip", f"base.model={make_base(tmp_path / 'base')}", *stream
    )
    good = [{**TRANSLATION, "source": f"Hund {n}"} for n in range(40)]
    make_rows(
        tmp_path / "train.jsonl", [{**row, "source_lang": None} if n % 9 == 0 else row for n, row in enumerate(good)]
    )
    made = dataset.prepare(recipe, load_tokenizer(recipe.base))
    assert made.stream is not None
    tokens = [item.id for chunk, _ in made.stream.read(0) for item in chunk]
    assert len(tokens) == 35
    assert made.stream.bad.count == 5
    assert "a translation needs 'source_lang'" in made.stream.bad.first[0].why
    assert len(streaming.beginning(recipe, made.task).rows) == 35
    assert gather(recipe, load_tokenizer(recipe.base)).sources["train"]["set_aside"]["rows"] == 5
    stopping = recipe_of(tmp_path, "translate", f"base.model={tmp_path / 'base'}", *stream)
    make_rows(tmp_path / "test.jsonl", [TRANSLATION])
    make_rows(
        tmp_path / "train.jsonl", [{**row, "source_lang": None} if n % 9 == 0 else row for n, row in enumerate(good)]
    )
    with pytest.raises(DataError, match="5 rows cannot be used"):
        dataset.prepare(stopping, load_tokenizer(stopping.base))


def test_rows_to_predict_are_told_at_once(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "translate", f"base.model={make_base(tmp_path / 'base')}")
    make_rows(tmp_path / "rows.jsonl", [{**TRANSLATION, "source_lang": None}] * 2)
    with pytest.raises(DataError, match=r"2 rows cannot be used:(?s:.*)every row gets its prediction") as caught:
        dataset.for_prediction(recipe, tmp_path / "rows.jsonl", load_tokenizer(recipe.base))
    assert "skip" not in str(caught.value)
    make_rows(
        tmp_path / "rows.jsonl", [{"text": "rain", **{k: v for k, v in TRANSLATION.items() if k.endswith("lang")}}]
    )
    with pytest.raises(
        DataError, match=r"needs the column 'source'; found: text, source_lang, target_lang\. .*source=text"
    ):
        dataset.for_prediction(recipe, tmp_path / "rows.jsonl", load_tokenizer(recipe.base))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("[row.id, row.id]", r"shout.py:19: examples\(\) gave two Examples of .*train.jsonl:1 one id, 'train:0'; give each"),
        ("['x', 'y']", r"shout.py:19: examples\(\) gave an Example of .*train.jsonl:1 the id 'x'; it must be row.id, or begin"),
        ("[row.id, f'{row.id}:2.b']", ""),
    ],
)  # fmt: skip
def test_examples_of_a_row_have_ids_of_their_own(tmp_path: Path, ids: str, message: str) -> None:
    base = f"base.model={make_base(tmp_path / 'base')}"
    recipe = recipe_of(tmp_path, "shout.py", base, "data.on_bad_row=skip", "prompt.allow=[leak]")
    code = f"""
    def examples(self, row, training):
        from dataclasses import replace
        return [replace(self.example(row), id=name) for name in {ids}]
"""
    (tmp_path / "shout.py").write_text(OWN + code)
    if message:
        with pytest.raises(RecipeError, match=message):
            dataset.read(recipe)
    else:
        prompts = dataset.prepare(recipe, load_tokenizer(recipe.base)).prompts["train"]
        assert [prompt.example.id for prompt in prompts][:3] == ["train:0", "train:0:2.b", "train:1"]
