"""Two processes (gloo, CPU), each with a whole copy of the model (DDP) or with half of every weight (FSDP2), compute what one
computes with twice the accumulation; and a run goes on where it stopped, on as many processes as there are then.

Tolerances: the loss of every step to 1e-6 of it, trained weights to 1e-4 (Adam divides by the size of gradients, and so
enlarges the last bit of those near zero).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from faulty_runs import ROWS, Zygote, make_workplace, refused, result, wait_for
from safetensors.torch import load_file
from tiny import ROOT, make_base, make_rows, recipe_text

NUMBERS = range(1, 35)
HEADS: dict[str, list[dict[str, Any]]] = {
    "summarize": ROWS[:34],
    "translate": [{"source": f"{n} apples", "target": f"{n} 个苹果", "source_lang": "en", "target_lang": "zh"} for n in NUMBERS],
    "qa": [{"context": f"Anna has {n} pears.", "question": "How many?", "answers": [str(n)]} for n in NUMBERS],
    "classify": [{"text": f"{n} is a number", "label": ["even", "odd"][n % 2]} for n in NUMBERS],
}  # fmt: skip
WHOLE = ["train.learning_rate=0.001"]  # of a head whose recipe has no adapter


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe for every head; `full` trains all weights."""
    folder = tmp_path_factory.mktemp("heads")
    base = make_base(folder / "base")
    for task, rows in HEADS.items():
        data = make_rows(folder / f"{task}.jsonl", rows[:30])
        held = {"validation": make_rows(folder / f"{task}-val.jsonl", rows[30:32]),
                "test": make_rows(folder / f"{task}-test.jsonl", rows[32:])}  # fmt: skip
        # Seven batches: the last step has one for two processes, and one of them runs without a target.
        settings = {"tokens_per_batch": 200, "max_steps": 4, "save_steps": 2, "preflight": "false"}
        text = recipe_text(task, base, data, **settings)
        adapter = "adapter:\n  r: 4\n  trainable_token_indices: null\n"
        splits = "".join(f"  {name}: {path}\n" for name, path in held.items())
        constants = "" if task == "translate" else "  constants: {lang: en}\n"
        text = text.replace("prompt:\n", f"{splits}{constants}prompt:\n  allow: [leak]\n")
        (folder / f"{task}.yaml").write_text(text + adapter, encoding="utf-8")
        if task == "summarize":
            (folder / "full.yaml").write_text(text + "adapter: null\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def alone(zygote: Zygote, heads: Path) -> dict[str, Path]:
    """Every head trained by one process."""
    asked = {head: zygote.start("finetune", f"{head}.yaml", f"output=one/{head}", "train.gradient_accumulation_steps=2",
                                *(WHOLE if head == "full" else []), cwd=heads) for head in (*HEADS, "full")}  # fmt: skip
    for run in asked.values():
        assert run.wait() == 0, run.error
    return {head: heads / "one" / head for head in asked}


def steps(run: Path) -> list[tuple[int, float]]:
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in log if line["event"] == "step"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    whole = run / "model/model.safetensors"
    return load_file(whole if whole.exists() else run / "adapter/adapter_model.safetensors")


def check_equal(one: Path, other: Path) -> None:
    assert [step for step, _ in steps(one)] == [step for step, _ in steps(other)]
    for (_, expected), (_, found) in zip(steps(one), steps(other), strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
    expected_weights, found_weights = weights(one), weights(other)
    assert expected_weights.keys() == found_weights.keys()
    for name, weight in expected_weights.items():
        torch.testing.assert_close(found_weights[name], weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", [*HEADS, "full"])
@pytest.mark.parametrize(("file", "says"), [("ddp.yaml", "whole model on each"), ("fsdp2.yaml", "weights in pieces")])
def test_two_processes_equal_one(
    zygote: Zygote, heads: Path, alone: dict[str, Path], head: str, file: str, says: str
) -> None:
    output = f"{file}-{head}"
    options = WHOLE if head == "full" else []
    two = ranks.start(zygote, file, "finetune", f"{head}.yaml", f"output={output}", *options, cwd=heads)
    two.succeed()
    assert "processes 2" in two.runs[0].output and says in " ".join(two.runs[0].output.split())
    assert json.loads((heads / output / "environment.json").read_text())["processes"] == 2
    check_equal(alone[head], heads / output)


def test_as_torchrun_starts_them_without_a_word_of_the_cpu(zygote: Zygote, heads: Path, alone: dict[str, Path]) -> None:
    """accelerate by itself would take each for the only one; training, evaluation and suites share their work."""
    run = heads / "torchrun"
    ranks.start(zygote, None, "finetune", "summarize.yaml", f"output={run}", cwd=heads).succeed()
    check_equal(alone["summarize"], run)
    rows = (run / "eval/adapter/predictions.jsonl").read_bytes()
    ranks.start(zygote, None, "evaluate", str(run), "eval.no_repeat_ngram_size=3", cwd=heads).succeed()
    assert len((run / "eval/adapter/predictions.jsonl").read_text().splitlines()) == len(rows.splitlines())
    data = "{test: summarize-test.jsonl, constants: {lang: en}}"
    (heads / "suite.yaml").write_text(
        f"sets:\n  mine: {{task: summarize, data: {data}, eval: {{metrics: [rougeL]}}}}\n"
    )
    suite = ("evaluate", "--suite", "suite.yaml", "--model", str(heads / "base"), "--adapter", str(run / "adapter"))
    ranks.start(zygote, None, *suite, "--output", "two", cwd=heads).succeed()
    assert zygote.start(*suite, "--output", "one", cwd=heads).wait() == 0
    assert (heads / "two/mine/predictions.jsonl").read_bytes() == (heads / "one/mine/predictions.jsonl").read_bytes()


def test_a_port_that_another_job_uses(zygote: Zygote, heads: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(taken.getsockname()[1])}  # fmt: skip
        run = zygote.start("finetune", "summarize.yaml", "output=taken", cwd=heads, environment=told)
        refused(run, "did not find each other at 127.0.0.1", "another job")


def test_accelerate_starts_what_the_file_says(heads: Path, alone: dict[str, Path]) -> None:
    """The launcher itself, on the CPU; FSDP2 as ZeRO-2, a row of the embedding trained beside the adapter."""
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(ranks.LAUNCH / "fsdp2_zero2.yaml")]
    command = [sys.executable, *launch, str(ROOT / "recipes/finetune.py"), "summarize.yaml", "output=launched",
               "adapter.trainable_token_indices=[2]", "train.preflight=true"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=heads, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-9000:]
    assert "processes 2, the model's weights in pieces" in done.stdout
    assert steps(heads / "launched")[0][1] == pytest.approx(steps(alone["summarize"])[0][1], rel=1e-6)
    assert any("token_adapter" in name for name in weights(heads / "launched"))


def test_a_lost_process_ends_the_run_and_it_goes_on(zygote: Zygote, tmp_path: Path) -> None:
    """With dropout: the random states of both processes are in the checkpoint, so that the bytes are the same in the end."""
    place = make_workplace(tmp_path / "place", max_steps=6)
    arguments = ("finetune", "mine.yaml", "adapter.lora_dropout=0.1")
    undisturbed = ranks.start(zygote, "ddp.yaml", *arguments, "output=whole", cwd=place)
    undisturbed.succeed()
    lost = ranks.start(zygote, "ddp.yaml", *arguments, "output=lost", cwd=place, slow_steps=0.3)
    wait_for(place / "lost/checkpoints/step-2/state.json")
    lost.runs[1].send(signal.SIGKILL)
    assert lost.runs[1].wait() == -signal.SIGKILL
    message = refused(lost.runs[0], "Another process of this run is gone", "Last good checkpoint", "--resume")
    assert "step-" in message.rpartition("Last good checkpoint")[2]
    random = load_file(next((place / "lost/checkpoints").glob("step-*")) / "random.safetensors")
    assert not torch.equal(random["0.cpu"], random["1.cpu"])
    ranks.start(zygote, "ddp.yaml", *arguments, "output=lost", "--resume", cwd=place).succeed()
    assert result(place / "lost") == result(place / "whole")


@pytest.mark.parametrize(("before", "after"), [("fsdp2.yaml", None), (None, "fsdp2.yaml"), ("fsdp2.yaml", "ddp.yaml")])
def test_a_stopped_run_goes_on_at_another_number_of_processes(
    zygote: Zygote, heads: Path, alone: dict[str, Path], before: str | None, after: str | None
) -> None:
    """The steps stay those it began with, whatever the number is afterwards: the recipe says nothing new."""
    output = f"{before}-{after}"
    arguments = (
        "finetune",
        "summarize.yaml",
        f"output={output}",
        *([] if before else ["train.gradient_accumulation_steps=2"]),
    )

    def start(file: str | None, *more: str, **fault: Any) -> ranks.Ranks:
        if file is None:
            return ranks.Ranks([zygote.start(*arguments, *more, cwd=heads, **fault)])
        return ranks.start(zygote, file, *arguments, *more, cwd=heads, **fault)

    stopped = start(before, slow_steps=0.3)
    wait_for(heads / output / "log.jsonl")
    stopped.runs[-1].send(signal.SIGTERM)  # one process alone is told; all of them save and leave
    assert set(stopped.wait()) == {128 + signal.SIGTERM}
    start(after, "--resume").succeed()
    check_equal(alone["summarize"], heads / output)


def test_a_signal_to_one_in_an_evaluation_stops_both_after_it(
    zygote: Zygote, heads: Path, alone: dict[str, Path]
) -> None:
    """Each waits for the other's pieces of the weights in every pass, so none leaves in the middle of one."""
    arguments = ("finetune", "summarize.yaml", "output=evaluated")
    signalled = {"signal_in": ("evaluation", signal.SIGTERM, 4)}
    both = ranks.start(zygote, "fsdp2.yaml", *arguments, cwd=heads, **signalled)
    assert both.wait() == [128 + signal.SIGTERM] * 2, [run.error[-2000:] for run in both.runs]
    ranks.start(zygote, "fsdp2.yaml", *arguments, "--resume", cwd=heads).succeed()
    check_equal(alone["summarize"], heads / "evaluated")
