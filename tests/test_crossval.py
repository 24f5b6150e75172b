"""Cross-validation: every row once, like rows together, one base; it goes on where it was cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from faulty_runs import ROWS
from tiny import make_base, make_rows, recipe_text

from llama_tasks import adapters, cli, crossval
from llama_tasks.errors import RecipeError
from llama_tasks.recipe import load_recipe

FOLDS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    base, rows = make_base(folder / "base"), make_rows(folder / "rows.jsonl", unlike(60))
    settings = {"max_steps": 2, "preflight": False, "save_steps": 1}
    text = recipe_text("summarize", base, rows, **settings).replace("train: ", "split_similarity: 0.95\n  train: ", 1)
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return folder


def unlike(count: int) -> list[dict[str, Any]]:
    words = ["river", "stone", "garden", "window", "letter", "market", "bridge", "winter", "candle", "harbour"]
    return [
        {**row, "document": f"{words[n % 10]} {words[n // 10]} {words[(3 * n + 1) % 10]}: {row['document']}"}
        for n, row in enumerate(ROWS[:count])
    ]


def run(place: Path, *arguments: str) -> int:
    return cli.main(
        ["crossval", str(place / "mine.yaml"), f"output={place / 'out'}", "--folds", str(FOLDS), *arguments]
    )


@pytest.fixture(scope="module")
def done(place: Path) -> tuple[dict[str, Any], int]:
    """The result, and how often a base was loaded; cut off in the second fold, then resumed."""
    loads, real, patch = [], adapters.load_base, pytest.MonkeyPatch()
    patch.setattr(adapters, "load_base", lambda *args: loads.append(1) or real(*args))
    fit = crossval.fit

    def cut_off(run_directory: Any, *rest: Any) -> Any:
        if run_directory.path.name == "2":
            raise KeyboardInterrupt
        return fit(run_directory, *rest)

    patch.setattr(crossval, "fit", cut_off)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        raise SystemExit(run(place))
    patch.setattr(crossval, "fit", fit)
    first = (place / "out/folds/1/adapter/adapter_model.safetensors").stat().st_mtime_ns
    loads.clear()
    assert run(place, "--resume") == 0
    assert (place / "out/folds/1/adapter/adapter_model.safetensors").stat().st_mtime_ns == first
    patch.undo()
    return json.loads((place / "out" / crossval.RESULT).read_text(encoding="utf-8")), len(loads)


def predictions(place: Path, fold: int) -> list[dict[str, Any]]:
    lines = (place / f"out/folds/{fold}/eval/adapter/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_row_is_tested_once_on_one_base(done: tuple[dict[str, Any], int], place: Path) -> None:
    result, loads = done
    tested = [row["id"] for fold in (1, 2, 3) for row in predictions(place, fold)]
    assert len(tested) == len(set(tested)) == result["rows"] > 40
    assert all(name.startswith("train:") for name in tested)
    assert max(result["rows_by_fold"]) - min(result["rows_by_fold"]) <= 1
    assert loads == 1  # for the second and the third fold
    data = json.loads((place / "out/folds/2/environment.json").read_text(encoding="utf-8"))["data"]
    assert data["train"]["rows"] + data["test"]["rows"] == result["rows"]


def test_a_fold_is_what_a_run_of_its_own_would_be(done: tuple[dict[str, Any], int], place: Path) -> None:
    """The third adapter was trained on the base that the second one had been on: its bytes are those of a fresh base."""
    assert cli.main(["crossval", str(place / "mine.yaml"), f"output={place / 'again'}", "--folds", "3"]) == 0
    for fold in "123":
        ours, fresh = (place / name / "folds" / fold / "adapter/adapter_model.safetensors" for name in ("out", "again"))
        assert ours.read_bytes() == fresh.read_bytes()


def test_pooled_scores_are_of_all_rows(done: tuple[dict[str, Any], int]) -> None:
    (line,) = [line for line in done[0]["scores"] if line["lang"] == "en"]
    assert line["metric"] == "rougeL"
    assert len(line["values"]) == FOLDS
    assert line["pooled"]["n"] == done[0]["rows"]
    weights = done[0]["rows_by_fold"]
    mean = sum(w * v for w, v in zip(weights, line["values"], strict=True)) / sum(weights)
    assert line["pooled"]["value"] == pytest.approx(mean, abs=1e-6)
    assert line["pooled"]["interval"][0] <= line["pooled"]["value"] <= line["pooled"]["interval"][1]


def test_what_was_begun_is_kept(
    done: tuple[dict[str, Any], int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ([], "Continue it with --resume"),
        (["--resume", "train.seed=7"], "train.seed was 42 and is now 7"),
        (["--resume", "--folds", "4"], "has 3 folds, not 4"),
    ):
        assert run(place, *arguments) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_a_resume_with_other_rows_is_refused(
    done: tuple[dict[str, Any], int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row more would be dealt to a fold that is done, and never be tested."""
    rows = place / "rows.jsonl"
    before = rows.read_text(encoding="utf-8")
    make_rows(rows, unlike(61))
    try:
        assert run(place, "--resume") == 2
    finally:
        rows.write_text(before, encoding="utf-8")
    error = " ".join(capsys.readouterr().err.split())
    assert f"The rows have changed since {place / 'out/folds/1'} was scored" in error


def test_what_the_recipe_leaves_open_is_written_out(done: tuple[dict[str, Any], int], place: Path) -> None:
    """So that a resume on another device, or when the Hub has moved, goes on with it."""
    assert load_recipe(place / "mine.yaml").base.dtype == "auto"
    assert load_recipe(place / "out/crossval.yaml").base.dtype == "float32"


def test_the_interval_is_that_of_student() -> None:
    """Five values of mean 84 and standard deviation 2.2361: 2.7764 x 2.2361 / sqrt(5) = 2.7764."""
    found = crossval.spread([81.0, 83.0, 84.0, 85.0, 87.0])
    assert (found["mean"], found["sd"]) == (84.0, pytest.approx(5**0.5))
    assert found["interval"] == pytest.approx([84 - 2.7764, 84 + 2.7764], abs=1e-4)


def test_like_rows_lie_in_one_fold_whatever_their_order() -> None:
    passages = [f"{word} lived in the old house by the {word} river and told stories of {word} to all." for word in
                ("Anna", "Benjamin", "Cornelius", "Dorothea", "Emmanuel", "Friederike")]  # fmt: skip
    texts = [f"{passage}{mark}" for passage in passages for mark in ("", "!", " ")]
    sides = dict(zip(texts, crossval.assign(texts, 3, 0.8), strict=True))
    for passage in passages:
        assert len({sides[f"{passage}{mark}"] for mark in ("", "!", " ")}) == 1
    assert sorted(list(sides.values()).count(fold) for fold in range(3)) == [6, 6, 6]
    assert dict(zip(texts[::-1], crossval.assign(texts[::-1], 3, 0.8), strict=True)) == sides
    with pytest.raises(RecipeError, match="6 groups of like texts"):
        crossval.assign(texts, 7, 0.8)
