"""What a run refuses before it does harm: too little memory, changed recipes, damaged weights; each in one sentence."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from faulty_runs import Zygote, refused, result
from tiny import make_rows


def test_too_little_memory_is_met_before_step_1(zygote: Zygote, place: Path) -> None:
    """`ulimit -v`: the longest batch does not fit; the proposed setting does."""
    rows = [
        {"document": f"{n} " + "pears and apples " * 40, "summary": f"{n} pears.", "lang": "en"} for n in range(900)
    ]
    make_rows(place / "many.jsonl", rows)
    make_rows(place / "few.jsonl", rows[:8])
    limits = {"memory": 400 << 20}
    big = [
        "finetune",
        "mine.yaml",
        "data.train=many.jsonl",
        "data.validation=few.jsonl",
        "data.test=few.jsonl",
        "train.tokens_per_batch=65536",
        "train.max_steps=2",
        "prompt.allow=[leak]",
    ]
    run = zygote.run(*big, "output=memory", cwd=place, **limits)
    error = refused(run, "does not fit the memory", "Tried, and it fits: train.tokens_per_batch=")
    assert not (place / "memory").exists()
    proposed = error.rstrip(".\n").split("it fits: ")[1].split()
    # `ulimit -v` counts the whole stack of every thread, some of which begin only when the adapter is read back, and freed
    # blocks that glibc keeps: without room the same setting was refused in some runs and not in others (docs/faults.md).
    room = {"memory": limits["memory"] + (256 << 20)}
    done = zygote.run(*big, *proposed, "output=memory", cwd=place, **room)
    assert done.wait() == 0, done.error


def test_the_preflight_changes_nothing(zygote: Zygote, place: Path, whole: tuple[bytes, bytes]) -> None:
    without = zygote.run("finetune", "mine.yaml", "output=unchecked", "train.preflight=false", cwd=place)
    assert without.wait() == 0, without.error
    assert result(place / "unchecked") == whole


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("train.seed", "train.seed=7"),
        ("train.tokens_per_batch", "train.tokens_per_batch=128"),
        ("adapter.r", "adapter.r=2"),
        ("train.metric_for_best_model", "eval.metrics=[rouge1]"),
        ("eval.max_new_tokens", "eval.max_new_tokens=5"),
        ("prompt.max_length", "prompt.max_length=200"),
    ],
)
def test_a_change_that_matters_is_named_with_both_values(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes], key: str, change: str
) -> None:
    run = zygote.run("finetune", "mine.yaml", "output=whole", "--resume", "train.preflight=false", change, cwd=place)
    refused(run, "was made with another recipe", f"{key} was ", " and is now ")


def test_a_change_that_does_not_matter_resumes(zygote: Zygote, place: Path, whole: tuple[bytes, bytes]) -> None:
    free = ["train.save_steps=4", "train.logging_steps=2", "eval.n_resamples=100", "train.on_nonfinite=skip",
            "train.gradient_checkpointing=true", "eval.metrics=[rougeL, rouge1]", "data.max_test_samples=3"]  # fmt: skip
    first = zygote.run("finetune", "mine.yaml", "output=freely", cwd=place, operation=60, how="kill")
    assert first.wait() == -signal.SIGKILL
    run = zygote.run("finetune", "mine.yaml", "output=freely", "--resume", *free, cwd=place)
    assert run.wait() == 0, run.error
    weights, predictions = result(place / "freely")
    assert weights == whole[0]
    report = json.loads((place / "freely/report.json").read_text(encoding="utf-8"))
    assert report["provenance"]["data"]["test"]["rows"] == len(predictions.splitlines()) == 3


def test_other_training_rows_are_refused(zygote: Zygote, place: Path, whole: tuple[bytes, bytes]) -> None:
    rows = place / "rows.jsonl"
    before = rows.read_text(encoding="utf-8")
    rows.write_text(before.replace("Oakfield", "Ashfield", 1), encoding="utf-8")
    run = zygote.run("finetune", "mine.yaml", "output=whole", "--resume", "train.preflight=false", cwd=place)
    rows.write_text(before, encoding="utf-8")
    refused(run, "rows have changed since whole began")


CUTS = {"0 bytes": 0, "8 bytes": 8, "half": 0.5, "-1 byte": -1, "one bit": None}


def damaged(path: Path, cut: float | None) -> bytes:
    """Cut a file short, or flip one bit of it; returns what it held."""
    whole = path.read_bytes()
    if cut is None:
        path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:])
    else:
        path.write_bytes(whole[: int(len(whole) * cut)] if 0 < cut < 1 else whole[:cut])
    return whole


@pytest.mark.parametrize("cut", CUTS)
def test_damaged_weights_are_named(zygote: Zygote, place: Path, whole: tuple[bytes, bytes], cut: str) -> None:
    """The trained adapter and the base, at `evaluate` and at `--resume`."""
    adapter, base = place / "whole/adapter/adapter_model.safetensors", place / "base/model.safetensors"
    for path, argv in ((adapter, ["evaluate", "whole"]), (base, ["evaluate", "whole"]),
                       (base, ["finetune", "mine.yaml", "output=whole", "--resume"])):  # fmt: skip
        before = damaged(path, CUTS[cut])
        run = zygote.run(*argv, cwd=place)
        path.write_bytes(before)
        refused(run, str(path.relative_to(place)), "damaged", "again")


def test_a_base_cut_short_is_named_before_a_run_begins(zygote: Zygote, place: Path) -> None:
    base = place / "base/model.safetensors"
    before = damaged(base, -1)
    run = zygote.run("finetune", "mine.yaml", "output=new", cwd=place)
    base.write_bytes(before)
    refused(run, "base/model.safetensors is cut short", "copy the base again")
    assert not (place / "new").exists()
