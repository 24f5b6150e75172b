"""Leaks are found to the letter, normalised and in pieces, in both languages; a shared passage is none."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llama_tasks.dataset import Dataset
from llama_tasks.evaluation import insight, leaks, scoring
from llama_tasks.prompts import Prompt
from llama_tasks.recipe import Suite
from llama_tasks.report import System
from llama_tasks.rundir import RunDirectory, write_json
from llama_tasks.tasks import Example, create
from llama_tasks.tokens import Encoded

PASSAGE = "The bridge over the river was built in 1871 by a family of stonemasons who came from the north."
OTHER = "A recipe for bread needs flour, water, salt and time; the dough rests overnight in a cool place."
CHINESE = "这座石桥建于清代同治年间，由北方来的石匠一家修建，至今仍有行人往来。"


def prompt(name: str, text: str, question: str = "", target: str = "yes") -> Prompt:
    fields = {"text": text} | ({"question": question} if question else {})
    template = "{text}" + ("{question}" if question else "")
    return Prompt(Example(name, fields, target, (target,), "en"), template, "text")


def found(train: list[Prompt], test: list[Prompt]) -> dict[str, tuple[str, str | None]]:
    return {name: (leak.kind, leak.row) for name, leak in leaks.find(train, test).items()}


def test_kinds() -> None:
    train = [
        prompt("train:0", PASSAGE),
        prompt("train:1", f"Once more: {OTHER} That is all that there is to be said."),
        prompt("train:2", CHINESE),
    ]
    test = [
        prompt("a", PASSAGE),
        prompt("b", PASSAGE.upper().replace(" ", "  ") + "!"),
        prompt("c", OTHER),
        prompt("d", CHINESE[2:]),
        prompt("e", "Nothing of this was ever trained on, neither whole nor in any of its many pieces."),
        prompt("f", "short"),
    ]
    assert found(train, test) == {
        "a": ("exact", "train:0"),
        "b": ("normalised", "train:0"),
        "c": ("ngram", None),
        "d": ("ngram", None),
    }


def test_pieces_may_come_from_several_rows_and_seven_in_ten_are_enough() -> None:
    half = len(PASSAGE) // 2
    train = [prompt("train:0", PASSAGE[: half + 30]), prompt("train:1", PASSAGE[half - 30 :])]
    assert found(train, [prompt("a", PASSAGE)]) == {"a": ("ngram", None)}
    assert found(train[:1], [prompt("a", PASSAGE)]) == {}


def test_a_target_that_holds_the_text_is_a_leak_too() -> None:
    assert found([prompt("train:0", "x", target=f"It says: {PASSAGE}")], [prompt("a", PASSAGE)]) == {
        "a": ("ngram", None)
    }


@pytest.mark.parametrize(
    ("around", "text"),
    [(f"{PASSAGE} {OTHER} Of this it was said:", CHINESE), (CHINESE * 20, PASSAGE)],
)
def test_a_passage_inside_a_text_of_another_script_is_found(around: str, text: str) -> None:
    train = [prompt("train:0", f"{around} {text} {around}"), prompt("train:1", "x", target=around)]
    assert found(train, [prompt("a", text)]) == {"a": ("ngram", None)}
    assert found(train[1:], [prompt("a", text)]) == {}


def test_a_short_field_must_equal_a_whole_one() -> None:
    train = [prompt("train:0", f"{PASSAGE} Who built it? {CHINESE}"), prompt("train:1", OTHER, "Who built it?")]
    assert found(train[:1], [prompt("a", PASSAGE, "Who built it?")]) == {}
    assert found(train, [prompt("a", PASSAGE, "Who built it?"), prompt("b", CHINESE, "谁建的？")]) == {
        "a": ("ngram", None)
    }


def test_another_question_on_the_same_passage_is_none() -> None:
    train = [prompt("train:0", PASSAGE, "Who built it?")]
    assert found(train, [prompt("a", PASSAGE, "When was it built?")]) == {}
    assert found(train, [prompt("a", PASSAGE + " Yes.", "who built it")]) == {"a": ("ngram", None)}


def test_without_test_rows_nothing_leaks() -> None:
    assert found([prompt("train:0", PASSAGE)], []) == {}


def test_solved_examples_count_as_trained_on() -> None:
    asked = Prompt(prompt("a", PASSAGE).example, "{text}", "text", fewshot=f"{PASSAGE}\nyes\n\n")
    assert found([], [asked]) == {"a": ("ngram", None)}


def test_n_grams_are_those_of_a_plain_search() -> None:
    """Shares by hashes equal shares by comparing pieces of text."""
    noise = random.Random(0)
    letters = ["".join(noise.choice("ab") for _ in range(noise.randrange(40, 400))) for _ in range(60)]
    held, asked = letters[:30], [text[: noise.randrange(90)] + noise.choice(letters[:30]) for text in letters[30:]]
    pieces = {text[i : i + 40] for text in held for i in range(len(text) - 39)}

    def share(text: str) -> float:
        own = [text[i : i + 40] in pieces for i in range(len(text) - 39)]
        return sum(own) / len(own)

    expected = {str(i) for i, text in enumerate(asked) if share(text) >= leaks.FOUND}
    assert 0 < len(expected) < len(asked)
    train = [prompt(f"train:{i}", text) for i, text in enumerate(held)]
    assert set(found(train, [prompt(str(i), text) for i, text in enumerate(asked)])) == expected


def test_a_stream_is_said_to_be_unchecked() -> None:
    data = Dataset(None, [], None, None, {"train": [], "test": []}, Encoded(), {}, stream=object())  # type: ignore[arg-type]
    assert leaks.summary(leaks.check(data), {}, list) == {"checked": False, "why": leaks.STREAMED}
    assert "evaluate the run again" in leaks.summary(None, {}, list)["why"]


def test_scores_with_and_without() -> None:
    rows = [{"id": str(i), "lang": "en" if i < 8 else "zh", "value": float(i)} for i in range(10)]

    def score(some: list) -> list[dict]:
        found = []
        for lang in sorted({row["lang"] for row in some}):
            part = [row["value"] for row in some if row["lang"] == lang]
            found.append(
                {"metric": "m", "lang": lang, "value": sum(part) / len(part), "interval": (0, 9), "n": len(part)}
            )
        return found

    leaked = {
        "checked": True,
        "of": 10,
        "rows": {"0": ["exact", "train:4"], "8": ["ngram", None], "9": ["ngram", None]},
    }
    told = leaks.summary(leaked, {"base": (rows, score(rows))}, score)
    assert (told["rows"], told["of"], told["kinds"]) == (3, 10, {"exact": 1, "normalised": 0, "ngram": 2})
    assert told["first"][0] == ["0", "train:4"]
    (only,) = told["scores"]  # of Chinese nothing is left
    assert (only["lang"], only["n"]) == ("en", 7)
    assert only["base"]["with"]["value"] == pytest.approx(3.5)
    assert only["base"]["without"]["value"] == pytest.approx(4.0)
    nothing = leaks.summary({"checked": True, "of": 10, "rows": {}}, {"base": (rows, score(rows))}, score)
    assert nothing["rows"] == 0 and nothing["scores"] == []


def test_what_the_rows_left_have_no_value_for_is_left_out(tmp_path: Path) -> None:
    """All unanswerable English rows leaked, and what is left in German is mostly Chinese, which F1 refuses there."""
    asked = [("en", ["Rome"]), ("en", []), ("en", []), *[("de", ["Rom"])] * 3, *[("de", ["罗马"])] * 2, ("de", [])]
    rows = [{"id": str(at), "lang": lang, "input": {}, "references": references, "prediction": "Rome"}
            for at, (lang, references) in enumerate(asked)]  # fmt: skip
    leaked = {"checked": True, "of": len(rows), "rows": {str(at): ["exact", "train:0"] for at in (1, 2, 3, 4, 8)}}
    write_json(tmp_path / "eval" / insight.LEAKS, leaked)
    suite, task = Suite(metrics=["f1", "f1:rows=noans"], n_resamples=20), create("qa")
    base = System("base", scoring.score(rows, suite, task), {}, rows, {row["id"]: 0.0 for row in rows}, "f1")
    told = insight.gather(
        RunDirectory(tmp_path), {"base": base}, suite, task, lambda some: scoring.score(some, suite, task)
    )
    kept = [(score["metric"], score["lang"], score["n"]) for score in told["leaks"]["scores"]]
    assert kept == [("f1", "en", 1)]
