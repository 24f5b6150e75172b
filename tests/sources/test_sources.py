"""Readers and splits, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llama_tasks import tasks
from llama_tasks.errors import DataError, RecipeError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import hub, load_splits, read_file, read_to_predict
from llama_tasks.sources.rows import OPTIONAL

ROWS = [{"text": f"row {i} 第{i}行", "label": "a" if i % 2 else "b"} for i in range(60)]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text(lines(ROWS), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.jsonl",
            '{"d": "2024-01-01", "n": 1}\n\n{"d": "x", "n": 2}\n',
            [{"d": "2024-01-01", "n": 1}, {"d": "x", "n": 2}],
        ),
        ("a.jsonl", '\ufeff{"d": "with BOM"}\n', [{"d": "with BOM"}]),
        ("a.json", '[{"d": "x"}]', [{"d": "x"}]),
        ("a.csv", 'd,e\n"2024-01-01","a, ""b"""\n', [{"d": "2024-01-01", "e": 'a, "b"'}]),
        ("a.tsv", "d\te\n你好\tb\n", [{"d": "你好", "e": "b"}]),
        ("a.txt", "one\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n", [{"text": "one\ntwo"}, {"text": "three"}]),
        ("a.csv", "d\none\u2028row\n", [{"d": "one\u2028row"}]),
        ("a.txt", "one\r\n<|endoftext|>\r\ntwo\r\n", [{"text": "one"}, {"text": "two"}]),
        ("a.txt", "only one\n", [{"text": "only one"}]),
    ],
)
def test_readers_change_nothing(tmp_path: Path, name: str, content: str, expected: list[dict]) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert [row.values for row in read_file(path)] == expected


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert [row.values for row in read_file(tmp_path / "a.parquet")] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl:2: broken JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "a.jsonl:2: a row must be an object"),
        ("a.jsonl", b'{"a": 1, "a": 2}\n', "a.jsonl:1: broken JSON (the key 'a' stands twice)"),
        ("a.jsonl", b'{"a": NaN}\n', "NaN is no JSON value"),
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b"\n \n", "has no rows"),
        ("a.jsonl", '{"a": "你好"}\n'.encode("gb18030"), "a.jsonl:1: not UTF-8"),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), "is UTF-16"),
        (
            "a.json",
            b'{"a": 1,\n "b": 2}',
            "a.json:2: this object holds no list of rows under the key 'data' (its keys: a, b)",
        ),
        ("a.json", b'[{"a": 1},\n  {"a" 2}]', "a.json:2: broken JSON"),
        ("a.csv", b"a,b\n1\n", "a.csv:2: this row has 1 fields, the header 2"),
        ("a.csv", b'a,b\n1,"2\n', "broken CSV"),
        ("a.csv", b"a,b,a\n1,2,3\n", "the column 'a' stands twice"),
        ("a.parquet", b"PAR1 no", "no readable Parquet"),
        ("a.xlsx", b"x", "cannot read a .xlsx"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(path)
    assert message in str(caught.value)


def test_a_file_is_carved_into_disjoint_splits(folder: Path) -> None:
    data = DataConfig(train=[str(folder / "rows.jsonl")])
    splits = load_splits(data, "classify", "text", seed=1)
    texts = [{row.values["text"] for row in split.rows} for split in splits.values()]
    assert sum(map(len, texts)) == len(ROWS)
    assert all(texts)
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    again = load_splits(data, "classify", "text", seed=1)
    assert {name: split.sha256 for name, split in splits.items()} == {
        name: split.sha256 for name, split in again.items()
    }


def test_rows_with_the_same_passage_stay_on_one_side(tmp_path: Path) -> None:
    rows = [{"context": f"passage {i // 6}", "question": str(i), "answers": ["passage"]} for i in range(240)]
    (tmp_path / "qa.jsonl").write_text(lines(rows), encoding="utf-8")
    splits = load_splits(DataConfig(train=[str(tmp_path / "qa.jsonl")]), "qa", "context", seed=3)
    sides = [{row.values["context"] for row in split.rows} for split in splits.values()]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_a_row_keeps_its_side_when_the_file_is_shuffled(folder: Path) -> None:
    (folder / "back.jsonl").write_text(lines(ROWS[::-1]), encoding="utf-8")
    sides = [
        {
            row.values["text"]
            for row in load_splits(DataConfig(train=[str(folder / name)]), "classify", "text", 1)["test"].rows
        }
        for name in ("rows.jsonl", "back.jsonl")
    ]
    assert sides[0] == sides[1]


def test_a_folder_with_its_own_splits(tmp_path: Path) -> None:
    for name, part in (("train", ROWS[:40]), ("dev", ROWS[40:50]), ("test", ROWS[50:])):
        (tmp_path / f"{name}.jsonl").write_text(lines(part), encoding="utf-8")
    splits = load_splits(DataConfig(train=[str(tmp_path)]), "classify", "text", 1)
    assert [len(splits[name].rows) for name in ("train", "validation", "test")] == [40, 10, 10]
    assert splits["test"].rows[0].id == "test:0"
    assert splits["test"].rows[0].where.endswith("test.jsonl:1")


def test_each_item_of_a_list_gives_its_rows_to_the_split_that_names_it(tmp_path: Path) -> None:
    """A folder its own split of that name, a file all its rows, a folder without that split its training rows."""
    parts = {"own/train": 0, "own/test": 10, "extra": 20, "plain/train": 30, "held/validation": 40}
    for name, first in parts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_text(lines(ROWS[first : first + 10]), encoding="utf-8")
    named = [str(tmp_path / name) for name in ("own", "extra.jsonl", "plain")]
    data = DataConfig(train=named[:1], validation=named[1:2], test=named)
    test = load_splits(data, "classify", "text", 1)["test"].rows
    assert [row.values for row in test] == [*ROWS[10:20], *ROWS[20:30], *ROWS[30:40]]
    named.append(str(tmp_path / "held"))
    with pytest.raises(DataError, match=r"data.test: .*held has no test rows; it holds: validation\."):
        load_splits(replace(data, test=named), "classify", "text", 1)


def test_columns_and_constants(folder: Path) -> None:
    data = DataConfig(
        train=[str(folder / "rows.jsonl")], columns={"document": "text"}, constants={"lang": "zh"}, max_train_samples=7
    )
    rows = load_splits(data, "summarize", "document", 1)["train"].rows
    assert len(rows) == 7
    assert rows[0].values["document"] == rows[0].values["text"]
    assert rows[0].values["lang"] == "zh"


def test_a_constant_that_a_row_contradicts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines([{"source": "a", "target": "b", "target_lang": lang} for lang in ("fr", "de")]))
    given = [str(path)]
    data = DataConfig(train=given, validation=given, test=given, constants={"source_lang": "en", "target_lang": "fr"})
    told = "rows.jsonl:2: the field 'target_lang' holds 'de', but data.constants says 'fr' for every row"
    with pytest.raises(DataError, match=told):
        load_splits(data, "translate", "source", 1, ("source", "target"))
    with pytest.raises(DataError, match=told):
        list(read_to_predict(path, data, "translate", ("source", "target")))
    splits = load_splits(replace(data, on_bad_row="skip"), "translate", "source", 1, ("source", "target"))
    assert [row.values["target_lang"] for row in splits["train"].rows] == ["fr"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"columns": {"lable": "text"}}, r"data.columns.lable: .* no field 'lable' \(did you mean 'label'\?\); it reads: text, "),
        ({"constants": {"langs": "zh"}}, r"data.constants.langs: .* no field 'langs' \(did you mean 'lang'\?\)"),
        ({"columns": {"lang": "text"}, "constants": {"lang": "zh"}}, "both give the field 'lang'; leave one of them out"),
    ],
)  # fmt: skip
def test_keys_that_the_task_does_not_have(folder: Path, given: dict[str, dict[str, str]], told: str) -> None:
    data = DataConfig(train=[str(folder / "rows.jsonl")], **given)
    with pytest.raises(RecipeError, match=told):
        load_splits(data, "classify", "text", 1, ("text", "label"))


