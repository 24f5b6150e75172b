"""The loop: the same mathematics however tokens are batched; exact resume; NaN stops it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from loops import BASE, CONFIG, ONE_STEP, assert_resumes_exactly, examples, families, training

from llama_tasks import adapters, checkpoint, files
from llama_tasks.errors import RunError
from llama_tasks.recipe import TrainConfig
from llama_tasks.train import NonFiniteLoss, StepReport, Training


def first_step(config: TrainConfig) -> tuple[StepReport, dict[str, torch.Tensor]]:
    """One step over all examples, and the gradient-driven weights after it."""
    run = training(config)
    return next(run.run()), checkpoint.trained_weights(run)


def test_batching_and_accumulation_do_not_change_the_mathematics() -> None:
    """All examples in one step: as one batch, as several accumulated ones, and as one document a batch."""
    ways = [(10_000, 1), (60, 100), (1, 100)]
    results = [first_step(replace(ONE_STEP, tokens_per_batch=size, gradient_accumulation_steps=n)) for size, n in ways]
    (one, weights), *others = results
    for report, changed in others:
        assert report.targets == one.targets
        assert report.loss == pytest.approx(one.loss, abs=1e-6)
        assert report.grad_norm == pytest.approx(one.grad_norm, abs=1e-5)
        for name, weight in weights.items():
            # Adam's first step is lr * sign(gradient): entries whose gradient is nearly zero may flip, others agree.
            close = (weight - changed[name]).abs() < 1e-4
            assert close.float().mean() > 0.99


def test_shared_prefixes_do_not_change_the_mathematics() -> None:
    """One step over four passages with five questions each, every passage computed once or five times."""
    config = replace(ONE_STEP, tokens_per_batch=10_000)
    found = []
    for share in (False, True, "auto"):
        run = training(replace(config, share_prefixes=share), families())
        found.append((next(run.run()), checkpoint.trained_weights(run)))
    (plain, weights), (shared, changed), (automatic, _) = found
    assert automatic.tokens == shared.tokens
    assert shared.tokens < 0.4 * plain.tokens
    assert shared.targets == plain.targets == 40
    assert shared.loss == pytest.approx(plain.loss, abs=1e-6)
    assert shared.grad_norm == pytest.approx(plain.grad_norm, abs=1e-5)
    for name, weight in weights.items():
        assert ((weight - changed[name]).abs() < 1e-4).float().mean() > 0.99


def test_a_norm_of_zero_clips_nothing() -> None:
    """As transformers and DeepSpeed read it; the norm is told all the same."""
    free, wide = (training(replace(ONE_STEP, optim="sgd", max_grad_norm=most)) for most in (0.0, 1e9))
    assert next(free.run()).grad_norm == next(wide.run()).grad_norm > 0
    found, expected = checkpoint.trained_weights(free), checkpoint.trained_weights(wide)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_loss_falls_and_reports_are_complete() -> None:
    reports = list(training(replace(CONFIG, num_train_epochs=12)).run())
    assert [report.step for report in reports] == list(range(1, reports[0].total_steps + 1))
    assert reports[-1].loss < reports[0].loss - 0.1
    assert reports[-1].learning_rate < reports[len(reports) // 2].learning_rate < CONFIG.learning_rate
    assert all(report.tokens > 0 and report.targets > 0 for report in reports)


@pytest.mark.parametrize("epochs", [0.5, 1.0, 1.5])
def test_parts_of_epochs(epochs: float) -> None:
    whole = training(replace(CONFIG, num_train_epochs=1)).total_steps
    assert training(replace(CONFIG, num_train_epochs=epochs)).total_steps == pytest.approx(epochs * whole, abs=1)


@pytest.mark.parametrize("stop_at", [1, 5, 9])
def test_resume_is_exact(tmp_path: Path, stop_at: int) -> None:
    """Dropout included."""
    assert_resumes_exactly(tmp_path, stop_at, dropout=0.1)


def test_nan_stops_with_step_and_rows() -> None:
    run = training()
    with torch.no_grad():
        next(p for p in run.model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"Step 1: the loss is nan.*train:"):
        next(run.run())


# --- checkpoints ---------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_never_taken(tmp_path: Path) -> None:
    run = training()
    next(run.run())
    path = checkpoint.save(tmp_path, run, {})
    for name in ("weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"):
        whole = (path / name).read_bytes()
        for broken in (whole[:-1], whole[: len(whole) // 2], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
            (path / name).write_bytes(broken)
            with pytest.raises(RunError, match=f"{name} is damaged"):
                checkpoint.restore(path, training())
        (path / name).write_bytes(whole)
    (path / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"no readable manifest\.json"):
        checkpoint.restore(path, training())


def test_newest_goes_by_step_and_a_torn_save_leaves_nothing(tmp_path: Path) -> None:
    run = training()
    for report in run.run():
        checkpoint.save(tmp_path, run, {})
        if report.step == 10:
            break
    assert (checkpoint.newest(tmp_path) or tmp_path).name == "step-10"
    checkpoint.keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-9"]
    with pytest.raises(RuntimeError, match="pulled the plug"), files.staged(tmp_path / "step-11") as staging:
        (staging / "weights.safetensors").write_bytes(b"half")
        raise RuntimeError("pulled the plug")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-9"]


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path: Path) -> None:
    run = training()
    next(run.run())
    path = checkpoint.save(tmp_path, run, {})
    other = adapters.attach(adapters.load_base(BASE), {"r": 8}, BASE)
    with pytest.raises(RunError, match="does not fit"):
        checkpoint.restore(path, Training(other, examples(), CONFIG, Accelerator(), 1e-2))
