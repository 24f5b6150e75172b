"""Groups of rows: their means are those of their rows, the worst and the gap are found, and their interval holds the truth."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llama_tasks.errors import DataError
from llama_tasks.evaluation import slices


def rows(n: int = 120) -> list[dict]:
    return [
        {"id": str(i), "lang": "zh" if i % 3 == 0 else "en", "prompt_tokens": 10 + i, "references": ["yes" if i % 2 else "no"],
         "input": {"text": "x" * i}, "meta": {"gender": "f" if i % 4 == 0 else "m", "year": 1900 + i, "id2": f"u{i}"}}
        for i in range(n)
    ]  # fmt: skip


def values(made: list[dict], **shift: float) -> dict[str, float]:
    """Noise around 50, moved by what the row's gender says."""
    noise = random.Random(0)
    return {row["id"]: 50 + noise.gauss(0, 5) + shift.get(row["meta"]["gender"], 0) for row in made}


def test_a_group_is_the_mean_of_its_rows_and_the_worst_is_found() -> None:
    made = rows()
    base, adapter = values(made), values(made, f=-20)
    found = slices.slice_by(made, "gender", {"base": base, "adapter": adapter}, n_resamples=300)
    women, men = found["groups"]
    assert (women["group"], women["n"], men["group"], men["n"]) == ("f", 30, "m", 90)
    mine = [adapter[row["id"]] for row in made if row["meta"]["gender"] == "f"]
    assert women["systems"]["adapter"]["value"] == pytest.approx(np.mean(mine))
    assert women["difference"] == pytest.approx(-20)
    assert women["difference_interval"] == pytest.approx([-20, -20])  # both systems on the same drawn rows
    worst = found["worst"]["adapter"]
    assert (worst["group"], worst["best"]) == ("f", "m")
    assert worst["gap"] == pytest.approx(men["systems"]["adapter"]["value"] - women["systems"]["adapter"]["value"])
    assert worst["interval"][0] < worst["gap"] < worst["interval"][1]
    assert worst["interval"][0] > 10


def test_the_interval_of_the_gap_is_that_of_two_independent_means() -> None:
    """Against the formula: the standard error of a difference of means of 30 and 90 rows of spread 5."""
    made = rows()
    found = slices.slice_by(made, "gender", {"x": values(made, f=-20)}, n_resamples=4000)
    low, high = found["worst"]["x"]["interval"]
    assert high - low == pytest.approx(2 * 1.96 * 5 * (1 / 30 + 1 / 90) ** 0.5, rel=0.2)


def test_standard_slices() -> None:
    made = rows()
    found = {part["column"]: part for part in slices.slices(made, {"x": values(made)}, n_resamples=50)}
    assert list(found) == ["input_length", "language", "label", "gender"]  # of years and ids there are too many
    assert [group["group"] for group in found["input_length"]["groups"]] == [
        "10 – 39",
        "40 – 69",
        "70 – 99",
        "100 – 129",
    ]
    assert [(group["group"], group["n"]) for group in found["label"]["groups"]] == [("no", 60), ("yes", 60)]


def test_any_column_may_be_asked_for() -> None:
    made = rows()
    by_year = slices.slice_by(made, "year", {"x": values(made)}, n_resamples=50)
    assert [group["n"] for group in by_year["groups"]] == [30] * 4
    assert len(slices.slice_by(made, "id2", {"x": values(made)}, n_resamples=50)["groups"]) == 120
    del made[0]["meta"]["gender"]
    assert slices.slice_by(made, "gender", {"x": values(rows())}, n_resamples=9)["groups"][-1]["group"] == "(none)"
    with pytest.raises(DataError, match=r"No row has the column 'gendre'. Did you mean 'gender'\?"):
        slices.slice_by(made, "gendre", {"x": {}})


def test_small_groups_are_shown_and_not_called_the_worst() -> None:
    made = rows(100)
    for row in made[:5]:
        row["meta"]["gender"] = "?"
    found = slices.slice_by(made, "gender", {"x": values(made, **{"?": -50})}, n_resamples=50)
    assert found["groups"][0]["n"] == 5
    assert found["worst"]["x"]["group"] != "?"


def test_rows_without_a_value_are_left_out() -> None:
    made = rows(40)
    known = values(made)
    known["0"] = float("nan")
    del known["4"]
    assert slices.slice_by(made, "gender", {"x": known}, n_resamples=9)["groups"][0]["n"] == 8


def test_numbers_without_an_end_are_no_numbers() -> None:
    made = [{**row, "meta": {"age": float("nan") if at % 3 else at, "gender": "f"}} for at, row in enumerate(rows())]
    made[0]["meta"]["age"] = float("inf")
    groups = slices.slice_by(made, "age", {"base": values(made)}, n_resamples=20)["groups"]
    assert [(group["group"], group["n"]) for group in groups][-1] == ("(none)", 81)
    assert sum(group["n"] for group in groups) == 120


def groups_of(column: list) -> list[tuple[str, int]]:
    """(group, n) of a column with these values."""
    made = [{"id": str(i), "references": ["a"], "meta": {"x": value}} for i, value in enumerate(column)]
    found = slices.slice_by(made, "x", {"a": dict.fromkeys(map(str, range(len(made))), 1.0)}, n_resamples=9)
    return [(group["group"], group["n"]) for group in found["groups"]]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1000001, 1000002, 1000003] * 20, [("1000001", 20), ("1000002", 20), ("1000003", 20)]),
        ([0.1, 0.1 + 2**-40] * 20, [("0.1", 20), (str(0.1 + 2**-40), 20)]),
        ([0.1 + 0.2, 0.5] * 20, [("0.3", 20), ("0.5", 20)]),
        ([1, 1.0, "1"] * 30, [("1", 60), ('"1"', 30)]),
        ([1, "1", '"1"'] * 20, [("1", 20), ('"1"', 20), ('""1""', 20)]),
        ([None, "(none)"] * 30, [('"(none)"', 30), ("(none)", 30)]),
        ([True, 10**400, 2] * 20, [("2", 20), (str(10**400), 20), ("True", 20)]),
        (
            [1700000000 + i for i in range(100)],
            [(f"17000000{low:02} – 17000000{low + 24:02}", 25) for low in (0, 25, 50, 75)],
        ),
        (
            [1.7e9 + i for i in range(100)],
            [(f"17000000{low:02}.0 – 17000000{low + 24:02}.0", 25) for low in (0, 25, 50, 75)],
        ),
    ],
)
def test_groups_that_would_look_alike_stay_apart(column: list, expected: list[tuple[str, int]]) -> None:
    assert groups_of(column) == expected


def test_the_worst_of_groups_that_would_look_alike_is_found() -> None:
    made = [{"id": str(i), "references": ["a"], "meta": {"x": 1700000000 + i}} for i in range(100)]
    found = slices.slice_by(made, "x", {"a": {str(i): float(i) for i in range(100)}}, n_resamples=9)
    assert (found["worst"]["a"]["group"], found["worst"]["a"]["gap"]) == ("1700000000 – 1700000024", 75)
