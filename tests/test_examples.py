"""Every worked example runs from recipe to report on its samples, and its metrics are what they say on literals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny import make_rows

from llama_tasks import adapters, cli, dataset, evaluation, metrics, tasks
from llama_tasks.errors import ModelError
from llama_tasks.finetune import finetune
from llama_tasks.inspection import inspect
from llama_tasks.recipe import load_recipe
from llama_tasks.rundir import RunDirectory, read_jsonl

NAMES = ["dialogue", "generation", "recommendation", "sentiment", "triples"]
VALUES = [
    ("dialogue", "word_recall", "You live in Oakfield!", ["You live in Hillford."], 75.0),
    ("dialogue", "word_recall", "你住在望海城", ["你叫本"], 100 / 3),
    ("generation", "coverage", "A Dog by the river.", ["dog\nriver\nnight"], 200 / 3),
    ("generation", "distinct_2", "a b a b", ["x"], 200 / 3),
    ("recommendation", "mrr", "b\na\nc", ["a"], 50.0),
    ("recommendation", "hit@1", "b\na\nc", ["a"], 0.0),
    ("recommendation", "hit@3", "b\na\nc\nd", ["c"], 100.0),
    ("recommendation", "hit@3", "b\na\nc\nd", ["d"], 0.0),
    ("sentiment", "closeness", "mixed", ["negative"], 50.0),
    ("sentiment", "closeness", "who knows", ["negative"], 0.0),
    ("triples", "triple_f1", "Anna | owns | cat\nAnna|lives in|Oakfield", ["anna | owns | cat\nBen | owns | dog\nx | y | z"], 40.0),
    ("triples", "well_formed", "a | b | c\nno triple", ["a | b | c"], 0.0),
]  # fmt: skip


def recipe_of(root: Path, name: str, *overrides: str) -> Any:
    return load_recipe(root / "examples" / name / "recipe.yaml", [f"data.train={root / 'examples' / name}", *overrides])


@pytest.mark.parametrize(("example", "metric", "prediction", "references", "value"), VALUES)
def test_metrics_on_literals(
    root: Path, example: str, metric: str, prediction: str, references: list[str], value: float
) -> None:
    task = tasks.create(recipe_of(root, example).task)
    made = metrics.create(metric, "en", own=task.metrics)
    assert metrics.score(made, [prediction], [references], n_resamples=10).value == pytest.approx(value)


def test_a_ratio_adds_up_over_rows_and_a_mean_averages(root: Path) -> None:
    task = tasks.create(recipe_of(root, "triples").task)
    rows = (["a | b | c", "x | y | z\nu | v | w"], [["a | b | c"], ["n | o | p"]])
    f1 = metrics.score(metrics.create("triple_f1", "en", own=task.metrics), *rows)
    assert f1.value == pytest.approx(100 * 2 / (2 + 3))  # not the mean of 100 and 0
    assert f1.interval[0] < f1.value < f1.interval[1]


@pytest.mark.parametrize("name", NAMES)
def test_from_recipe_to_report(root: Path, tmp_path: Path, name: str) -> None:
    short = ["train.max_steps=3", "eval.n_resamples=100", "eval.max_new_tokens=8", "train.eval_times=1"]
    recipe = recipe_of(root, name, f"output={tmp_path / 'run'}", *short)
    report = finetune(recipe, console=Console(quiet=True))
    assert report["task"] == name
    assert {score["metric"] for score in report["scores"]} == set(recipe.eval.metrics)
    assert {score["lang"] for score in report["scores"]} >= {"en", "zh"}
    run = RunDirectory(tmp_path / "run")
    again = run.recipe()
    assert Path(again.task).read_bytes() == (root / "examples" / name / "task.py").read_bytes()
    assert evaluation.write_report(run, again)["scores"] == report["scores"]
    contract = json.loads((run.adapter / "prompt_contract.json").read_text())
    assert (contract["task"], contract["task_sha256"]) == (name, tasks.source_sha256(recipe.task))


def test_what_the_steps_of_a_sentiment_mean_may_stand_in_the_prompts(root: Path) -> None:
    recipe = recipe_of(root, "sentiment", "prompt.label_descriptions={mixed: good and bad}")
    data = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    shown = "mixed: good and bad\nnegative\npositive\n\n"
    for lang, asked in (("en", "Review: "), ("zh", "评论：")):
        prompts = [prompt.text for prompt in data.prompts["test"] if prompt.example.lang == lang]
        assert prompts
        assert all(text.startswith(shown + asked) for text in prompts)


def test_dialogues_learn_every_answer(root: Path) -> None:
    recipe = recipe_of(root, "dialogue")
    data = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    messages = next(read_jsonl(root / "examples/dialogue/train.jsonl"))["messages"]
    item, tokenizer = data.train.tokens[0], data.encoder.tokenizer
    learned = [tokenizer.decode(ids).strip() for ids in item.responses]
    assert learned == [f"{message['content']}</s>" for message in messages[1::2]]
    assert len(item.ignored) == 2
    assert [i for i in item.labels if i != -100] == [i for ids in item.responses for i in ids]
    prompt = data.prompts["train"][0]
    assert data.encoder.prompt_ids([prompt])[0] == item.input_ids[: item.ignored[-1][1]]


def test_rankings_name_every_candidate_once(root: Path) -> None:
    recipe = recipe_of(root, "recommendation")
    data = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    rows = evaluation.predict(adapters.load_base(recipe.base), data, data.prompts["test"][:3], recipe.eval)
    for row, prompt in zip(rows, data.prompts["test"], strict=False):
        ranking = row["prediction"].split("\n")
        assert sorted(ranking) == sorted(prompt.example.choices)
        assert [row["choices"][item] for item in ranking] == sorted(row["choices"].values(), reverse=True)


def test_inspect_predict_and_push_know_the_task(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of a run, on the task file's copy in the run directory."""
    short = ["train.max_steps=2", "eval.n_resamples=100", "eval.max_new_tokens=4", "train.eval_times=1"]
    recipe = recipe_of(root, "triples", f"output={tmp_path / 'run'}", *short)
    inspect(recipe, Console(quiet=True))
    finetune(recipe, console=Console(quiet=True))
    make_rows(tmp_path / "rows.jsonl", [{"text": "Anna lives in Oakfield."}])
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> str:
        assert cli.main(arguments) == 0
        return capsys.readouterr().out

    command("predict", "run", "--input", "rows.jsonl", "--output", "out.jsonl")
    assert next(read_jsonl(tmp_path / "out.jsonl"))["references"] == []
    assert "triple_f1" in command("evaluate", "run")
    assert "triple_f1" in command("report", "run")
    card = command("push", "run", "user/name", "--dry-run", "--base-model", "user/base", "--base-revision", "0" * 40)
    assert "would be published" in card
    assert str(tmp_path) not in card


def test_a_changed_task_file_is_not_taken_for_the_trained_one(root: Path, tmp_path: Path) -> None:
    short = ["train.max_steps=1", "eval.n_resamples=100", "eval.max_new_tokens=2", "train.eval_times=1"]
    finetune(recipe_of(root, "triples", f"output={tmp_path / 'run'}", *short), console=Console(quiet=True))
    run = RunDirectory(tmp_path / "run")
    path = tmp_path / "run/task.py"
    path.write_text(path.read_text().replace("Triples:", "Facts:"))
    with pytest.raises(ModelError, match="task_sha256|the file of the task"):
        evaluation.load(run, run.recipe())


def test_samples_are_written_by_the_script(root: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
    script = tmp_path / "make_samples.py"
    script.write_bytes((root / "examples/make_samples.py").read_bytes())
    subprocess.run([sys.executable, str(script)], check=True)
    for path in sorted(tmp_path.rglob("*.jsonl")):
        assert path.read_bytes() == (root / "examples" / path.relative_to(tmp_path)).read_bytes()
