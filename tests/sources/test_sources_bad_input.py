"""Every malformed file and row of bad_input.py gives one clear sentence, or is set aside and counted where the recipe says so."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path

import pytest
from bad_input import CASES, GOOD, ROWS, jsonl

from llama_tasks import tasks
from llama_tasks.errors import DataError, RecipeError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import Row, load_splits, notes, read_file

FIELDS = {"dialogue": ("messages",), "wizard": ("messages",)}


def read(folder: Path, data: DataConfig, task: str):
    """The files of the folder as training, validation and test rows."""
    fields = FIELDS.get(task) or tasks.create(task).columns
    named = sorted(folder.glob("data*"), key=lambda path: path.suffix != ".en")[0]
    given = [str(named)]
    return load_splits(replace(data, train=given, validation=given, test=given), task, "", 1, fields)["train"]


@pytest.fixture
def written(tmp_path: Path, case: str) -> Path:
    for name, content in CASES[case][0].items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_one_clear_sentence(written: Path, case: str) -> None:
    _, task, message, _ = CASES[case]
    with pytest.raises(DataError) as caught:
        read(written, DataConfig(), task)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 900
    assert str(caught.value).replace(str(written) + os.sep, "").startswith(tuple(CASES[case][0]))


@pytest.mark.parametrize("case", CASES)
def test_set_aside_and_counted_or_still_an_error(written: Path, case: str) -> None:
    _, task, message, aside = CASES[case]
    data = DataConfig(on_bad_row="skip")
    if aside is None:
        with pytest.raises(DataError):
            read(written, data, task)
        return
    split = read(written, data, task)
    told = split.describe()["set_aside"]
    assert told["rows"] == aside
    assert message in told["first"][0]
    assert len(split.rows) >= 1


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 60
    assert sum(aside is not None for *_, aside in CASES.values()) >= 30


def test_all_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    bad = [{"text": "a"}] * 25
    (tmp_path / "data.jsonl").write_bytes(jsonl(*[GOOD["classify"]] * 3, *bad, b"{"))
    with pytest.raises(DataError) as caught:
        read(tmp_path, DataConfig(), "classify")
    text = str(caught.value)
    assert text.startswith("26 rows cannot be used:")
    assert "data.jsonl:4: the field 'label' is missing" in text
    assert "… and 16 more" in text
    assert "data.on_bad_row=skip" in text


def test_mixed_labels_are_found_across_files(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(jsonl({"text": "a", "label": "1"}, {"text": "b", "label": "2"}))
    (tmp_path / "validation.jsonl").write_bytes(jsonl({"text": "a", "label": 1}))
    (tmp_path / "test.jsonl").write_bytes(jsonl({"text": "a", "label": "1"}))
    with pytest.raises(
        DataError, match=r"validation.jsonl:1: the field 'label' is a number, but text in .*train.jsonl:1"
    ):
        load_splits(DataConfig(train=[str(tmp_path)]), "classify", "text", 1, ("text", "label"))


def test_limits_are_lifted_by_the_keys_that_the_errors_name(tmp_path: Path) -> None:
    row = b'{"text": "%s", "label": "x"}\n' % (b"a" * 2**20)
    packed = tmp_path / "data.jsonl.gz"
    packed.write_bytes(gzip.compress(row * 66))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size.*raise data.max_compression_ratio"):
        read_file(packed)
    assert len(read_file(packed, DataConfig(max_compression_ratio=2000))) == 66
    with pytest.raises(
        DataError, match="unpacks to more than 0.01 GiB; if that is meant, raise data.max_uncompressed_gb"
    ):
        read_file(packed, DataConfig(max_uncompressed_gb=0.01))
    (tmp_path / "data.jsonl").write_bytes(row * 2)
    assert len(read_file(tmp_path / "data.jsonl", DataConfig(max_row_mb=2))) == 2
    with pytest.raises(DataError, match="data.jsonl:1: this line is longer than 1 MiB"):
        read_file(tmp_path / "data.jsonl", DataConfig(max_row_mb=1))


def test_answers_that_need_not_stand_in_the_context(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(jsonl({**GOOD["qa"], "answers": ["a city"]}))
    assert len(read(tmp_path, DataConfig(free_answers=True), "qa").rows) == 1


def test_a_label_outside_the_set_is_told_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(
        jsonl(GOOD["classify"], {"text": "a", "label": "goood"}, {"text": "a", "label": "?"})
    )
    with pytest.raises(
        DataError,
        match=r"data.jsonl:2: the field 'label' holds 'goood', which is not in the label set; did you mean 'good'",
    ):
        read(tmp_path, DataConfig(labels=["good", "bad"]), "classify")
    split = read(tmp_path, DataConfig(labels=["good", "bad"], on_bad_row="skip"), "classify")
    assert (len(split.rows), split.set_aside.count) == (1, 2)


def test_a_run_says_what_was_set_aside_and_how_rows_were_read(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(jsonl({"sentence": "a", "label": "x"}, {"sentence": None, "label": "y"}))
    split = read(tmp_path, DataConfig(on_bad_row="skip"), "classify")
    lines = notes({"train": split.describe()})
    assert lines[0] == "train: read as GLUE single sentence"
    assert lines[1] == "train: rows set aside (data.on_bad_row: skip): 1, the first of them:"
    assert lines[2].endswith("data.jsonl:2: the field 'text' is null; give it a value")


def test_a_row_without_a_mapped_column_is_one_bad_row(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(
        jsonl({"body": "a", "label": "x"}, {"label": "y"}, {"body": "b", "label": "x"})
    )
    data = DataConfig(columns={"text": "body"}, on_bad_row="skip")
    split = read(tmp_path, data, "classify")
    assert (len(split.rows), split.set_aside.count) == (2, 1)
    assert (
        "data.columns maps 'text' to the column 'body', which is not there; found: label"
        in split.set_aside.first[0].why
    )
    with pytest.raises(
        DataError, match="data.jsonl:1: data.columns maps 'text' to the column 'story', which is not there"
    ):
        read(tmp_path, replace(data, columns={"text": "story"}), "classify")


def test_a_stray_byte_is_one_row_but_a_wrong_encoding_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(ROWS + b'{"text": "sch\xf6n", "label": "x"}\n' * 3)
    assert read(tmp_path, DataConfig(on_bad_row="skip"), "classify").set_aside.count == 3
    (tmp_path / "data.jsonl").write_bytes(ROWS + b'{"text": "sch\xf6n", "label": "x"}\n' * 30)
    with pytest.raises(DataError, match=r"data.jsonl:201: not UTF-8 .* 30 of 230 lines are so"):
        read(tmp_path, DataConfig(on_bad_row="skip"), "classify")


FIRST = jsonl(*[{"text": f"text number {i}", "label": "ab"[i % 2], "id": i % 30} for i in range(40)])


@pytest.mark.parametrize(
    ("data", "message"),
    [({"weights": [1.0, 1e9]}, "data.weights would repeat each row of '.*b.jsonl' 1,000,000,000 times; more than 1,000"),
     ({"weights": [1.0]}, "data.weights has 1 numbers for 2 items of data.train; write one for each"),
     ({"weights": [1.0, 0.0]}, "data.weights must be above 0; leave out the item that shall not be read"),
     ({"train": []}, "data.train names no file; write a file, a folder, a glob or a Hub dataset"),
     ({"test": [""]}, "data.test names no file"),
     ({"labels": ["a", "b", "a"]}, "data.labels: 'a' stands there twice; write each label once"),
     ({"labels": ["a", "b "]}, "data.labels: 'b ' is empty or has white space at an end"),
     ({"labels": ["a", ""]}, "data.labels: '' is empty")],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(tmp_path: Path, data: dict, message: str) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(FIRST)
    a, b = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    given = DataConfig(train=[a, b], validation=[a], test=[a])
    with pytest.raises(RecipeError, match=message):
        load_splits(replace(given, **data), "classify", "text", 1, ("text", "label"))


def test_what_is_not_there_is_told_with_what_was_probably_meant(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(FIRST)
    (tmp_path / "broken.jsonl").symlink_to(tmp_path / "gone.jsonl")
    for item, message in (
        (str(tmp_path / "broken.jsonl"), "There is no file or folder '.*broken.jsonl': what has that name is a broken link"),
        ("x" * 300 + ".jsonl", r"There is no file or folder 'x+.jsonl' \(looked in "),
        (f"zip://a.jsonl::{tmp_path}/mine.jsonl", "cannot be opened: File is not a zip file"),
        (str(tmp_path / "mine.json"), r"There is no file or folder '.*mine.json' \(looked in .*\). Did you mean '.*mine.jsonl'\?"),
        (str(tmp_path / "no*.jsonl"), r"No file matches '.*no\*.jsonl' \(looked in "),
        ("http://127.0.0.1:9/mine.jsonl", "http://127.0.0.1:9/mine.jsonl cannot be reached: Cannot connect to host"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            load_splits(DataConfig(train=[item]), "classify", "text", 1, ("text", "label"))


def test_ids_that_repeat_are_told(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(FIRST)
    told = notes({"train": read(tmp_path, DataConfig(), "classify").describe()})
    assert told == [
        f"train: rows whose column 'id' repeats an earlier row's: 10, first '0' in {tmp_path}/data.jsonl:1 and "
        f"{tmp_path}/data.jsonl:31"
    ]


def test_a_label_with_white_space_at_an_end_is_a_bad_row() -> None:
    row = Row("train:0", {"text": "A fine day", "label": "good "}, "my.jsonl:1")
    with pytest.raises(DataError, match="my.jsonl:1: the field 'label' holds 'good ', with white space at an end"):
        tasks.create("classify", ["good ", "bad"]).example(row)