@pytest.mark.parametrize("task", OPTIONAL)
def test_optional_fields_are_those_that_the_task_documents(task: str) -> None:
    kind = tasks.create(task)
    documented = set(re.findall(r"\w+", re.search(r"\{(.*?)\}", type(kind).__doc__)[1]))
    assert documented == {*kind.columns, *OPTIONAL[task]}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["nosuch.jsonl"], "There is no file or folder 'nosuch.jsonl'"),
        (["./data"], "There is no file or folder './data'"),
        (["embedded-x"], "There is no file or folder"),
    ],
)
def test_missing_sources(train: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_splits(DataConfig(train=train), "qa", "context", 1)


def test_a_hub_dataset_that_cannot_be_had() -> None:
    with pytest.raises(DataError, match="Cannot load the Hub dataset 'nobody/nothing'"):
        load_splits(DataConfig(train=["nobody/nothing"]), "qa", "context", 1)


def test_a_dataset_with_a_loading_script_is_not_run(tmp_path: Path) -> None:
    """`datasets` says the same of a folder with a script and of a dataset on the Hub."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old/old.py").write_text("raise SystemExit('run')")
    with pytest.raises(
        DataError, match=r"old' is read by code of its own, .*data.revision=refs/convert/parquet"
    ) as caught:
        hub.load(str(tmp_path / "old"), DataConfig())
    assert str(caught.value).count("\n") == 0


def test_a_hub_that_does_not_answer_leaves_the_revision_open() -> None:
    """No OFFLINE switch, nothing listening: what the client raises then is no OSError."""
    check = (
        "from llama_tasks.sources import pin\nfrom llama_tasks.recipe import DataConfig\n"
        "for name in ('nobody/nothing', 'my data/rows'):\n    assert pin(DataConfig(train=[name])).revision is None"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    subprocess.run([sys.executable, "-c", check], check=True, env=environment)


def test_unknown_mapped_column_lists_what_is_there(folder: Path) -> None:
    with pytest.raises(DataError, match="the column 'body', which is not there; found: text, label"):
        load_splits(
            DataConfig(train=[str(folder / "rows.jsonl")], columns={"document": "body"}), "summarize", "document", 1
        )


def test_too_few_rows_to_carve(tmp_path: Path) -> None:
    (tmp_path / "two.jsonl").write_text(lines(ROWS[:2]), encoding="utf-8")
    with pytest.raises(DataError, match="too few to carve"):
        load_splits(DataConfig(train=[str(tmp_path / "two.jsonl")]), "classify", "text", 1)
