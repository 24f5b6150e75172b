"""Published shapes need no mapping; each is read through a file, as a user would have it."""

# ruff: noqa: E501 - a table is read along its lines

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llama_tasks import tasks
from llama_tasks.errors import DataError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import Split, load_splits, read_to_predict

QAS = [
    {"id": "1", "question": "Where?", "answers": [{"text": "Bergen", "answer_start": 12}, {"text": "in Bergen", "answer_start": 9}]},
    {"id": "2", "question": "When?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "It"}]},
]  # fmt: skip
CONTEXT = "It rains in Bergen."

CASES: dict[str, tuple[str, Any, dict[str, str], list[dict[str, Any]], str]] = {
    "SQuAD, nested": (
        "qa", {"version": "v2.0", "data": [{"title": "Rain", "paragraphs": [{"context": CONTEXT, "qas": QAS}]}]}, {},
        [{"context": CONTEXT, "question": "Where?", "answers": ["Bergen", "in Bergen"], "qid": "1"},
         {"context": CONTEXT, "question": "When?", "answers": [], "qid": "2"}], "SQuAD (nested JSON)"),
    "SQuAD, Hub": (
        "qa", [{"id": "1", "context": CONTEXT, "question": "Where?", "answers": {"text": ["Bergen"], "answer_start": [12]}},
               {"id": "2", "context": CONTEXT, "question": "When?", "answers": {"text": [], "answer_start": []}}], {},
        [{"id": "1", "context": CONTEXT, "question": "Where?", "answers": ["Bergen"]},
         {"id": "2", "context": CONTEXT, "question": "When?", "answers": []}], "SQuAD"),
    "WMT": (
        "translate", [{"translation": {"de": "Regen", "en": "rain"}}], {},
        [{"source": "Regen", "target": "rain", "source_lang": "de", "target_lang": "en"}], "WMT/OPUS translation"),
    "WMT, turned": (
        "translate", [{"translation": {"de": "Regen", "en": "rain"}}], {"target_lang": "de"},
        [{"source": "rain", "target": "Regen", "source_lang": "en", "target_lang": "de"}], "WMT/OPUS translation"),
    "OPUS of three": (
        "translate", [{"id": "7", "translation": {"de": "Regen", "en": "rain", "zh": "雨"}}], {"source_lang": "en", "target_lang": "zh"},
        [{"source": "rain", "target": "雨", "source_lang": "en", "target_lang": "zh", "id": "7"}], "WMT/OPUS translation"),
    "CNN": ("summarize", [{"article": "Long.", "highlights": "Short."}], {}, [{"document": "Long.", "summary": "Short."}], "CNN/DailyMail"),
    "XSum": ("summarize", [{"document": "Long.", "summary": "Short."}], {}, [{"document": "Long.", "summary": "Short."}], ""),
    "SAMSum": ("summarize", [{"dialogue": "A: hi", "summary": "Hi."}], {}, [{"document": "A: hi", "summary": "Hi."}], "SAMSum/DialogSum"),
    "LCSTS": ("summarize", [{"text": "长文", "summary": "短"}], {}, [{"document": "长文", "summary": "短"}], "BillSum/LCSTS"),
    "AG News": ("classify", [{"text": "Oil up.", "label": "Business"}], {}, [{"text": "Oil up.", "label": "Business"}], ""),
    "SST-2": ("classify", [{"sentence": "fine", "label": "good", "idx": 0}], {}, [{"text": "fine", "label": "good", "idx": 0}], "GLUE single sentence"),
    "MRPC": ("classify", [{"sentence1": "a", "sentence2": "b", "label": "same"}], {}, [{"text": "a", "text_pair": "b", "label": "same"}], "GLUE/CLUE sentence pair"),
    "MNLI": ("classify", [{"premise": "a", "hypothesis": "b", "label": "neutral"}], {}, [{"text": "a", "text_pair": "b", "label": "neutral"}], "GLUE NLI"),
    "QQP": ("classify", [{"question1": "a", "question2": "b", "label": "no"}], {}, [{"text": "a", "text_pair": "b", "label": "no"}], "GLUE QQP"),
    "QNLI": ("classify", [{"question": "a", "sentence": "b", "label": "yes"}], {}, [{"text": "a", "text_pair": "b", "label": "yes"}], "GLUE QNLI"),
    "TNEWS": ("classify", [{"label": "108", "label_desc": "news_edu", "sentence": "上课时"}], {}, [{"text": "上课时", "label": "news_edu"}], "CLUE TNEWS"),
    "IFLYTEK": ("classify", [{"label": "0", "label_des": "打车", "sentence": "应用"}], {}, [{"text": "应用", "label": "打车"}], "CLUE IFLYTEK"),
    "alpaca": (
        "mine", [{"instruction": "Add.", "input": "1 2", "output": "3"}, {"instruction": "Hi.", "output": "Hello."}], {},
        [{"instruction": "Add.", "input": "1 2", "output": "3"}, {"instruction": "Hi.", "input": "", "output": "Hello."}], "alpaca"),
    "sharegpt": (
        "mine", [{"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}], {},
        [{"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}], "sharegpt"),
    "messages": (
        "mine", [{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "content": "Hello"}]}], {},
        [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}], "OpenAI messages"),
}  # fmt: skip
FIELDS = {"alpaca": ("instruction", "input", "output"), "sharegpt": ("messages",), "messages": ("messages",)}


@pytest.mark.parametrize("case", CASES)
def test_a_published_shape_needs_no_mapping(tmp_path: Path, case: str) -> None:
    task, content, constants, expected, name = CASES[case]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    given = [str(path)]
    data = DataConfig(train=given, validation=given, test=given, constants=constants)
    fields = FIELDS.get(case) or tasks.create(task).columns
    split = load_splits(data, task, "", 1, fields)["train"]
    assert [row.values for row in split.rows] == [{**constants, **row} for row in expected]
    assert split.describe().get("read_as", []) == ([name] if name else [])


def test_rows_become_examples_of_their_task(tmp_path: Path) -> None:
    for case, (task, content, _, _, _) in CASES.items():
        if task == "mine":
            continue
        (tmp_path / "rows.json").write_text(json.dumps(content), encoding="utf-8")
        rows = list(read_to_predict(tmp_path / "rows.json", DataConfig(constants=CASES[case][2]), task))
        labels = [row.values["label"] for row in rows] if task == "classify" else []
        assert all(tasks.create(task, labels).example(row).target for row in rows)


def test_the_recipes_own_columns_come_before_any_shape(tmp_path: Path) -> None:
    row = {"article": "Long.", "highlights": "Short.", "abstract": "Mine."}
    (tmp_path / "rows.json").write_text(json.dumps([row]), encoding="utf-8")
    given = [str(tmp_path / "rows.json")]
    data = DataConfig(train=given, validation=given, test=given, columns={"document": "article", "summary": "abstract"})
    split = load_splits(data, "summarize", "document", 1, ("document", "summary"))["test"]
    assert split.rows[0].values["summary"] == "Mine."
    assert split.read_as == ()


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("summarize", {"document": "Long.", "summary": "Short.", "text": "Raw.", "article": "A.", "highlights": "H."}),
        ("classify", {"text": "mine", "label": "x", "sentence": "theirs", "label_desc": "y"}),
        ("translate", {"source": "a", "target": "b", "translation": {"de": "c", "en": "d"}}),
        ("qa", {"context": CONTEXT, "question": "Where?", "answers": ["Bergen"], "paragraphs": []}),
    ],
)
def test_the_tasks_own_fields_come_before_any_shape(tmp_path: Path, task: str, row: dict[str, Any]) -> None:
    fields = tasks.create(task).columns
    own = {name: row[name] for name in fields}
    split = _read(tmp_path, task, [row, own])
    assert [found.values for found in split.rows] == [row, own]
    assert split.read_as == ()
    predicted = list(read_to_predict(tmp_path / "rows.json", DataConfig(), task, fields))
    assert [found.values for found in predicted] == [row, own]


def test_own_fields_of_a_task_of_ones_own_are_not_renamed(tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "Hi"}]}
    assert _read(tmp_path, "mine", [row], ("conversations",)).rows[0].values == row


