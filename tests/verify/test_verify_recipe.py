"""The proof on a recipe: it holds on the embedded ones, and it fails where batching matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from llama_tasks import cli
from llama_tasks.errors import RecipeError
from llama_tasks.packing import Batch
from llama_tasks.recipe import load_recipe
from llama_tasks.train import Training
from llama_tasks.verify.recipe import verify_recipe


def test_it_holds_where_examples_share_passages(root: Path) -> None:
    """Of the embedded questions; every trained weight has a gradient that is compared."""
    recipe = load_recipe(root / "recipes/qa.yaml", ["adapter.lora_dropout=0.1"])
    certificate = verify_recipe(recipe, 12)
    assert certificate.ok
    ways = {line.name.split(", ")[1] for line in certificate.lines}
    assert ways >= {"all in one batch", "two batches accumulated", "shared prefixes", "gradient checkpointing"}
    assert all(line.difference < 1e-5 for line in certificate.lines if line.name.startswith("loss"))


def test_it_holds_with_class_weights_noise_and_smoothing(root: Path) -> None:
    changes = ["train.class_weights=balanced", "train.neftune_noise_alpha=5", "train.label_smoothing_factor=0.1"]
    certificate = verify_recipe(load_recipe(root / "recipes/classify.yaml", changes), 8)
    assert certificate.ok
    assert not any("shared prefixes" in line.name for line in certificate.lines)


def test_a_loss_that_depends_on_batches_is_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mean of each batch's mean, as many trainers have it."""
    real = Training._pass

    def mean_of_means(self: Training, model: Any, batch: Batch, weight: float, is_last: bool) -> Any:
        return real(self, model, batch, batch.target_weight, is_last)

    monkeypatch.setattr(Training, "_pass", mean_of_means)
    output = tmp_path / "certificate.json"
    command = ["verify", str(root / "recipes/summarize.yaml"), "--examples", "4", "--output", str(output)]
    assert cli.main(command) == 1
    assert "batching CHANGES loss or gradients" in " ".join(capsys.readouterr().out.split())
    wrong = {line["name"] for line in json.loads(output.read_text())["lines"] if not line["ok"]}
    assert {"loss, all in one batch", "gradients, two batches accumulated"} <= wrong


def test_one_example_proves_nothing(root: Path) -> None:
    with pytest.raises(RecipeError, match="two at least"):
        verify_recipe(load_recipe(root / "recipes/qa.yaml"), 1)


def test_overrides_belong_to_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "embedded", "train.seed=1"]) == 2
    assert "changes a recipe, and embedded is none" in " ".join(capsys.readouterr().err.split())


def test_several_processes_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 2))
    with pytest.raises(RecipeError, match="run it without a launcher"):
        verify_recipe(load_recipe(root / "recipes/qa.yaml"), 4)
