"""Whole runs with what a recipe may add, by the command: written down, trained, saved, read back, scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from faulty_runs import ROWS
from safetensors.torch import load_file
from tiny import make_base, make_rows, recipe_text

from llama_tasks import cli, evaluation
from llama_tasks.errors import RecipeError
from llama_tasks.recipe import Recipe, Suite, TrainConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    base, rows = make_base(folder / "base"), make_rows(folder / "rows.jsonl", ROWS[:40])
    settings = {"max_steps": 3, "save_steps": 1000, "label_smoothing_factor": 0.1, "neftune_noise_alpha": 5}
    (folder / "mine.yaml").write_text(recipe_text("summarize", base, rows, **settings), encoding="utf-8")
    return folder


def test_an_adapter_taught_by_a_larger_base(place: Path) -> None:
    """With another optimizer, whose settings are written as people write them."""
    run = place / "taught"
    command = ["finetune", str(place / "mine.yaml"), f"output={run}", "train.optim=lion_32bit", "train.learning_rate=1e-4",
               "train.optim_args.min_8bit_size=1e4", "distill.teacher=embedded", "distill.alpha=0.7",
               "prompt.max_length=200", "train.loraplus_lr_ratio=8", "train.fgm_epsilon=1e-2"]  # fmt: skip
    assert cli.main(command) == 0
    written = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    assert written["distill"]["teacher"] == "embedded" and written["train"]["optim_args"] == {"min_8bit_size": 10000.0}
    assert written["train"]["share_prefixes"] is False
    assert written["base"]["dtype"] == written["distill"]["dtype"] == "float32"
    assert json.loads((run / "report.json").read_text(encoding="utf-8"))["scores"]


def test_all_weights_but_the_frozen_ones(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = place / "frozen"
    command = ["finetune", str(place / "mine.yaml"), f"output={run}", "adapter=null", "train.learning_rate=1e-3",
               "train.freeze=[embed_tokens, layers.0]", "train.optim=adafactor"]  # fmt: skip
    assert cli.main(command) == 0
    before, after = load_file(place / "base/model.safetensors"), load_file(run / "model/model.safetensors")
    same = {name for name in after if before[name].equal(after[name])}
    assert same == {name for name in after if "embed_tokens" in name or "layers.0." in name}
    told = capsys.readouterr().out
    assert (
        "scoring the trained model" in told and "The trained model reaches" in told and "scoring the base" not in told
    )


def test_sharing_beside_noise_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["finetune", str(place / "mine.yaml"), f"output={place / 'no'}", "train.share_prefixes=true"]
    assert cli.main(command) == 2
    assert "give every example its own; leave one out" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.label_smoothing_factor=1.5", "must be at most 1"),
        ("distill={teacher: embedded, alpha: 2}", "distill.alpha is a share of the loss"),
        ("distill={alpha: 0.5}", "the key 'distill.teacher' is missing"),
        ("train.optim=sgd", "auto is a rule for Adam and its kin"),
    ],
)
def test_mistakes(place: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["finetune", str(place / "mine.yaml"), f"output={place / 'no'}", override]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_new_model_ends_as_its_tokenizer_does(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "{hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2, eos_token_id: 5}"
    command = [
        "finetune",
        str(place / "mine.yaml"),
        f"output={place / 'no'}",
        "adapter=null",
        "train.learning_rate=1e-3",
    ]
    assert cli.main([*command, f"base.config={config}"]) == 2
    assert "base.config.eos_token_id is 5, and the tokenizer's is 2" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("key", "suite", "train"),
    [("train.metric_for_best_model", {}, {"metric_for_best_model": "accuracy"}), ("eval.metrics", {"metrics": ["chrf"]}, {}),
     ("eval.general_text", {"general_text": "mine.jsonl"}, {})],
)  # fmt: skip
def test_what_perplexity_does_not_read_is_refused(key: str, suite: dict[str, Any], train: dict[str, Any]) -> None:
    recipe = Recipe(task="text", eval=Suite(scoring="perplexity", **suite), train=TrainConfig(**train))
    with pytest.raises(RecipeError, match=f"{key} is not read"):
        evaluation.check_suite(recipe)
