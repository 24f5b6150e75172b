"""Cleaning: tables of what goes in and what comes out; what it did is told; what is scored stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tiny import make_base, make_rows, recipe_text

from llama_tasks.clean import asks, clean_splits, clean_texts, told
from llama_tasks.clean.redact import redact
from llama_tasks.cli import main
from llama_tasks.dataset import read
from llama_tasks.errors import DataError, RecipeError, RunError
from llama_tasks.recipe import CleanConfig, Recipe, load_recipe
from llama_tasks.sources import Row, Split
from llama_tasks.supervise.resume import refuse_changes

COLUMNS = ("document", "summary")


def splits(*documents: Any) -> dict[str, Split]:
    """Three equal splits of rows that differ in their document."""
    return {
        name: Split([Row(f"{name}:{i}", {"document": d, "summary": "s", "year": 1999}, f"my.jsonl:{i + 1}")
                     for i, d in enumerate(documents)], "my.jsonl", "")
        for name in ("train", "validation", "test")
    }  # fmt: skip


def cleaned(config: CleanConfig, *documents: Any) -> list[Any]:
    return [
        row.values["document"] for row in clean_splits(splits(*documents), config, COLUMNS, "summary")["train"].rows
    ]


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        ({}, "ＡＢＣ &amp; \x07", "ＡＢＣ &amp; \x07"),
        ({"unicode": "NFC"}, "Ko\u0308ln ﬁnds Ａ", "Köln ﬁnds Ａ"),
        ({"unicode": "NFKC"}, "Ko\u0308ln ﬁnds Ａ１，好", "Köln finds A1,好"),
        ({"html_unescape": True}, "Tom &amp; Ana &lt;3 &#8220;x&#8221; &nosuch;", "Tom & Ana <3 “x” &nosuch;"),
        ({"html_unescape": True}, "&amp;lt;", "&lt;"),
        ({"control_characters": "remove"}, "a\x00b\x1b[31mc\ufeff\u202ed\x85\n\te\r\n", "ab[31mcd\n\te\r\n"),
        ({"control_characters": "remove"}, "می\u200cخواهم 👩\u200d🔬 कि", "می\u200cخواهم 👩\u200d🔬 कि"),
        ({"html_unescape": True, "unicode": "NFKC", "control_characters": "remove"}, "&#xFF21;&#7;&amp;", "A&"),
        ({"redact": ["email", "phone"]}, "mail ana@example.org or +49 341 123456", "mail [EMAIL] or [PHONE]"),
        ({"unicode": "NFKC"}, ["Ａ", {"text": ["Ｂ"], "start": 3}], ["A", {"text": ["B"], "start": 3}]),
    ],
)
def test_texts(config: dict[str, Any], before: Any, after: Any) -> None:
    assert cleaned(CleanConfig(**config), before) == [after]


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("email", "写信到zhang.san+news@mail.example.com.cn吧。", "写信到[EMAIL]吧。"),
        ("email", "a@b is no address, me@host either; x_1@a-b.io is.", "a@b is no address, me@host either; [EMAIL] is."),
        ("phone", "请拨打13800138000或138-0013-8000，固话010-62751234。", "请拨打[PHONE]或[PHONE]，固话[PHONE]。"),
        ("phone", "(212) 555-0199, 212.555.0199 and +1 212 555 0199", "[PHONE], [PHONE] and [PHONE]"),
        ("phone", "In 1998, 2024-01-01, 3.14159265, 12345678901234 and 1,234,567,890", None),
        ("url", "见https://example.org/a?b=1#c，以及www.example.com。", "见[URL]，以及[URL]。"),
        ("ip_address", "192.168.0.1, not 1.2.3 or 999.1.1.1 or 1.2.3.4.5", "[IP_ADDRESS], not 1.2.3 or 999.1.1.1 or 1.2.3.4.5"),
        ("ip_address", "The server is 10.0.0.1. It was 10.0.0.2.", "The server is [IP_ADDRESS]. It was [IP_ADDRESS]."),
        ("url", "See HTTPS://Example.org/A and Www.example.com now", "See [URL] and [URL] now"),
        ("phone", "(010)62751234或(0341) 123456", "[PHONE]或[PHONE]"),
        ("credit_card", "4111 1111 1111 1111 but not 4111 1111 1111 1112", "[CREDIT_CARD] but not 4111 1111 1111 1112"),
    ],
)  # fmt: skip
def test_redaction(kind: str, before: str, after: str | None) -> None:
    assert redact(before, kind) == (before if after is None else after)


LONG = "The train to Leipzig leaves at seven in the morning and arrives at nine, if the weather is fine on that day."


@pytest.mark.parametrize(
    ("config", "documents", "kept"),
    [
        ({"min_length": {"document": 3}}, ["ab", "abc", "你好", "你好吗"], ["abc", "你好吗"]),
        ({"max_length": {"document": 3}}, ["ab", "abcd", ["a", "bcde"], ["a", "bcd"]], ["ab", ["a", "bcd"]]),
        ({"exact_duplicates": True}, ["a", "b", "a", "A", "a"], ["a", "b", "A"]),
        ({"near_duplicates": 0.8}, [LONG, "A fox.", LONG.upper(), LONG.replace("that day", "that one day"), "A dog."],
         [LONG, "A fox.", "A dog."]),
        ({"unicode": "NFKC", "exact_duplicates": True}, ["Ａ", "A"], ["A"]),
    ],
)  # fmt: skip
def test_rows_that_are_left_out(config: dict[str, Any], documents: list[Any], kept: list[Any]) -> None:
    assert cleaned(CleanConfig(**config), *documents) == kept


@pytest.mark.parametrize("config", [{"exact_duplicates": True}, {"near_duplicates": 0.8}])
@pytest.mark.parametrize(
    ("columns", "fields", "differs"),
    [
        (("text", "label"), {"text": LONG, "text_pair": "It is late.", "label": "no"}, {"text_pair": "Anna waits."}),
        (("source", "target"), {"source": LONG, "target": "x", "source_lang": "en", "target_lang": "de"}, {"target_lang": "fr"}),
    ],
)  # fmt: skip
def test_rows_that_differ_beside_the_columns_are_no_duplicates(
    config: dict[str, Any], columns: tuple[str, str], fields: dict[str, str], differs: dict[str, str]
) -> None:
    values = [fields, {**fields, **differs}, fields]
    given = {"train": Split([Row(f"train:{i}", {**v, "id": i}, f"my.jsonl:{i}") for i, v in enumerate(values)], "", "")}
    kept = clean_splits(given, CleanConfig(**config), columns, columns[1])["train"].rows
    assert [row.values["id"] for row in kept] == [0, 1]


@pytest.mark.parametrize("said", [str, lambda text: [{"role": "user", "content": text}]])
def test_rows_of_one_column_are_near_duplicates_by_what_they_say(said: Callable[[str], Any]) -> None:
    texts = [LONG, "A fox.", LONG.upper(), "A dog."]
    given = {
        "train": Split([Row(f"train:{i}", {"text": said(t)}, f"my.jsonl:{i}") for i, t in enumerate(texts)], "", "")
    }
    kept = clean_splits(given, CleanConfig(near_duplicates=0.8), ("text",), "text")["train"].rows
    assert [row.values["text"] for row in kept] == [said(LONG), said("A fox."), said("A dog.")]


def test_what_was_done_is_told_with_the_first_rows() -> None:
    config = CleanConfig(unicode="NFKC", exact_duplicates=True, min_length={"document": 2})
    made = clean_splits(splits("ﬁne", "x", "fine", "good"), config, COLUMNS, "summary")
    about = made["train"].describe()
    assert about["rows"] == 2
    assert about["cleaning"] == {
        "rows_before": 4,
        "unicode": {"changed": 1, "first": ["my.jsonl:1: document 'ﬁne' -> 'fine'"]},
        "min_length": {"left_out": 1, "first": ["my.jsonl:2: document has 1 characters"]},
        "exact_duplicates": {"left_out": 1, "first": ["my.jsonl:3: as my.jsonl:1"]},
    }
    assert (
        told(about["cleaning"])
        == "unicode changed 1 rows, min_length left out 1 rows, exact_duplicates left out 1 rows"
    )
    assert [row.id for row in made["train"].rows] == ["train:0", "train:1"]
    assert [row.where for row in made["train"].rows] == ["my.jsonl:1", "my.jsonl:4"]


def test_rows_that_are_scored_stay_as_they_are_unless_their_split_is_named() -> None:
    given = splits("Ａ", "Ａ")
    config = CleanConfig(unicode="NFKC", exact_duplicates=True)
    made = clean_splits(given, config, COLUMNS, "summary")
    assert made["validation"] is given["validation"]
    assert made["test"] is given["test"]
    assert list(clean_texts(given["test"].rows, config)) == given["test"].rows
    everywhere = CleanConfig(unicode="NFKC", exact_duplicates=True, splits=["train", "test"])
    assert len(clean_splits(given, everywhere, COLUMNS, "summary")["test"].rows) == 1
    assert [row.values["document"] for row in clean_texts(given["test"].rows, everywhere)] == ["A", "A"]


def test_nothing_is_done_unless_asked() -> None:
    given = splits("Ａ\x00")
    assert clean_splits(given, CleanConfig(), COLUMNS, "summary") == given
    assert not asks(CleanConfig(splits=["train", "test"]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"control_characters": "error"},
            r"my.jsonl:2: the field 'document' holds the control character U\+0007 at character 3",
        ),
        ({"min_length": {"document": 9}}, "left none of the 2 rows of the train split: min_length"),
        ({"min_length": {"documnet": 9}}, "clean.min_length names the field 'documnet'. Did you mean 'document'"),
        ({"near_duplicates": 1.5}, "must be above 0 and at most 1"),
        ({"hook": "mine.py"}, "write FILE.py:FUNCTION"),
        ({"hook": "nosuch.py:f"}, "there is no file 'nosuch.py'"),
        ({"hook": "mine.py:cleen"}, "has no function 'cleen'. Did you mean 'clean'"),
        ({"hook": "syntax.py:f"}, "clean.hook: syntax.py:2: this is not valid Python"),
        ({"hook": "imports.py:f"}, "clean.hook: imports.py:1: ModuleNotFoundError: No module named 'nosuch_module'"),
        ({"hook": "mine.py:broken"}, r"my.jsonl:1: clean.hook failed on the field 'document' \(ValueError: no\)"),
        ({"hook": "mine.py:silent"}, "my.jsonl:1: clean.hook returned NoneType for the field 'document', not text"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def clean(text): return text\ndef broken(text): raise ValueError('no')\ndef silent(text): pass\n"
    )
    (tmp_path / "syntax.py").write_text("x = 1\ndef f(text) return text\n")
    (tmp_path / "imports.py").write_text("import nosuch_module\n")
    with pytest.raises((DataError, RecipeError), match=message):
        cleaned(CleanConfig(**config), "ab", "ab\x07")


def test_a_hook_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "names.py").write_text("def without_names(text):\n    return text.replace('Anna', '[NAME]')\n")
    hook = CleanConfig(hook=f"{tmp_path}/names.py:without_names")
    assert cleaned(hook, "Anna sings", "Tom") == ["[NAME] sings", "Tom"]


def test_a_hook_beside_the_recipe_or_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/mine.yaml").write_text("task: summarize\nclean: {hook: 'names.py:f'}\n")
    (tmp_path / "names.py").write_text("def f(text): return 'here'\n")
    assert cleaned(load_recipe("sub/mine.yaml").clean, "x") == ["here"]
    (tmp_path / "sub/names.py").write_text("def f(text): return 'beside'\n")
    assert cleaned(load_recipe("sub/mine.yaml").clean, "x") == ["beside"]


def test_duplicates_are_not_removed_from_a_weighted_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("task: summarize\nclean: {exact_duplicates: true}\ndata: {weights: [1.0]}\n")
    with pytest.raises(RecipeError, match="clean.exact_duplicates would undo the shares of data.weights"):
        read(load_recipe("mine.yaml"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`workplace(command, *overrides)` with noisy rows."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"document": f"Anna has {n} apples &amp; pears.", "summary": f"{n} apples.", "lang": "en"} for n in range(60)
    ]
    mails = [{**row, "document": f"For {n} apples ask ana@example.org"} for n, row in enumerate(rows[:9])]
    data = make_rows(tmp_path / "rows.jsonl", [*rows, *rows[:9], *mails])
    recipe = recipe_text("summarize", make_base(tmp_path / "base"), data, max_steps=2)
    (tmp_path / "mine.yaml").write_text(
        recipe + "clean:\n  html_unescape: true\n  exact_duplicates: true\n  redact: [email]\n", encoding="utf-8"
    )
    return lambda *argv: main(argv)


def test_a_run_records_it_and_inspect_shows_it(
    workplace: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert workplace("inspect", "mine.yaml", "--html", "page.html") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "redact email changed" in shown
    assert "apples ask [EMAIL]'" in shown
    assert "validation and test rows stay as they are" in shown
    assert "apples ask [EMAIL]" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert workplace("finetune", "mine.yaml") == 0
    assert "cleaned train: html_unescape changed" in capsys.readouterr().out
    data = json.loads((tmp_path / "runs/mine/environment.json").read_text())["data"]
    assert data["train"]["cleaning"]["exact_duplicates"]["left_out"] > 0
    assert (
        data["train"]["rows"]
        == data["train"]["cleaning"]["rows_before"] - data["train"]["cleaning"]["exact_duplicates"]["left_out"]
    )
    assert "cleaning" not in data["test"]
    assert load_recipe(tmp_path / "runs/mine/recipe.yaml").clean.redact == ["email"]


def test_the_run_keeps_the_hook_and_refuses_another(
    workplace: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    hook = "def without_names(text):\n    return text.replace('Anna', '[NAME]')\n"
    (tmp_path / "names.py").write_text(hook)
    given = ["mine.yaml", "clean.hook=names.py:without_names", "clean.splits=[train, validation, test]"]
    assert workplace("finetune", *given) == 0
    run = tmp_path / "runs/mine"
    assert (run / "hook.py").read_text() == hook
    assert load_recipe(run / "recipe.yaml").clean.hook == f"{run}/hook.py:without_names"
    assert workplace("finetune", *given, "--resume") == 0
    (tmp_path / "names.py").write_text(hook.replace("NAME", "WHO"))
    capsys.readouterr()
    assert workplace("finetune", *given, "--resume") == 2
    assert (
        "the file of clean.hook, names.py:without_names, was changed after training (its hash differs)"
        in capsys.readouterr().err
    )
    before = read(load_recipe(run / "recipe.yaml"))[2]["test"]
    (tmp_path / "names.py").unlink()  # the run has its own
    assert "[NAME]" in before.rows[0].values["document"]
    assert workplace("evaluate", "runs/mine") == 0
    assert workplace("finetune", "mine.yaml", "--overwrite") == 0
    assert not (run / "hook.py").exists()


@pytest.mark.parametrize(
    ("text", "name", "refused"), [("a = 1", "f", False), ("a = 2", "f", True), ("a = 1", "g", True)]
)
def test_a_hook_is_the_same_by_its_bytes_and_function(tmp_path: Path, text: str, name: str, refused: bool) -> None:
    (tmp_path / "hook.py").write_text("a = 1")
    (tmp_path / "mine.py").write_text(text)
    before, now = (
        Recipe("summarize", clean=CleanConfig(hook=f"{tmp_path}/{spec}")) for spec in ("hook.py:f", f"mine.py:{name}")
    )
    with pytest.raises(RunError, match=r"clean.hook, .*mine.py:., is not the one") if refused else nullcontext():
        refuse_changes(tmp_path, before, now)
