"""`llama-tasks score`: files in, numbers with signature, n and interval out; every mistake is one paragraph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_tasks import metrics
from llama_tasks.cli import main


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of text and of rows in the current folder."""
    texts = {
        "hyp.txt": "今天天气很好\r\n我们\u2028去公园\n\n",  # a line separator inside a text, an empty prediction
        "ref.txt": "\ufeff今天天气不错\n我们去公园\n你好",
        "ref2.txt": "今天天气好\n去公园\n您好\n",
        "short.txt": "一行\n",
        "labels.txt": "good\nbad\nbad\n",
        "said.txt": "good\ngood\n[b]?[/b]\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def scored(capsys: pytest.CaptureFixture, *argv: str) -> dict:
    assert main(["score", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_group_over_lines(files: Path, capsys: pytest.CaptureFixture) -> None:
    result = scored(capsys, "hyp.txt", "ref.txt", "ref2.txt", "--metric", "rouge", "--lang", "zh", "--seed", "3")
    assert [score["metric"] for score in result["scores"]] == ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    predictions = ["今天天气很好", "我们\u2028去公园", ""]
    references = [["今天天气不错", "今天天气好"], ["我们去公园", "去公园"], ["你好", "您好"]]
    expected = metrics.score(metrics.create("rouge1", "zh"), predictions, references, seed=3)
    assert result["scores"][0] == expected.to_dict()
    assert result["counts"] == {"rows": 3, "empty": 1, "truncated": 0, "unparsable": 0, "shortened": 0}


def test_the_table_has_value_interval_n_and_signature(files: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["score", "hyp.txt", "ref.txt", "--metric", "chrf", "--metric", "bleu", "--lang", "zh"]) == 0
    shown = capsys.readouterr().out
    for text in ("95% interval", "chrf", "tok:zh", "nrefs:1|bs:1000|seed:12345|", "rows 3, empty 1, truncated 0"):
        assert text in shown


def test_labels_have_their_tables_and_invalid_outputs_are_shown(files: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["said.txt", "labels.txt", "--metric", "classification", "--lang", "en", "--labels", "good,bad"]
    result = scored(capsys, *argv)
    assert result["confusion"] == [[1, 0, 0], [1, 0, 1]]
    assert [row["support"] for row in result["labels"]] == [1, 2]
    assert result["counts"]["unparsable"] == 1
    assert len(result["scores"]) == 12
    assert main(["score", *argv]) == 0
    assert "none of them" in capsys.readouterr().out


def test_labels_need_no_language(files: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["said.txt", "labels.txt", "--labels", "good,bad"]
    result = scored(capsys, *argv, "--metric", "accuracy", "--metric", "macro_f1")
    assert [(score["lang"], score["n"]) for score in result["scores"]] == [("all", 3), ("all", 3)]
    assert result["scores"][0]["value"] == pytest.approx(100 / 3)
    compared = ["said.txt", "labels.txt", "--references", "labels.txt", "--labels", "good,bad", "--json"]
    assert main(["compare", *compared, "--metric", "classification"]) == 0
    assert {pair["lang"] for pair in json.loads(capsys.readouterr().out)["pairs"]} == {"all"}
    for command in (["score", *argv], ["compare", *compared]):
        assert main([*command, "--metric", "accuracy", "--metric", "chrf"]) == 2
        assert "give --lang" in capsys.readouterr().err


def test_rows_of_predictions_by_language(files: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [
        {
            "lang": "en",
            "prediction": "a cat",
            "references": ["a cat sat"],
            "input": {"document": "a cat sat"},
            "finish": "length",
        },
        {"lang": "zh", "prediction": "公园", "references": ["去公园"], "source": "我们去公园", "finish": "stop"},
    ]
    (files / "p.jsonl").write_text(lines(*rows), encoding="utf-8")
    result = scored(capsys, "p.jsonl", "--metric", "rouge1", "--metric", "novelty:n=1", "--metric", "copy_density")
    found = {(score["metric"], score["lang"]): score["value"] for score in result["scores"]}
    assert found[("rouge1", "en")] == pytest.approx(80)
    assert found[("rouge1", "zh")] == pytest.approx(80)
    assert found[("novelty:n=1", "zh")] == 0
    assert found[("copy_density", "en")] == 2
    assert result["counts"]["truncated"] == 1


def test_null_says_that_a_row_has_none(files: Path, capsys: pytest.CaptureFixture) -> None:
    row = {"lang": "en", "prediction": "a b", "references": ["a b"], "input": {"text": "a b c"}, "source": None}
    rows = [{**row, "failure": None, "answer_cut": None, "shortened": None}, {**row, "failure": "copied"}]
    (files / "p.jsonl").write_text(lines(*rows), encoding="utf-8")
    result = scored(capsys, "p.jsonl", "--metric", "copy_rate")
    assert result["scores"][0]["value"] == 100
    assert result["counts"] == {"rows": 2, "empty": 0, "truncated": 0, "unparsable": 0, "shortened": 0, "copied": 1}


def test_squad2_leaves_out_a_part_without_rows(files: Path, capsys: pytest.CaptureFixture) -> None:
    (files / "p.jsonl").write_text(lines({"prediction": "Rome", "references": ["Rome"]}), encoding="utf-8")
    result = scored(capsys, "p.jsonl", "--metric", "squad2", "--lang", "en")
    names = [score["metric"] for score in result["scores"]]
    assert len(names) == 4 and not any("noans" in name for name in names)


def test_choices_give_labels_and_calibration(files: Path, capsys: pytest.CaptureFixture) -> None:
    row = {"lang": "en", "prediction": "a", "references": ["a"], "choices": {"a": 0.0, "b": 0.0}}
    (files / "p.jsonl").write_text(lines(row), encoding="utf-8")
    result = scored(capsys, "p.jsonl", "--metric", "calibration_error", "--metric", "accuracy")
    assert [score["value"] for score in result["scores"]] == [pytest.approx(50), 100]
    assert result["reliability"][0]["confidence"] == 0.5
    assert result["confusion"] == [[1, 0, 0], [0, 0, 0]]


def test_choices_that_differ_are_no_label_set(files: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [{"lang": "en", "prediction": a, "references": [a], "choices": {a: 0.0, b: -1.0}} for a, b in ("ab", "cd")]
    rows.append({**rows[0], "choices": None})
    (files / "p.jsonl").write_text(lines(*rows), encoding="utf-8")
    assert scored(capsys, "p.jsonl", "--metric", "chrf")["counts"]["unparsable"] == 0


def test_a_carriage_return_within_a_line_ends_no_line(files: Path, capsys: pytest.CaptureFixture) -> None:
    (files / "hyp.txt").write_bytes(b"one\rtwo\r\nthree\r\n")
    (files / "ref.txt").write_bytes(b"one two\nthree\n")
    assert scored(capsys, "hyp.txt", "ref.txt", "--metric", "exact_match", "--lang", "de")["scores"][0]["value"] == 100


def test_language_models(files: Path, capsys: pytest.CaptureFixture) -> None:
    (files / "p.jsonl").write_text(lines({"nll": 2.0, "tokens": 2, "bytes": 4}), encoding="utf-8")
    result = scored(capsys, "p.jsonl", "--metric", "perplexity", "--metric", "bits_per_byte")
    assert [score["value"] for score in result["scores"]] == pytest.approx([2.718281828, 0.721347520])
    assert main(["score", "p.jsonl", "--metric", "loss"]) == 0
    assert "per:token" in capsys.readouterr().out


def test_losses_by_language_and_beside_other_metrics(files: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [
        {"prediction": "a", "references": ["a"], "lang": lang, "nll": nll, "tokens": 1, "bytes": 1}
        for lang, nll in (("en", 1.0), ("zh", 2.0), ("en", 3.0))
    ]
    (files / "p.jsonl").write_text(lines(*rows), encoding="utf-8")
    result = scored(capsys, "p.jsonl", "--metric", "loss", "--metric", "chrf")
    found = {(score["metric"], score["lang"]): (score["value"], score["n"]) for score in result["scores"]}
    assert found == {("loss", "en"): (2, 2), ("loss", "zh"): (2, 1), ("chrf", "en"): (100, 2), ("chrf", "zh"): (100, 1)}
    assert result["counts"]["rows"] == 3
    told = scored(capsys, "p.jsonl", "--metric", "loss", "--lang", "mul")
    assert [(score["lang"], score["value"]) for score in told["scores"]] == [("mul", 2)]
    assert main(["compare", "p.jsonl", "p.jsonl", "--metric", "perplexity"]) == 2
    assert "perplexity is of plain text, not of predictions and references: score rows" in capsys.readouterr().err


def test_a_metric_without_a_value_stops_no_other(files: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [{"lang": "en", "prediction": "a b", "references": [""], "source": "a b c"}]
    (files / "p.jsonl").write_text(lines(*rows), encoding="utf-8")
    why = "length_ratio: none of the 1 rows has what this metric is computed from"
    for argv in (["--metric", "length_ratio", "--metric", "bleu"], ["--metric", "summary"]):
        result = scored(capsys, "p.jsonl", *argv)
        assert result["scores"] and "length_ratio" not in [score["metric"] for score in result["scores"]]
        assert result["without_value"] == [{"metric": "length_ratio", "lang": "en", "why": why}]
        assert main(["score", "p.jsonl", *argv]) == 0
        shown = capsys.readouterr().out
        assert "no value" in shown and why in shown
    assert main(["score", "p.jsonl", "--metric", "length_ratio"]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("nll", [(4e4, 1.0), (1e308, 1e308), (900.0, 1.0)])
def test_a_perplexity_beyond_all_numbers_is_a_sentence(
    files: Path, capsys: pytest.CaptureFixture, nll: tuple[float, float]
) -> None:
    (files / "p.jsonl").write_text(lines(*({"nll": value, "tokens": 2, "bytes": 4} for value in nll)), encoding="utf-8")
    assert main(["score", "p.jsonl", "--metric", "perplexity", "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "perplexity: the value of these 2 rows, or its interval, is over 1e+150" in told.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["hyp.txt", "ref.txt", "--metric", "bleu"], "give --lang"),
        (["hyp.txt", "--metric", "bleu", "--lang", "zh"], "needs at least one file of references"),
        (["hyp.txt", "short.txt", "--metric", "bleu", "--lang", "zh"], "short.txt has 1 lines, and hyp.txt has 3"),
        (["hyp.txt", "nosuch.txt", "--metric", "bleu", "--lang", "zh"], "There is no file nosuch.txt"),
        (["latin.txt", "short.txt", "--metric", "bleu", "--lang", "fr"], "latin.txt is not UTF-8 (byte 3)"),
        (["hyp.txt", "ref.txt", "--metric", "rouge", "--lang", "en"], "reads only the letters a-z"),
        (["hyp.txt", "ref.txt", "--metric", "bleau", "--lang", "en"], "did you mean 'bleu'"),
        (["hyp.txt", "ref.txt", "--metric", "accuracy", "--lang", "en"], "needs its label set"),
        (["hyp.txt", "ref.txt", "--metric", "novelty", "--lang", "zh"], "row 0 has neither `source` nor `input`"),
        (["hyp.txt", "ref.txt", "--metric", "perplexity"], "row 0 has no nll, tokens, bytes"),
        (["bad.jsonl", "--metric", "bleu", "--lang", "en"], "must hold one object a line"),
        (["some.jsonl", "--metric", "bleu", "--lang", "en"], "row 1 has no `references`; it has prediction"),
        (["some.jsonl", "ref.txt", "--metric", "bleu", "--lang", "en"], "leave the other files out"),
        (["none.jsonl", "--metric", "bleu", "--lang", "en"], "there are no rows to score"),
        (["null.jsonl", "--metric", "bleu", "--lang", "en"], "the prediction of row 0 must be a text, not None"),
        (["cut.jsonl", "--metric", "chrf", "--lang", "en"], "cut.jsonl:2 is broken"),
        (["lang.jsonl", "--metric", "chrf"], "lang.jsonl, row 1: `lang` must be a language code, not ['en']"),
        (["input.jsonl", "--metric", "novelty", "--lang", "en"], "`input` must be an object {name: value}, not 'a'"),
        (["choices.jsonl", "--metric", "calibration_error", "--lang", "en"], "each label its log-likelihood, a number"),
        (["nll.jsonl", "--metric", "perplexity"], "`nll` must be a number, not 'x'"),
        (
            ["source.jsonl", "--metric", "novelty", "--lang", "en"],
            "`source` must be the text that was summarised, not 7",
        ),
        (["no_source.jsonl", "--metric", "novelty", "--lang", "en"], "row 0 has neither `source` nor `input`"),
        (["null_input.jsonl", "--metric", "novelty", "--lang", "en"], "`x` of row 0 must be a text, not None"),
        (["failure.jsonl", "--metric", "chrf", "--lang", "en"], "`failure` must be the name of a failure, not ['x']"),
        (["cut_off.jsonl", "--metric", "chrf", "--lang", "en"], "`answer_cut` must be true or false, not 'x'"),
        (["null_lang.jsonl", "--metric", "chrf"], "row 0 does not say its language"),
        (["hyp.txt", "ref.txt", "--metric", "chrf", "--lang", "zh", "--seed", "-1"], "seed is -1; give 0 or more"),
        (
            ["hyp.txt", "ref.txt", "--metric", "chrf", "--lang", "zh", "--resamples", "1"],
            "--resamples is 1; an interval",
        ),
    ],
)
def test_mistakes(files: Path, capsys: pytest.CaptureFixture, argv: list[str], message: str) -> None:
    (files / "bad.jsonl").write_text("[1]\n")
    (files / "some.jsonl").write_text(lines({"prediction": "a", "references": ["a"]}, {"prediction": "a"}))
    (files / "none.jsonl").write_text("")
    (files / "null.jsonl").write_text(lines({"prediction": None, "references": ["a"]}))
    row = {"prediction": "a", "references": ["a"]}
    (files / "cut.jsonl").write_text(lines(row) + '{"predic')  # copied halfway: no row is left out in silence
    odd = {
        "lang": {"lang": ["en"]},
        "input": {"input": "a"},
        "choices": {"choices": {"a": "b"}},
        "null_lang": {"lang": None},
        "source": {"source": 7},
        "no_source": {"source": None},
        "null_input": {"input": {"x": None}},
        "failure": {"failure": ["x"]},
        "cut_off": {"answer_cut": "x"},
    }
    for name, part in odd.items():
        (files / f"{name}.jsonl").write_text(lines({**row, **part}))
    (files / "nll.jsonl").write_text(lines({"nll": "x", "tokens": 1, "bytes": 1}))
    assert main(["score", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("llama-tasks: ") and error.count("\n") == 1
    assert message in error
