"""Rows become Examples; mistakes are named with file, line and field."""

from __future__ import annotations

from typing import Any

import pytest

from llama_tasks import tasks
from llama_tasks.errors import DataError, RecipeError
from llama_tasks.prompts import Renderer
from llama_tasks.recipe import PromptConfig
from llama_tasks.sources import Row
from llama_tasks.tasks.summarize import bucket, measure


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
    (
        "summarize",
        row(document="Long.", summary="S.", references=["T.", "S.", "T."], lang="en"),
        "en",
        "S.",
        ("S.", "T."),
    ),
    ("summarize", row(document="Long.", summary="S.", references=["T."], lang="en"), "en", "S.", ("S.", "T.")),
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


@pytest.mark.parametrize(
    ("context", "question", "lang"),
    [("铺轨是音乐剧 Making Tracks, by William Drake and Brian Yorkey", "谁演出？", "zh"),
     ("这是麻省理工学院的一项计划。", "MIT OpenCourseWare 指什么？", "zh"), ("It rains.", "Where?", "en")],
)  # fmt: skip
def test_a_question_is_chinese_where_it_or_its_passage_is(context: str, question: str, lang: str) -> None:
    given = row(context=context, question=question, answers=[])
    assert tasks.create("qa").example(given).lang == lang


def test_translation_prompt_names_the_languages() -> None:
    task = tasks.create("translate")
    text = Renderer(task)(task.example(GOOD[0][1])).text
    assert text == "Translate from English to Chinese.\n\nGood day.\n\nChinese:"


def test_chinese_prompts_are_chinese() -> None:
    task = tasks.create("qa")
    given = row(context="安娜住在这里。", question="谁？", answers=["安娜"])
    assert Renderer(task)(task.example(given)).text == "根据文章回答问题。\n\n安娜住在这里。\n\n问题：谁？\n答案："


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
            "the label 'sport' is not in the label set (food, sports). Did you mean 'sports'? "
            "If it is right, list all labels in data.labels.",
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
    for split, said in (("train", "training"), ("test", "test"), ("validation", "validation")):
        told = rf"^The {said} rows hold one label only \(a\); a classification needs two or more"
        with pytest.raises(DataError, match=told):
            tasks.labels_of([row(label="a")], split=split)
    with pytest.raises(DataError, match="The training rows hold no label;"):
        tasks.labels_of([row(label=None)])


def test_numbers_are_labels_too() -> None:
    assert tasks.labels_of([row(label=1), row(label=0)]) == ["0", "1"]


def test_unknown_task() -> None:
    with pytest.raises(RecipeError, match="no task 'dream'"):
        tasks.create("dream")


def test_an_option_of_another_task_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"prompt.num_fewshot does not belong to the task 'text'"):
        tasks.create("text", config=PromptConfig(num_fewshot=2))
    with pytest.raises(RecipeError, match="prompt.both_directions does not belong to the task 'qa'"):
        tasks.create("qa", config=PromptConfig(both_directions=True))


def test_translation_in_both_directions() -> None:
    task = tasks.create("translate", config=PromptConfig(both_directions=True))
    there, back = task.examples(GOOD[0][1], training=True)
    assert (there.id, there.lang, there.target) == ("train:0", "zh", "你好。")
    assert (back.id, back.lang, back.target) == ("train:0:back", "en", "Good day.")
    assert Renderer(task)(back).text == "Translate from Chinese to English.\n\n你好。\n\nEnglish:"
    assert len(tasks.create("translate").examples(GOOD[0][1], training=True)) == 1


@pytest.mark.parametrize(
    ("prediction", "failure"),
    [("你好。", None), ("Good day.", "copied"), ("Guten Tag.", "wrong_script"), ("", None), ("12", None)],
)
def test_translations_that_fail(prediction: str, failure: str | None) -> None:
    task = tasks.create("translate")
    assert task.failure(prediction, task.example(GOOD[0][1])) == failure


