"""Carved splits keep like rows together; weights mix sources; everything is the same for the same seed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from llama_tasks.errors import DataError, RecipeError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import load_splits


def write(path: Path, texts: list[str], label: str = "x") -> str:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def sides(data: DataConfig, seed: int = 3) -> dict[str, list[str]]:
    splits = load_splits(data, "classify", "text", seed, ("text", "label"))
    return {name: [row.values["text"] for row in split.rows] for name, split in splits.items()}


def story(i: int) -> str:
    """A text of its own for each i, 150 letters in words, and the number at its end."""
    return "".join(random.Random(i).choices("abcdefgh klmnop rstu ", k=150)) + f" in {1000 + i}"


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    texts = [story(i) for i in range(150)]
    texts += [text.upper() + "!" for text in texts] + [text.replace(" in ", " by ") for text in texts]
    found = sides(DataConfig(train=[write(tmp_path / "a.jsonl", texts)]))
    year = {name: {text.lower().strip("!")[-4:] for text in part} for name, part in found.items()}
    assert all(len(part) > 9 for part in found.values())
    assert not (year["train"] & year["test"] or year["train"] & year["validation"] or year["validation"] & year["test"])


def test_chinese_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    bodies = ["".join(random.Random(i).choices([chr(0x4E00 + n) for n in range(900)], k=24)) for i in range(120)]
    texts = [body + tail for body in bodies for tail in ("去了市场。", "去了市场！", "去了集市。")]
    found = sides(DataConfig(train=[write(tmp_path / "a.jsonl", texts)]))
    heads = {name: {text[:24] for text in part} for name, part in found.items()}
    assert not (heads["train"] & heads["test"] or heads["train"] & heads["validation"])


def test_a_large_group_stays_in_training(tmp_path: Path) -> None:
    """Else one group of like rows could be most of the test split."""
    texts = ["the same text again and again"] * 200 + [story(i) for i in range(200)]
    for seed in range(5):
        assert "the same text again and again" not in set(
            sides(DataConfig(train=[write(tmp_path / "a.jsonl", texts)]), seed)["test"]
        )


def test_rows_that_are_all_alike_name_the_key(tmp_path: Path) -> None:
    texts = [f"please add up the numbers that stand in this list for me, number {i}" for i in range(100)]
    data = DataConfig(train=[write(tmp_path / "a.jsonl", texts)])
    with pytest.raises(
        DataError, match=r"100 rows in \d groups of like texts \(data.split_similarity\) are too few to carve"
    ):
        sides(data)
    assert len(sides(DataConfig(train=data.train, split_similarity=1.0))["train"]) > 60


def test_several_files_follow_each_other(tmp_path: Path) -> None:
    given = [write(tmp_path / "a.jsonl", ["a1", "a2"]), write(tmp_path / "b.jsonl", ["b1"])]
    held = write(tmp_path / "c.jsonl", ["c1"])
    assert sides(DataConfig(train=given, validation=[held], test=[held]))["train"] == ["a1", "a2", "b1"]


@pytest.mark.parametrize(
    ("sizes", "weights", "expected"),
    [
        ((40, 40), [1, 1], (40, 40)),
        ((40, 40), [2, 1], (80, 40)),
        ((40, 10), [1, 1], (40, 40)),
        ((40, 30), [1, 0.5], (60, 30)),
        ((10, 10), [1, 0.25], (40, 10)),
        ((7, 3), [1, 1], (7, 7)),
    ],
)
def test_weights_are_shares(
    tmp_path: Path, sizes: tuple[int, int], weights: list[float], expected: tuple[int, int]
) -> None:
    given = [
        write(tmp_path / f"{name}.jsonl", [f"{name}{i}" for i in range(size)])
        for name, size in zip("ab", sizes, strict=True)
    ]
    held = [write(tmp_path / "c.jsonl", ["c"])]
    data = DataConfig(train=given, weights=weights, validation=held, test=held)
    split = load_splits(data, "classify", "text", 1, ("text", "label"))["train"]
    texts = [row.values["text"] for row in split.rows]
    assert tuple(split.mix.values()) == expected == tuple(sum(text[0] == name for text in texts) for name in "ab")
    for name, size in zip(
        "ab", sizes, strict=True
    ):  # no row is left out, and none stands more than once oftener than another
        counts = [texts.count(f"{name}{i}") for i in range(size)]
        assert min(counts) >= 1 and max(counts) - min(counts) <= 1
    assert split.describe()["mix"] == dict(zip(given, expected, strict=True))
    assert load_splits(data, "classify", "text", 1, ("text", "label"))["train"].sha256 == split.sha256
    assert len({row.id for row in split.rows}) == len(split.rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0, 2.0]}, "data.weights has 2 numbers for 1 items of data.train"),
        ({"weights": [0.0]}, "data.weights must be above 0"),
        ({"split_similarity": 1.5}, "data.split_similarity must be at most 1"),
        ({"train": ["a.jsonl", "a.jsonl"]}, "'a.jsonl' stands twice in data"),
        ({"streaming": True, "max_train_samples": 5}, "use train.max_steps"),
    ],
)
def test_values_that_do_not_go_together(options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sides(DataConfig(**{"train": ["a.jsonl"], **options}))


def test_bad_rows_of_a_carved_file_are_counted_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [story(i) for i in range(100)])
    Path(path).write_text(Path(path).read_text(encoding="utf-8") + "{\n", encoding="utf-8")
    splits = load_splits(DataConfig(train=[path], on_bad_row="skip"), "classify", "text", 1, ("text", "label"))
    assert [split.set_aside.count for split in splits.values()] == [1, 0, 0]
    assert splits["train"].describe()["set_aside"]["first"][0].startswith(f"{path}:101: broken JSON")
