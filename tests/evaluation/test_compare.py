"""`llama-tasks compare`: runs and files side by side; who wins where, surely or not; every mistake is one paragraph."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from report_sample import HOSTILE
from tiny import make_rows

from llama_tasks import metrics, significance
from llama_tasks.cli import main
from llama_tasks.evaluation import systems
from llama_tasks.report import comparison

WORDS = [
    "the",
    "river",
    "runs",
    "under",
    "a",
    "stone",
    "bridge",
    "and",
    "past",
    "the",
    "old",
    "mill",
    "toward",
    "the",
    "sea",
]


def predictions(skill: float, seed: int, n: int = 120) -> list[dict[str, Any]]:
    """Rows of a system that keeps each word of the reference with the probability `skill`; on domain `law` it is worse."""
    noise, text = random.Random(seed), random.Random(0)
    made = []
    for at in range(n):
        reference = [text.choice(WORDS) for _ in range(text.randrange(5, 12))]
        domain = "law" if at % 3 == 0 else "news"
        keeps = skill - (0.4 if domain == "law" else 0)
        said = [word if noise.random() < keeps else "uh" for word in reference]
        made.append(
            {"id": f"test:{at}", "lang": "en", "input": {"text": f"row {at}"}, "references": [" ".join(reference)],
             "prediction": " ".join(said), "meta": {"domain": domain}, "finish": "length" if at == 7 else "stop"}
        )  # fmt: skip
    return made


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three systems: b is much better than a, c about as good as a."""
    monkeypatch.chdir(tmp_path)
    for name, skill, seed in (("a", 0.5, 1), ("b", 0.8, 2), ("c", 0.5, 3)):
        (tmp_path / name).mkdir()
        make_rows(tmp_path / name / "predictions.jsonl", predictions(skill, seed))
    return [f"{name}/predictions.jsonl" for name in "abc"]


