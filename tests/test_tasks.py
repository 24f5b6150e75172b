"""Rows become Examples; mistakes are named with file, line and field."""

from __future__ import annotations

import pytest

from llama_tasks import tasks
from llama_tasks.errors import DataError, RecipeError
from llama_tasks.prompts import Renderer
from llama_tasks.sources import Row


def row(**values: object) -> Row:
    return Row("train:0", values, "my.jsonl:1")


GOOD = [
    (
        "translate",
        row(source="Good day.", target="你好。", source_lang="en", target_lang="zh"),
        "zh",
        "你好。",
        ("你好。",),
    ),
    (
        "translate",
        row(source="Guten Tag.", target="Good day.", source_lang="de", target_lang="en"),
        "en",
        "Good day.",
        ("Good day.",),
    ),
    ("summarize", row(document="长文。", summary="短。"), "zh", "短。", ("短。",)),
    ("summarize", row(document="Long.", summary="S.", references=["S.", "T."], lang="en"), "en", "S.", ("S.", "T.")),
    (
        "qa",
        row(context="Anna lives here.", question="Who?", answers=["Anna", "Anna", "she"]),
        "en",
        "Anna",
        ("Anna", "she"),
    ),
    ("qa", row(context="安娜住在这里。", question="谁？", answers=[]), "zh", "无法回答", ()),
    (
        "qa",
        row(context="C.", question="Q?", answers={"text": ["C"], "answer_start": [0]}, lang="en"),
        "en",
        "C",
        ("C",),
    ),
    ("qa", row(context="From a CSV.", question="Q?", answers="CSV"), "en", "CSV", ("CSV",)),
    (
        "summarize",
        row(document="长文。", summary="short", url="https://example.org/a/long/address", lang="zh-CN"),
        "zh",
        "short",
        ("short",),
    ),
    (
        "summarize",
        row(document="长文。", summary="short", url="https://example.org/a/long/address"),
        "zh",
        "short",
        ("short",),
    ),
    ("classify", row(text="Ball.", label="sports"), "en", "sports", ("sports",)),
    ("classify", row(text="球赛", label="food", lang="zh"), "zh", "food", ("food",)),
]


@pytest.mark.parametrize(("name", "given", "lang", "target", "references"), GOOD)
def test_rows_become_examples(name: str, given: Row, lang: str, target: str, references: tuple[str, ...]) -> None:
    task = tasks.create(name, ["food", "sports"])
    example = task.example(given)
    assert (example.lang, example.target, example.references) == (lang, target, references)
    text = Renderer(task)(example).text
    assert all(value in text for key, value in example.fields.items() if key == task.main_field)
    assert "{" not in text


def test_translation_prompt_names_the_languages() -> None:
    task = tasks.create("translate")
    text = Renderer(task)(task.example(GOOD[0][1])).text
    assert text == "Translate from English to Chinese.\n\nGood day.\n\nChinese:"


def test_chinese_prompts_are_chinese() -> None:
    task = tasks.create("qa")
    assert Renderer(task)(task.example(GOOD[5][1])).text == "根据文章回答问题。\n\n安娜住在这里。\n\n问题：谁？\n答案："


@pytest.mark.parametrize(
    ("text", "lang", "parsed"), [(" Anna\n", "en", "Anna"), ("unanswerable", "en", ""), ("无法回答", "zh", "")]
)
def test_qa_parses_no_answer_as_empty(text: str, lang: str, parsed: str) -> None:
    assert tasks.create("qa").parse(text, lang) == parsed


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "summarize",
            row(article="x", summary="y"),
            "my.jsonl:1: the task 'summarize' needs the column 'document'; found: article, summary",
        ),
        ("summarize", row(documents="x", summary="y"), "data.columns.document=documents"),
        ("summarize", row(document=None, summary="y"), "the field 'document' must be text, not null"),
        ("summarize", row(document=" ", summary="y"), "the field 'document' is empty"),
        ("summarize", row(document="x", summary=["y"]), "must be text, not list"),
        ("summarize", row(document="x", summary="y", lang=3), "must be a language code"),
        ("translate", row(source="a", target="b"), "data.constants.source_lang=en"),
        ("qa", row(context="a", question="b", answers=3), "must be a list of texts, not 3"),
        ("qa", row(context="a \ud800", question="b", answers=["c"]), "holds half a character"),
        ("qa", row(context="a", question="b", answers=[1]), "must be a list of texts"),
        (
            "classify",
            row(text="a", label="sport"),
            "the label 'sport' is not in the label set (food, sports). Did you mean 'sports'?",
        ),
        ("text", row(text=""), "is empty"),
    ],
)
def test_mistakes_are_named(name: str, given: Row, message: str) -> None:
    with pytest.raises(DataError) as caught:
        tasks.create(name, ["food", "sports"]).example(given)
    assert message in str(caught.value)


def test_labels_come_from_the_rows() -> None:
    assert tasks.labels_of([row(label="b"), row(label="a"), row(label="b")]) == ["a", "b"]
    with pytest.raises(DataError, match="needs two or more"):
        tasks.labels_of([row(label="a")])


def test_numbers_are_labels_too() -> None:
    assert tasks.labels_of([row(label=1), row(label=0)]) == ["0", "1"]


def test_unknown_task() -> None:
    with pytest.raises(RecipeError, match="no task 'dream'"):
        tasks.create("dream")