def test_rows_that_are_not_alike_are_told(tmp_path: Path) -> None:
    theirs, own = {"sentence": "a", "label": "x"}, {"text": "a", "label": "x"}
    alike = (
        r"rows.json:2: the field 'sentence' is missing \(the row has: text, label\); the file is read as GLUE single "
    )
    with pytest.raises(DataError, match=alike + r"sentence, which .*rows.json:1 is"):
        _read(tmp_path, "classify", [theirs, own])
    with pytest.raises(DataError, match=r"rows.json:2: the field 'text' is missing \(the row has: sentence, label\)"):
        _read(tmp_path, "classify", [own, theirs])


def _read(folder: Path, task: str, rows: list[dict[str, Any]], fields: tuple[str, ...] = ()) -> Split:
    (folder / "rows.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = [str(folder / "rows.json")]
    data = DataConfig(train=given, validation=given, test=given)
    return load_splits(data, task, "", 1, fields or tasks.create(task).columns)["train"]


def test_a_language_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"translation": {"de": "Regen", "en": "rain"}}]), encoding="utf-8")
    given = [str(tmp_path / "rows.json")]
    data = DataConfig(train=given, validation=given, test=given, constants={"target_lang": "fr"})
    with pytest.raises(DataError, match="'translation' holds de and en, but data.constants asks for 'fr'"):
        load_splits(data, "translate", "source", 1, ("source", "target"))