def run(capsys: pytest.CaptureFixture, *argv: str) -> dict[str, Any]:
    assert main(["compare", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_pairs_are_tested_and_corrected(files: list[str], capsys: pytest.CaptureFixture) -> None:
    result = run(capsys, *files, "--metric", "rouge1", "--resamples", "500")
    assert list(result["systems"]) == ["a", "b", "c"]
    pairs = {(pair["a"], pair["b"]): pair for pair in result["pairs"]}
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    rouge = metrics.create("rouge1", "en")
    stats = [metrics.row_statistics(rouge, systems.read(path).rows) for path in files]
    plain = [significance.compare(rouge, stats[i], stats[j], n_resamples=500) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert [pair["p_value"] for pair in pairs.values()] == significance.holm([test.p_value for test in plain])
    assert pairs["a", "b"]["p_value"] < 0.05 < pairs["a", "c"]["p_value"]
    assert pairs["a", "b"]["difference"] == pytest.approx(plain[0].difference)
    assert pairs["a", "b"]["detectable"] == pytest.approx(plain[0].detectable)
    assert pairs["a", "b"]["method"].endswith("|holm:3")
    assert result["scores"][0]["values"][1]["value"] == pytest.approx(metrics.value_of(rouge, stats[1]))
    assert result["counts"]["a"]["truncated"] == 1


def test_rows_that_won_and_lost(files: list[str], capsys: pytest.CaptureFixture) -> None:
    result = run(capsys, *files[:2], "--metric", "rouge1")
    (one,) = result["outcomes"]
    assert one["wins"] + one["losses"] + one["ties"] == 120
    assert one["wins"] > one["losses"] > 0
    losses = [row["gain"] for row in one["lost"]]
    assert losses == sorted(losses) and losses[-1] < 0
    assert one["won"][0]["gain"] == max(row["gain"] for row in one["won"]) > 0
    row = one["lost"][0]
    score = metrics.create("rouge1", "en")
    gain = [metrics.score(score, [row[side]], [row["references"]], n_resamples=1).value for side in ("a", "b")]
    assert row["gain"] == pytest.approx(gain[1] - gain[0])


def test_rows_that_won_are_counted_by_language(tmp_path: Path) -> None:
    """Two English rows get better, one Chinese row worse; accuracy is also told over both languages."""
    said = {"en": ("yes", "yes"), "zh": ("no", "yes")}
    rows = [{"id": str(at), "lang": lang, "references": ["yes"], "prediction": "no", "input": {}}
            for at, lang in enumerate(["en", "en", "zh", "zh", "zh"])]  # fmt: skip
    rows[2]["prediction"] = "yes"
    after = [row | {"prediction": said[row["lang"]][at % 2]} for at, row in enumerate(rows)]
    sides = [systems.Side("a", rows), systems.Side("b", after)]
    found = systems.compare(sides, ["accuracy"], labels=["yes", "no"], n_resamples=50)
    counted = {pair["lang"]: [pair[key] for key in ("wins", "losses", "ties")] for pair in found.result["pairs"]}
    assert counted == {"en": [2, 0, 0], "zh": [1, 1, 1], "all": [3, 1, 1]}
    assert sum(counted["en"]) == next(score["n"] for score in found.result["scores"] if score["lang"] == "en")
    page = comparison.page(found.result, found.systems)
    for cell in ("2 / 0 / 0", "1 / 1 / 1", "3 / 1 / 1"):
        assert page.count(cell) == 1


def test_slices_by_any_column(files: list[str], capsys: pytest.CaptureFixture) -> None:
    result = run(capsys, *files[:2], "--metric", "rouge1", "--slice", "text", "--slice", "domain")
    assert [part["column"] for part in result["slices"]][:3] == ["text", "domain", "input_length"]
    domain = result["slices"][1]
    assert [(group["group"], group["n"]) for group in domain["groups"]] == [("law", 40), ("news", 80)]
    for worst in domain["worst"].values():
        assert (worst["group"], worst["best"]) == ("law", "news")
        assert 0 < worst["interval"][0] < worst["gap"] < worst["interval"][1]


def test_labels_are_compared_by_mcnemar(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    truth = [["yes", "no"][at % 2] for at in range(60)]
    for name, wrong in (("a", 25), ("b", 5)):
        rows = [{"id": at, "lang": "en", "references": [label], "prediction": "no" if at < wrong else label, "input": {}}
                for at, label in enumerate(truth)]  # fmt: skip
        make_rows(tmp_path / f"{name}.jsonl", rows)
    argv = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--metric", "accuracy", "--labels", "yes,no"]
    (pair,) = run(capsys, *argv)["pairs"]
    assert pair["method"].startswith("mcnemar-exact") and "holm" not in pair["method"]
    assert pair["p_value"] == pytest.approx(2 / 2**10)  # ten rows of one kind, none of the other


def test_squad2_leaves_out_a_part_without_rows_as_score_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": str(at), "lang": lang, "references": ["Rome"], "prediction": "Rome"}
        for at, lang in enumerate(["en", "de"])
    ]
    unanswerable = {"id": "2", "lang": "de", "references": [], "prediction": ""}
    for name, last in (("a.jsonl", ""), ("b.jsonl", "x")):
        make_rows(Path(name), [*rows, unanswerable | {"prediction": last}])
    result = run(capsys, "a.jsonl", "b.jsonl", "--metric", "squad2")
    assert main(["score", "a.jsonl", "--metric", "squad2", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)["scores"]
    for found in (result["scores"], result["pairs"]):
        assert [(one["metric"], one["lang"]) for one in found] == [(one["metric"], one["lang"]) for one in scored]
    assert {one["lang"] for one in scored if "noans" in one["metric"]} == {"de"}
    alone = run(capsys, "a.jsonl", "b.jsonl", "--metric", "f1:rows=noans", "--lang", "de")
    assert alone["row_metric"] == "f1" and alone["pairs"][0]["losses"] == 1
    make_rows(Path("a.jsonl"), rows)
    make_rows(Path("b.jsonl"), rows)
    # named by itself, it is what was asked for
    assert main(["compare", "a.jsonl", "b.jsonl", "--metric", "f1:rows=noans"]) == 2
    assert "none of the 1 rows has what this metric is computed from" in capsys.readouterr().err


def test_lines_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "a.txt": "今天天气很好\n去公园\n",
        "b.txt": "今天天气不错\n我们去公园\n",
        "ref.txt": "今天天气不错\n我们去公园\n",
    }.items():
        Path(name).write_text(text, encoding="utf-8")
    argv = ["a.txt", "b.txt", "--references", "ref.txt", "--lang", "zh", "--metric", "ter"]
    result = run(capsys, *argv)
    assert result["row_metric"] == "chrf"  # of TER a greater value is a worse one
    assert result["outcomes"][0]["wins"] == 2
    assert result["pairs"][0]["higher_is_better"] is False
    assert result["scores"][0]["higher_is_better"] is False
    assert main(["compare", *argv, "--html", "out.html"]) == 0
    assert capsys.readouterr().out.count("TER ↓") == 2  # in the table of scores and in that of pairs
    heads = [
        part for part in Path("out.html").read_text(encoding="utf-8").split("</th>") if '<th scope="row">TER' in part
    ]
    assert len(heads) == 2 and all("lower is better" in head for head in heads)


def test_the_terminal_and_the_page(files: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", *files, "--metric", "rouge1", "--slice", "domain", "--html", "out.html"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("a → b", "1 truncated", "got worse by", "worst law", "page: out.html"):
        assert part in shown
    text = Path("out.html").read_text(encoding="utf-8")
    for part in ("Every pair", "两两比较", "a · b · c", "paired bootstrap", "default-src 'none'"):
        assert part in text
    assert "http" not in text.replace("http-equiv", "")


def test_names_are_what_tells_paths_apart() -> None:
    for paths, names in (
        (["runs/a/eval/adapter/predictions.jsonl", "runs/b/eval/adapter/predictions.jsonl"], ["a", "b"]),
        (["runs/a/eval/base/predictions.jsonl", "runs/a/eval/adapter/predictions.jsonl"], ["base", "adapter"]),
        (["x/one", "y/one", "y/two"], ["x/one", "y/one", "y/two"]),
        (["same", "same"], ["same#1", "same#2"]),
        (["/a/run/p.jsonl", "/a/run/p.jsonl"], ["p#1", "p#2"]),
        (["runs/qa", "runs/qa/eval/base/predictions.jsonl"], ["qa", "base"]),
        (["runs/qa", "runs/qa/eval/base/predictions.jsonl", "runs/qa"], ["qa#1", "base", "qa#2"]),
        (["runs/qa", "runs/qa/predictions.jsonl"], ["qa", "predictions"]),
    ):
        sides = [systems.Side(path, predictions(0.5, 1, 12)) for path in paths]
        assert list(systems.compare(sides, ["rouge1"], n_resamples=5).result["systems"]) == names


def test_hostile_rows_are_text(tmp_path: Path) -> None:
    rows = [{"id": f"{at}{HOSTILE}", "lang": "en", "references": [f"{HOSTILE} {at}"], "prediction": HOSTILE * (at % 2),
             "input": {HOSTILE: HOSTILE}, "meta": {HOSTILE: HOSTILE[: 20 + at % 2]}} for at in range(24)]  # fmt: skip
    other = [row | {"prediction": f"{HOSTILE} good"} for row in rows]
    found = systems.compare([systems.Side(f"a{HOSTILE}", rows), systems.Side("b", other)], ["chrf"], n_resamples=20)
    text = comparison.page(found.result, found.systems)
    assert text.count("<script>") == text.count("</script>") == 1
    assert "<img" not in text and "javascript:document" not in text.replace("&#34;javascript:document", "")


@pytest.mark.parametrize(
    ("change", "argv", "message"),
    [
        (lambda rows: rows[:-3], [], "hold different rows: 3 ids are in one only, first test:117, test:118, test:119"),
        (lambda rows: [*rows, rows[0]], [], "1 rows have no id of their own"),
        (
            lambda rows: [{**row, "references": ["x"]} for row in rows],
            [],
            "have other references in 120 rows, first test:0",
        ),
        (lambda rows: [{**row, "lang": "de"} for row in rows], [], "have other languages in 120 rows, first test:0"),
        (lambda rows: [{k: row[k] for k in row if k != "lang"} for row in rows], [], "give --lang, such as --lang en"),
        (lambda rows: rows, ["--metric", "bleau"], "did you mean 'bleu'"),
        (
            lambda rows: rows,
            ["--metric", "accuracy"],
            "accuracy compares labels; say which there are: --labels, such as",
        ),
        (lambda rows: rows, ["--metric", "accuracy", "--labels", "a,b"], "test:0: the true label 'bridge toward"),
        (lambda rows: rows, ["--slice", "domian"], "No row has the column 'domian'. Did you mean 'domain'?"),
    ],
)
def test_mistakes(files: list[str], capsys: pytest.CaptureFixture, change: Any, argv: list[str], message: str) -> None:
    make_rows(Path("b/predictions.jsonl"), change(predictions(0.8, 2)))
    assert main(["compare", *files[:2], "--metric", "rouge1", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("references", "message"),
    [({}, "accuracy: row 0 has no `references`"), ({"references": None}, "must be a list, not None"),
     ({"references": "yes"}, "must be a list, not str 'yes'; put a single text in brackets")],
)  # fmt: skip
def test_rows_without_true_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture, references: dict[str, Any], message: str
) -> None:
    files = [
        str(make_rows(tmp_path / f"{name}.jsonl", [{"id": "1", "prediction": "yes", **references}])) for name in "ab"
    ]
    assert main(["compare", *files, "--metric", "accuracy", "--labels", "yes,no"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_more_mistakes(files: list[str], capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    for argv, message in (
        ([files[0]], "There is one system"),
        (["empty.jsonl", "empty.jsonl", "--metric", "chrf"], "empty.jsonl has no rows to compare"),
        (files[:2], "say what to measure, such as --metric chrf"),
        (
            [*files[:2], "--metric", "chrf", "--resamples", "99"],
            "--resamples is 99; an interval of 95% needs at least 100",
        ),
        ([str(tmp_path / "nowhere"), files[0]], "There is no file and no run"),
        ([str(tmp_path), files[0]], "is no run directory"),
    ):
        assert main(["compare", *argv]) == 2
        assert message in capsys.readouterr().err