SUMMARY = row(
    document="A long text of many words. " * 9, summary="One two three four. Five six seven eight nine ten eleven!"
)


@pytest.mark.parametrize(
    ("unit", "learned", "asked"),
    [
        ("auto", "10 words", "30 words"),
        ("characters", "40 characters", "30 characters"),
        ("sentences", "2 sentences", "30 sentences"),
    ],
)
def test_summaries_of_a_length(unit: str, learned: str, asked: str) -> None:
    """In training the summary's own length in coarse steps; to be answered, what the recipe or the row says."""
    task = tasks.create("summarize", config=PromptConfig(length=30, length_unit=unit))
    example = task.examples(SUMMARY, training=True)[0]
    assert Renderer(task)(example).text.startswith(f"Summarize the text in about {learned}.")
    assert task.examples(SUMMARY, training=False)[0].fields["length"] == task.example(SUMMARY).fields["length"] == asked
    short = row(**SUMMARY.values, length="1")
    assert task.example(short).fields["length"].startswith("1 ")
    with pytest.raises(DataError, match="'length' must be a whole number above 0, not 'few'"):
        task.example(row(**SUMMARY.values, length="few"))


def test_lengths_by_language_and_step() -> None:
    task = tasks.create("summarize", config=PromptConfig(length=12))
    chinese = task.examples(row(document="长文。" * 20, summary="今天天气很好，大家去公园。"), training=True)[0]
    assert Renderer(task)(chinese).text.startswith("用大约15个字概括下面的文字。")
    assert [measure("今天 好。去吧！", unit) for unit in ("words", "characters", "sentences")] == [2, 7, 2]
    assert [bucket(n, "words") for n in (1, 7, 8, 70, 9999)] == [5, 5, 10, 60, 640]
    assert task.failure("字" * 25, chinese) is None
    assert task.failure("字" * 31, chinese) == "too_long"
    assert tasks.create("summarize").failure("长文。" * 20, chinese) == "copied"


def test_several_answers() -> None:
    """Ways to say one answer, or (asked for) parts of one, whose order does not count."""
    given = row(context="Anna, Ben and Cleo sang.", question="Who?", answers=["Cleo", "Anna", "Ben"], lang="en")
    alternatives = tasks.create("qa").example(given)
    assert (alternatives.target, alternatives.references) == ("Cleo", ("Cleo", "Anna", "Ben"))
    task = tasks.create("qa", config=PromptConfig(all_answers=True, extractive=True))
    parts = task.example(given)
    assert (parts.target, parts.references) == ("Cleo; Anna; Ben", ("Anna; Ben; Cleo",))
    assert task.parse(" Ben; Cleo;Anna ; Anna", "en") == parts.references[0]
    assert task.parse("unanswerable", "en") == ""
    assert task.failure("Anna; Ben", parts) is None
    assert task.failure("Anna; Dora", parts) == "not_in_context"
    assert task.parse("安娜； 本", "zh") == "安娜；本"


def test_extractive_answers_stand_in_the_text() -> None:
    task = tasks.create("qa", config=PromptConfig(extractive=True))
    with pytest.raises(DataError, match=r"my.jsonl:1: the answer 'Dora' does not stand in the context"):
        task.example(row(context="Anna sang.", question="Who?", answers=["Dora"]))
    assert task.example(row(context="Anna sang.", question="Who?", answers=[])).target == "unanswerable"


def test_pairs_and_descriptions() -> None:
    pair = row(text="It rains.", text_pair="It is wet.", label="food", lang="en")
    task = tasks.create("classify", ["food", "sports"])
    assert Renderer(task)(task.example(pair)).text == "Classify the pair of texts.\n\nIt rains.\n\nIt is wet.\n\nLabel:"
    described = tasks.create("classify", ["food", "sports"], PromptConfig(label_descriptions={"food": "meals"}))
    text = Renderer(described)(described.example(row(text="球赛", label="food", lang="zh"))).text
    assert text == "给下面的文字分类。\n\nfood: meals\nsports\n\n球赛\n\n类别："
    with pytest.raises(RecipeError, match="names 'fod', which is no label"):
        wrong = tasks.create("classify", ["food", "sports"], PromptConfig(label_descriptions={"fod": "meals"}))
        wrong.example(pair)


