"""NaN for real: in a trained weight, and in one frozen row of the base that one example alone reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faulty_runs import ROWS
from loops import CONFIG, examples, training
from rich.console import Console
from tiny import make_base, make_rows, recipe_text

from llama_tasks import checkpoint, cli
from llama_tasks.supervise.progress import Meter
from llama_tasks.tokens import Tokens
from llama_tasks.train import SKIPS, NonFiniteLoss, Training

SKIP = replace(CONFIG, num_train_epochs=3, on_nonfinite="skip")
POISON = 63  # a token that no other example has


def with_poison() -> Training:
    """A training of which one example reads a broken row of the embedding."""
    rows = [Tokens(t.id, [i if i != POISON else 3 for i in t.input_ids], t.prompt_length) for t in examples()]
    rows[7] = Tokens("train:7", [POISON, *rows[7].input_ids[1:]], 2)
    run = training(SKIP, rows)
    with torch.no_grad():
        run.model.get_input_embeddings().weight[POISON] = float("nan")
    return run


def test_skipping_leaves_one_batch_out() -> None:
    run = with_poison()
    reports = list(run.run())
    skipped = [report for report in reports if report.skipped]
    assert len(skipped) == 3  # once an epoch
    assert all("train:7" in report.skipped for report in skipped)
    assert len(reports) == run.total_steps
    assert all(bool(weight.isfinite().all()) for weight in checkpoint.trained_weights(run).values())


def test_the_shown_loss_goes_on_after_a_step_that_was_left_out() -> None:
    run = with_poison()
    with Meter(Console(quiet=True), run.total_steps) as meter:
        for report in run.run():
            meter.update(report)
            assert math.isfinite(meter.loss) or (report.skipped and report.step == 1)
    assert math.isfinite(meter.loss)


def test_skipping_does_not_hide_broken_weights() -> None:
    """A trained weight that is NaN, and a base that makes every batch NaN."""
    run = training(SKIP)
    with torch.no_grad():
        next(p for p in run.model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"Step 1: the loss is nan"):
        next(run.run())
    run = training(SKIP)
    with torch.no_grad():
        run.model.get_input_embeddings().weight.fill_(float("inf"))
    with pytest.raises(NonFiniteLoss, match=rf"Step {SKIPS}: the loss is nan"):
        list(run.run())


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `finetune` with a weight that becomes NaN after the fourth step."""
    monkeypatch.chdir(tmp_path)
    base, rows = make_base(tmp_path / "base"), make_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "mine.yaml").write_text(recipe_text("summarize", base, rows, max_steps=9, save_steps=2))
    step = Training._optimizer_step

    def poisoning(self: Training, *planned: object) -> object:
        if self.step == 5:
            with torch.no_grad():
                next(p for p in self.model.parameters() if p.requires_grad).view(-1)[0] = float("nan")
        return step(self, *planned)

    monkeypatch.setattr(Training, "_optimizer_step", poisoning)
    return lambda *more: cli.main(["finetune", "mine.yaml", *more])


def test_a_run_stops_with_rows_and_last_good_checkpoint(
    poisoned: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert poisoned() == 2
    error = capsys.readouterr().err
    assert "Step 6: the loss is nan" in error
    assert "train:" in error
    assert "Last good checkpoint: runs/mine/checkpoints/step-4" in error
    checkpoint.verify(tmp_path / "runs/mine/checkpoints/step-4")
