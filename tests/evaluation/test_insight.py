"""An evaluation from end to end: leaks that were allowed, labels, slices by a column of the data, general text before and after."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import logprob, make_base, make_rows, recipe_text

from llama_tasks import adapters, dataset, explain, score
from llama_tasks.cli import main
from llama_tasks.errors import DataError
from llama_tasks.evaluation import forgetting, insight, predict, write_report
from llama_tasks.evaluation import load as load_run
from llama_tasks.metrics import LanguageModel, value_of
from llama_tasks.recipe import load_recipe
from llama_tasks.report import load
from llama_tasks.rundir import RunDirectory, read_jsonl
from llama_tasks.tokens import Encoder

LEAKED = 3


def text_of(n: int) -> str:
    subject = "The farmer sold potatoes and apples" if n % 2 else "Our team lost the final in the last minute"
    return f"{subject}; it was on day {n} of the month, and {n * 7} people stood on the square to look on."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and evaluated run whose test split holds three training rows."""
    folder = tmp_path_factory.mktemp("insight")
    labels = ["sports", "market"]
    rows = [{"text": text_of(n), "label": labels[n % 2], "lang": "en", "place": "town" if n % 3 else "village"}
            for n in range(60)]  # fmt: skip
    train = make_rows(folder / "train.jsonl", rows[:30])
    test = make_rows(folder / "test.jsonl", [*rows[:LEAKED], *rows[30:]])
    (folder / "mine.yaml").write_text(recipe_text("classify", make_base(folder / "base"), train), encoding="utf-8")
    more = [f"data.validation={test}", f"data.test={test}", "prompt.allow=[leak]", f"output={folder / 'run'}"]
    assert main(["finetune", str(folder / "mine.yaml"), *more]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return load(run)


def test_leaks_are_found_though_they_were_allowed(run: Path, report: dict[str, Any]) -> None:
    told = report["leaks"]
    assert (told["checked"], told["rows"], told["of"]) == (True, LEAKED, 33)
    assert told["kinds"] == {"exact": LEAKED, "normalised": 0, "ngram": 0}
    assert told["first"][0] == ["test:0", "train:0"]
    rows = list(read_jsonl(run / "eval/adapter/predictions.jsonl"))
    accuracy = next(score for score in told["scores"] if (score["metric"], score["lang"]) == ("accuracy", "en"))
    clean = [row["prediction"] == row["references"][0] for row in rows[LEAKED:]]
    assert accuracy["adapter"]["without"]["value"] == pytest.approx(100 * sum(clean) / 30)
    assert accuracy["n"] == 30
    for name in ("report.html", "report.md"):
        assert "3 of 33 test rows are also in the training rows" in (run / name).read_text(encoding="utf-8")


def test_labels_and_calibration(report: dict[str, Any]) -> None:
    for own in report["labels"].values():
        assert [row["label"] for row in own["table"]] == ["market", "sports"]
        assert sum(map(sum, own["confusion"])) == sum(one["n"] for one in own["reliability"]) == 33


def test_columns_of_the_data_are_sliced(report: dict[str, Any]) -> None:
    found = {part["column"]: part for part in report["slices"]["columns"]}
    assert report["slices"]["metric"] == "accuracy"
    assert {group["group"]: group["n"] for group in found["place"]["groups"]} == {"town": 22, "village": 11}
    assert {"input_length", "label"} <= set(found)


def test_differences_carry_what_can_be_detected(report: dict[str, Any]) -> None:
    assert all(score["detectable"] >= 0 for score in report["scores"])


def test_general_text_before_and_after(run: Path, report: dict[str, Any]) -> None:
    general = report["general"]
    assert [(row["metric"], row["lang"], row["n"]) for row in general["scores"]] == [
        ("perplexity", "en", 20), ("bits_per_byte", "en", 20), ("perplexity", "zh", 20), ("bits_per_byte", "zh", 20),
    ]  # fmt: skip
    for row in general["scores"]:
        assert row["base"]["interval"][0] <= row["base"]["value"] <= row["base"]["interval"][1]
        assert row["difference"] == pytest.approx(row["adapter"]["value"] - row["base"]["value"])
        assert row["higher_is_better"] is False


def test_general_text_of_a_broken_adapter_keeps_what_is_a_number() -> None:
    fine = [{"lang": "en", "nll": 20.0 + at, "tokens": 10, "bytes": 40} for at in range(8)]
    broken = [row | {"nll": 4e4} for row in fine]
    (row,) = forgetting.compare({"base": fine, "adapter": broken}, 100, 1)
    assert row["metric"] == "bits_per_byte" and row["adapter"]["value"] == pytest.approx(1e3 / math.log(2))
    json.dumps(row, allow_nan=False)


def test_the_losses_are_those_of_transformers(run: Path) -> None:
    from transformers import LlamaForCausalLM

    recipe = RunDirectory(run).recipe()
    plain = LlamaForCausalLM.from_pretrained(recipe.base.model).eval()
    encoder = Encoder(adapters.load_tokenizer(recipe.base), recipe.prompt)
    rows = list(read_jsonl(run / "eval/base/general.jsonl"))
    for prompt, row in list(zip(forgetting.read("embedded"), rows, strict=True))[::13]:
        ids = [*encoder.bos, *encoder.ids([prompt.response])[0], *encoder.eos]
        assert row["tokens"] == len(ids) - 1
        assert row["nll"] == pytest.approx(-logprob(plain, ids, 1), rel=1e-4)
        assert row["bytes"] == len(prompt.response.encode())


def test_long_texts_are_measured_in_blocks(root: Path) -> None:
    recipe = load_recipe(root / "recipes/classify.yaml", ["prompt.max_length=16"])
    encoder = Encoder(adapters.load_tokenizer(recipe.base), recipe.prompt)
    prompts = forgetting.read("embedded")[:3]
    model = adapters.load_base(recipe.base)
    rows = score.text_losses(model, encoder, prompts, 512)
    whole = score.score_text(model, encoder.blocks(prompts).tokens, sum(row["bytes"] for row in rows), 512)
    loss = LanguageModel("loss")
    stats = loss.statistics(*([row[key] for row in rows] for key in ("nll", "tokens", "bytes")))
    assert value_of(loss, stats) == pytest.approx(whole["loss"], rel=1e-6)
    assert math.exp(whole["loss"]) == pytest.approx(whole["perplexity"])


def test_a_set_of_ones_own_and_none(run: Path, tmp_path: Path) -> None:
    own = make_rows(tmp_path / "own.jsonl", [{"text": "Es regnet.", "lang": "de"}])
    assert [prompt.example.lang for prompt in forgetting.read(str(own))] == ["de"]
    with pytest.raises(DataError, match="there is no file 'nosuch.jsonl'; `embedded`"):
        forgetting.read("nosuch.jsonl")
    recipe = load_recipe(run / "recipe.yaml", ["eval.general_text=null"])
    assert "general" not in write_report(RunDirectory(run), recipe)


def test_losses_are_told_of_the_set_that_was_measured(run: Path, tmp_path: Path) -> None:
    """`evaluate RUN eval.general_text=mine.jsonl`, then `report RUN`, whose recipe has another set."""
    copied = RunDirectory(Path(shutil.copytree(run, tmp_path / "run")))
    mine = str(make_rows(tmp_path / "mine.jsonl", [{"text": "Es regnet.", "lang": "de"}]))
    recipe = load_recipe(copied.path / "recipe.yaml", [f"eval.general_text={mine}"])
    data = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    insight.observe(copied, recipe, data, load_run(copied, recipe))
    general = write_report(copied, copied.recipe())["general"]
    assert general["source"] == mine and {row["lang"] for row in general["scores"]} == {"de"}
    (copied.path / "eval" / insight.SOURCE).unlink()  # as older versions left it
    assert write_report(copied, copied.recipe())["general"]["source"] == "embedded"


def test_reports_of_older_runs_say_that_nobody_looked(run: Path, tmp_path: Path) -> None:
    import shutil

    old = RunDirectory(Path(shutil.copytree(run, tmp_path / "old")))
    (old.path / "eval" / insight.LEAKS).unlink()
    for path in old.path.glob(f"eval/*/{insight.GENERAL}"):
        path.unlink()
    written = write_report(old, old.recipe())
    assert written["leaks"]["checked"] is False
    assert "general" not in written
    page = (old.path / "report.html").read_text(encoding="utf-8")
    assert "Test rows were not compared with the training rows" in page
    assert json.loads((old.path / "report.json").read_text(encoding="utf-8")) == written


def test_numbers_say_what_made_them(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training's command and versions, until an evaluation of its own has made them; and then both."""
    again = Path(shutil.copytree(run, tmp_path / "again"))
    trained = {
        **json.loads((run / "environment.json").read_text()),
        "command": "make finetune",
        "versions": {"torch": "0"},
    }
    (again / "environment.json").write_text(json.dumps(trained))
    assert main(["report", str(again)]) == 0
    found = load(again)
    assert (found["command"], found["provenance"]["versions"]) == ("make finetune", {"torch": "0"})
    assert "training" not in found["provenance"]
    monkeypatch.setenv("LLAMA_TASKS_COMMAND", "make evaluate")
    assert main(["evaluate", str(again), "eval.general_text=null"]) == 0
    monkeypatch.delenv("LLAMA_TASKS_COMMAND")
    assert main(["report", str(again)]) == 0
    found = load(again)
    assert (found["command"], found["provenance"]["training"]["command"]) == ("make evaluate", "make finetune")
    assert found["provenance"]["versions"]["torch"] != "0" == found["provenance"]["training"]["versions"]["torch"]
    assert "make evaluate\n```" in (again / "report.md").read_text()
    scores = [json.loads(path.read_text()) for path in again.glob("eval/*/scores.json")]
    assert len({score["fingerprint"] for score in scores}) == 1
    for one in scores:
        assert (one["command"], one["environment"]["versions"]) == ("make evaluate", found["provenance"]["versions"])


def test_a_run_is_compared_by_its_own_suite(run: Path, capsys: pytest.CaptureFixture) -> None:
    capsys.readouterr()
    base = run / "eval/base/predictions.jsonl"
    assert main(["compare", str(base), str(run), "--slice", "place", "--json", "--resamples", "100"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(score["metric"], score["lang"]) for score in result["scores"]] == [("accuracy", "en"), ("macro_f1", "en")]
    scores = {score["metric"]: score for score in load(run)["scores"]}
    for pair in result["pairs"]:
        assert pair["difference"] == pytest.approx(scores[pair["metric"]]["difference"])
    assert result["slices"][0]["column"] == "place"


def test_an_answer_is_explained(run: Path, capsys: pytest.CaptureFixture) -> None:
    capsys.readouterr()
    assert main(["explain", str(run), "--row", "3"]) == 0
    shown = capsys.readouterr().out
    row = next(row for row in read_jsonl(run / "eval/adapter/predictions.jsonl") if row["id"] == "test:3")
    assert f"test:3: '{row['raw']}'" in " ".join(shown.split()).replace("' ", "'")
    assert "input x gradient: " in shown and "attention rollout: " in shown
    page = (run / "explain-test-3.html").read_text(encoding="utf-8")
    assert page.count("<script>") == 1 and "http" not in page.replace("http-equiv", "")


def test_weights_stand_by_the_pieces_of_the_text(run: Path) -> None:
    handle = RunDirectory(run)
    recipe = load_recipe(run / "recipe.yaml", ["eval.scoring=generate", "eval.max_new_tokens=3"])
    found = explain.explain(handle, recipe, "test:5")
    said = next(row for row in read_jsonl(run / "eval/adapter/predictions.jsonl") if row["id"] == "test:5")
    assert said["input"]["text"] in "".join(piece.text for piece in found.prompt)
    assert 1 <= sum(len(piece.ids) for piece in found.output) <= 3
    everything = found.prompt + found.output
    for name in explain.METHODS:
        matrix = found.weights[name]
        assert len(matrix) == len(found.output) and {len(row) for row in matrix} == {len(everything)}
        for place, row in enumerate(matrix):
            assert all(weight == 0 for weight in row[len(found.prompt) + place :])
    for row in found.weights["attention_rollout"]:
        assert sum(row) == pytest.approx(1, abs=1e-4)
    assert len(found.summed("input_x_gradient")) == len(found.prompt)


def test_a_row_that_is_not_there(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["explain", str(run), "--row", "99"]) == 2
    assert "has no row '99'; it has 33, from test:0 (or 0) to test:32 (or 32)" in capsys.readouterr().err
    assert main(["explain", str(run), "--row", "²"]) == 2
    assert "has no row '²'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        ["eval.scoring=generate", "eval.max_new_tokens=6"],
        ["eval.scoring=generate", "eval.max_new_tokens=6", "eval.min_new_tokens=6"],
        ["eval.scoring=generate", "eval.max_new_tokens=6", "eval.do_sample=true", "eval.temperature=3.0"],
        ["data.max_test_samples=5"],
    ],
    ids=["greedy", "limits", "sampling", "other rows of the same names"],
)
def test_what_is_explained_is_what_the_evaluation_gives(run: Path, tmp_path: Path, changes: list[str]) -> None:
    run = shutil.copytree(run, tmp_path / "run")
    saved = run / "eval/adapter/predictions.jsonl"  # of other rows: test:3 of a sample is not test:3 of all
    make_rows(saved, [{**row, "raw": "market" if row["raw"] == "sports" else "sports"} for row in read_jsonl(saved)])
    handle, recipe = RunDirectory(run), load_recipe(run / "recipe.yaml", changes)
    data = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    found = explain.explain(handle, recipe, "3")
    (row,) = predict(load_run(handle, recipe), data, data.prompts["test"][3:4], recipe.eval)
    ids = [number for piece in found.output for number in piece.ids]
    assert found.row == row["id"] == "test:3"
    assert data.encoder.tokenizer.decode(ids, skip_special_tokens=True).strip() == row["raw"].strip()
    assert row["input"]["text"] in "".join(piece.text for piece in found.prompt)