def test_class_weights_equal_scikit_learns() -> None:
    import numpy as np
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["a"] * 5 + ["b"] * 2 + ["c"]
    rows = [row(text="x", label=label) for label in labels]
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels)
    found = tasks.class_weights("balanced", ["a", "b", "c"], rows, "label")
    assert list(found.values()) == pytest.approx(list(expected))
    assert sum(found[label] for label in labels) == pytest.approx(len(labels))
    task = tasks.create("classify", ["a", "b", "c"])
    task.weights = tasks.class_weights({"b": 3.0}, task.labels, rows, "label")
    assert [task.example(rows[i]).weight for i in (0, 5)] == [1.0, 3.0]
    assert tasks.class_weights(None, ["a"], rows, "label") == {}
    with pytest.raises(RecipeError, match="names 'd', which is no label"):
        tasks.class_weights({"d": 1.0}, ["a"], rows, "label")
    with pytest.raises(RecipeError, match="must be above 0"):
        tasks.class_weights({"a": 0.0}, ["a"], rows, "label")


@pytest.mark.parametrize(
    ("values", "config", "template", "left_out"),
    [
        ({"text_pair": "b"}, {}, "Text: {text}\nLabel:", "text_pair"),
        ({}, {"label_descriptions": {"food": "meals"}}, "Text: {text}\nLabel:", "labels"),
    ],
)
def test_a_template_of_ones_own_leaves_nothing_out(
    values: dict[str, str], config: dict[str, Any], template: str, left_out: str
) -> None:
    task = tasks.create("classify", ["food", "sports"], PromptConfig(**config))
    example = task.example(row(text="a", label="food", lang="en", **values))
    with pytest.raises(RecipeError, match=rf"does not name \{{{left_out}\}}"):
        Renderer(task, {"default": template})(example)
    whole = template.replace("{text}", f"{{text}} {{{left_out}}}")
    assert Renderer(task, {"default": whole})(example).text.startswith("Text: a ")


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("zh-Hans", "zh"), ("pt-BR", "pt"), ("ZH", "zh"), ("zh-CN.pair", "zh.pair"), ("zh.pairs", "zh.pair"),
        ("en.short", "en"), ("defalt", "default"), ("sytem", "system"), ("system.zh", "system"), ("chat.en", "chat"),
        ("fewshot.default", "fewshot"), ("fewshots.en", "fewshot.en"), ("fewshot.zh-Hans", "fewshot.zh"),
        ("fewshot.zh.pair", "fewshot.zh"),
    ],
)  # fmt: skip
def test_a_template_that_nothing_reads_is_refused(key: str, right: str) -> None:
    given = {"en": "{text}", "zh": "文 {text}"}
    with pytest.raises(
        RecipeError, match=rf"^Nothing reads prompt\.template\.{key}; write prompt\.template\.{right}\.$"
    ):
        Renderer(tasks.create("classify", ["a"]), {**given, key: "T {text}"})


def test_templates_that_are_read_are_kept() -> None:
    keys = ("default", "en", "yue", "no", "cat", "zh.pair", "default.described_pair", "system", "fewshot", "fewshot.zh")
    Renderer(tasks.create("classify", ["a"]), {key: f"{key} {{text}}" for key in keys})
    alone = Renderer(
        tasks.create("classify", ["a"]), {"zh-Hans": "{text}"}
    )  # serves all; its run's recipe is read again
    assert Renderer(alone.task, alone.templates).templates == alone.templates

    class Own(tasks.Task):
        name, main_field, templates = "own", "text", {"default": "{text}"}

    Renderer(Own(), {key: f"{key} {{text}}" for key in ("default", "zh-Hans", "zh-Hans.short", "fewshot.zh-Hans")})
