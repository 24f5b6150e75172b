"""DeepSpeed's ZeRO-2 and ZeRO-3 on two processes (gloo, CPU): what one process computes, exact resume with any other launch, and
what is refused. Without DeepSpeed, or without the compiler that its extension needs once, the runs are skipped."""

from __future__ import annotations

import json
import math
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from faulty_runs import ROWS, Zygote, refused, wait_for
from safetensors.torch import load_file
from tiny import make_base, make_rows, recipe_text

from llama_tasks.errors import RecipeError
from llama_tasks.parallel import zero
from llama_tasks.recipe import load_recipe

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None or shutil.which("ninja") is None,
    reason="DeepSpeed is not installed (pip install 'llama-tasks[deepspeed]'), or ninja, with which it compiles at first use",
)
ZERO2, ZERO3 = "deepspeed_zero2.yaml", "deepspeed_zero3.yaml"
SAYS = {ZERO2: "gradients and optimizer in pieces on all of them (DeepSpeed, ZeRO-2)",
        ZERO3: "the model's weights in pieces on all of them (DeepSpeed, ZeRO-3)"}  # fmt: skip
ONE = "train.gradient_accumulation_steps=2"
#: All that touches the embedding: a row of it is trained, noise and a step against the gradient are added behind it.
EMBEDDING = ["adapter.trainable_token_indices=[2]", "train.fgm_epsilon=0.1", "train.neftune_noise_alpha=5"]
WHOLE = ["train.learning_rate=0.001"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe of LoRA and one that trains all weights; seven batches, so that one of two processes has no target
    in the last step."""
    folder = tmp_path_factory.mktemp("deepspeed")
    base = make_base(folder / "base")
    settings = {"tokens_per_batch": 200, "max_steps": 4, "save_steps": 2, "preflight": "true", "max_grad_norm": 0.2}
    text = recipe_text("summarize", base, make_rows(folder / "train.jsonl", ROWS[:30]), **settings)
    held = {
        "validation": make_rows(folder / "validation.jsonl", ROWS[30:32]),
        "test": make_rows(folder / "test.jsonl", ROWS[32:34]),
    }
    splits = "".join(f"  {name}: {path}\n" for name, path in held.items())
    text = text.replace("prompt:\n", f"{splits}prompt:\n")
    adapter = "adapter:\n  r: 4\n  trainable_token_indices: null\n"
    (folder / "lora.yaml").write_text(text + adapter, encoding="utf-8")
    (folder / "full.yaml").write_text(text + "adapter: null\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def alone(zygote: Zygote, place: Path) -> dict[str, Path]:
    """What one process makes of each."""
    asked = {"lora": [], "embedding": EMBEDDING, "full": WHOLE}
    runs = {name: zygote.start("finetune", f"{'full' if name == 'full' else 'lora'}.yaml", f"output=one/{name}", ONE, *options,
                               cwd=place) for name, options in asked.items()}  # fmt: skip
    for run in runs.values():
        assert run.wait() == 0, run.error
    return {name: place / "one" / name for name in asked}


def weights(run: Path) -> dict[str, torch.Tensor]:
    whole = run / "model/model.safetensors"
    return load_file(whole if whole.exists() else run / "adapter/adapter_model.safetensors")


def steps(run: Path) -> list[tuple[float, float]]:
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in log if line["event"] == "step"]


def check_equal(one: Path, other: Path) -> None:
    """Losses to 1e-6, gradient norms to 1e-4 (DeepSpeed adds their squares in float64, torch in float32), weights to 1e-5."""
    for (loss, norm), (found_loss, found_norm) in zip(steps(one), steps(other), strict=True):
        assert found_loss == pytest.approx(loss, rel=1e-6)
        assert found_norm == pytest.approx(norm, rel=1e-4, abs=1e-4)
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-5)


@needs_deepspeed
@pytest.mark.parametrize(("file", "name"), [(ZERO2, "lora"), (ZERO3, "embedding"), (ZERO3, "full")])
def test_two_processes_equal_one(zygote: Zygote, place: Path, alone: dict[str, Path], file: str, name: str) -> None:
    options = {"embedding": EMBEDDING, "full": WHOLE}.get(name, [])
    recipe = "full.yaml" if name == "full" else "lora.yaml"
    two = ranks.start(zygote, file, "finetune", recipe, f"output={file}-{name}", *options, cwd=place)
    two.succeed()
    assert SAYS[file] in " ".join(two.runs[0].output.split())
    check_equal(alone[name], place / f"{file}-{name}")
    if name != "full":
        read = [(run / "adapter/adapter_config.json").read_bytes() for run in (alone[name], place / f"{file}-{name}")]
        assert read[0] == read[1]


@needs_deepspeed
@pytest.mark.parametrize(("before", "after"), [(ZERO3, None), ("ddp.yaml", ZERO2)])
def test_a_stopped_run_goes_on_under_another_launch(
    zygote: Zygote, place: Path, alone: dict[str, Path], before: str, after: str | None
) -> None:
    """The checkpoint holds whole weights and moments, whoever wrote it."""
    arguments = ("finetune", "lora.yaml", f"output={before}-{after}")
    stopped = ranks.start(zygote, before, *arguments, cwd=place, slow_steps=0.3)
    wait_for(place / f"{before}-{after}/log.jsonl")
    stopped.runs[-1].send(signal.SIGTERM)
    assert set(stopped.wait()) == {128 + signal.SIGTERM}
    if after is None:
        assert zygote.run(*arguments, "--resume", cwd=place).wait() == 0
    else:
        ranks.start(zygote, after, *arguments, "--resume", cwd=place).succeed()
    check_equal(alone["lora"], place / f"{before}-{after}")


@needs_deepspeed
def test_what_is_not_finite_changes_nothing(zygote: Zygote, place: Path) -> None:
    """A learning rate that makes weights infinite; with `skip` the run says so after ten steps that changed nothing."""
    arguments = (
        "finetune",
        "lora.yaml",
        "train.learning_rate=1e38",
        "train.lr_scheduler_type=constant",
        "train.warmup_steps=0",
    )
    two = ranks.start(zygote, ZERO2, *arguments, "output=infinite", "train.preflight=false", cwd=place)
    for run in two.runs:
        refused(run, "Step 2: the loss is ", "Rows of this step: ", "Last good checkpoint: none")


REFUSED: list[tuple[dict[str, Any], list[str], str]] = [
    ({"stage": 1}, [], "zero_stage: 1 is not supported; set 2 or 3"),
    ({"stage": 2, "offload_optimizer": {"device": "cpu"}}, [], "offloading is not supported"),
    ({"stage": 3}, ["base.quantization=nf4"], "ZeRO-3 cannot cut a quantised base; launch with deepspeed_zero2.yaml"),
    ({"stage": 2}, ["adapter.peft_type=ADALORA"], "AdaLoRA reads gradients"),
    ({"stage": 2}, ["train.optim=adafactor"], "train.optim: adafactor does not step every number by itself"),
    (
        {"stage": 3},
        ["adapter=null", "base.dtype=bfloat16"],
        "trained in float32 with DeepSpeed; set base.dtype=float32",
    ),
]


@pytest.mark.parametrize(("config", "overrides", "says"), REFUSED)
def test_what_the_two_cannot_do_together(place: Path, config: dict[str, Any], overrides: list[str], says: str) -> None:
    asked = {"zero_optimization": {"offload_param": {"device": "none"}, **config}}
    with pytest.raises(RecipeError, match=says.replace(".", r"\.")):
        zero.check(load_recipe(str(place / "lora.yaml"), overrides), asked)
    zero.check(load_recipe(str(place / "lora.yaml")), {"zero_optimization": {"stage": 3}})


def test_optimizers_that_step_every_number_by_itself() -> None:
    """Each of the list, on a matrix and on the same numbers in one row."""
    from llama_tasks.recipe import TrainConfig
    from llama_tasks.train.optimizers import make_optimizer

    for name in sorted(zero.BY_NUMBER):
        moved = []
        for shape in ((3, 4), (12,)):
            model = torch.nn.Module()
            model.weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(shape))
            optimizer = make_optimizer(model, TrainConfig(optim=name), 0.01, 0)
            for factor in (1.0, -0.5, 2.0):
                model.weight.grad = (model.weight.detach() * factor).cos()
                optimizer.step()
            moved.append(model.weight.detach().flatten())
        assert torch.equal(*moved), name
        assert math.isfinite(float(moved[0].sum()))


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_without_deepspeed_one_sentence(zygote: Zygote, place: Path) -> None:
    run = zygote.run(
        "finetune", "lora.yaml", "output=absent", cwd=place, environment={"ACCELERATE_USE_DEEPSPEED": "true"}
    )
    refused(run, "DeepSpeed, which is not installed: pip install 'llama-tasks[deepspeed]'", "fsdp2.yaml")
