"""Optimizers and schedules by transformers' names: what is asked for is what steps, and it resumes to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import loops
import pytest
import torch
from faulty_runs import make_workplace
from loops import CONFIG, LORA, ONE_STEP, assert_resumes_exactly, training

from llama_tasks import checkpoint, cli
from llama_tasks.errors import RecipeError
from llama_tasks.packing import collate
from llama_tasks.supervise import preflight
from llama_tasks.supervise.preflight import _rehearse, _undisturbed
from llama_tasks.tokens import Tokens

#: name: (class, settings, what the settings must have become)
OPTIMIZERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "adamw_torch": ("AdamW", {"amsgrad": True}, {"amsgrad": True, "betas": (0.9, 0.999), "fused": None}),
    "adamw_torch_fused": ("AdamW", {"eps": 1e-6}, {"eps": 1e-6, "fused": True}),
    "adamw_bnb_8bit": ("AdamW", {"min_8bit_size": 64}, {"eps": 1e-8}),
    "paged_adamw_8bit": ("AdamW", {"min_8bit_size": 64}, {"eps": 1e-8}),
    "lion_32bit": ("Lion", {"betas": [0.9, 0.99]}, {"betas": [0.9, 0.99]}),
    "ademamix": ("AdEMAMix", {"alpha": 3.0}, {"alpha": 3.0}),
    "adafactor": ("Adafactor", {"clip_threshold": 0.5}, {"clip_threshold": 0.5, "relative_step": False}),
    "sgd": ("SGD", {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
    "adagrad": ("Adagrad", {"lr_decay": 0.1}, {"lr_decay": 0.1}),
    "rmsprop": ("RMSprop", {"centered": True}, {"centered": True}),
    "torch.optim.NAdam": ("NAdam", {"momentum_decay": 0.01}, {"momentum_decay": 0.01}),
    "bitsandbytes.optim.LAMB": ("LAMB", {"max_unorm": 0.5}, {"betas": (0.9, 0.999)}),
    "schedule_free_adamw": ("AdamWScheduleFree", {"r": 0.5}, {"r": 0.5, "warmup_steps": 1}),
    "schedule_free_sgd": ("SGDScheduleFree", {"momentum": 0.8}, {"momentum": 0.8}),
}
# On a CPU nothing is paged, and bitsandbytes says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*[Pp]aged")


def config_of(name: str) -> Any:
    free = name.startswith("schedule_free")
    if free:
        pytest.importorskip("schedulefree")
    return replace(
        CONFIG, optim=name, optim_args=OPTIMIZERS[name][1], weight_decay=0.01, num_train_epochs=1,
        lr_scheduler_type="constant" if free else "cosine", warmup_steps=1,
    )  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_class_with_the_settings_and_resumes_exactly(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    cls, _, wanted = OPTIMIZERS[name]
    run = training(config)
    assert type(run.optimizer.optimizer).__name__ == cls
    group = run.optimizer.param_groups[0]
    assert {key: group[key] for key in wanted} == wanted
    assert group["weight_decay"] == 0.01
    if "8bit" in name:
        next(run.run())
        states = run.optimizer.state_dict()["state"].values()
        assert {state["__bnb_optimizer_quant_state__"]["state1"].dtype for state in states} == {torch.uint8}
    assert_resumes_exactly(tmp_path, 2, config=config)


def test_float32_state_of_bfloat16_weights_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' Adafactor keeps it so."""
    monkeypatch.setattr(loops, "BASE", replace(loops.BASE, dtype="bfloat16"))
    assert_resumes_exactly(tmp_path, 2, config=config_of("adafactor"), adapter=None)


@pytest.mark.parametrize("name", ["adagrad", "schedule_free_adamw", "adamw_bnb_8bit"])
def test_a_rehearsal_leaves_no_trace(name: str) -> None:
    """The pre-flight steps once: sums, counters and averages must be as they were."""
    config = config_of(name)
    plain, rehearsed = training(config), training(config)
    with _undisturbed(rehearsed):
        rehearsed.rehearse(collate([rehearsed.plan.families[i] for i in range(3)]))
    list(plain.run())
    list(rehearsed.run())
    expected, found = checkpoint.trained_weights(plain), checkpoint.trained_weights(rehearsed)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_batch_that_may_need_more_than_the_longest_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention keeps weights of examples up to a length: the fullest batch of those is rehearsed, if longer ones exist."""
    run, tried = training(), []
    monkeypatch.setattr(run, "rehearse", lambda batch: tried.append(batch.cu_seq_lens.diff().tolist()))
    tokens = [Tokens(str(i), [5] * n, 2) for i, n in enumerate((50, 20, 8, 20, 12))]
    _rehearse(run, tokens, 60)
    assert tried == [[50, 8]]
    monkeypatch.setattr(preflight, "IN_BLOCKS", range(10, 31))
    _rehearse(run, tokens, 60)
    assert tried[1:] == [[50, 8], [20, 20, 12, 8]]
    _rehearse(run, tokens[:1], 60)
    assert tried[3:] == [[50]]


def test_the_weights_of_a_schedule_free_run_are_its_average() -> None:
    """Scored and kept is x, trained is y; looking changes nothing."""
    run = training(config_of("schedule_free_adamw"))
    for report in run.run():
        if report.step == 3:
            break
    trained = {key: value.clone() for key, value in checkpoint.trained_weights(run).items()}
    with run.as_scored():
        scored = {key: value.clone() for key, value in checkpoint.trained_weights(run).items()}
    after = checkpoint.trained_weights(run)
    optimizer: Any = run.optimizer.optimizer
    name, weight = next((n, p) for n, p in run.model.named_parameters() if p.requires_grad)
    z, beta = optimizer.state[weight]["z"], optimizer.param_groups[0]["betas"][0]
    torch.testing.assert_close(trained[name], (1 - beta) * z + beta * scored[name], rtol=1e-5, atol=1e-7)
    assert not torch.equal(trained[name], scored[name])
    assert all(torch.equal(trained[key], after[key]) for key in trained)


def test_the_command_plans_and_trains_a_schedule_free_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With the check of memory before it, which takes a step by itself."""
    pytest.importorskip("schedulefree")
    mine = str(make_workplace(tmp_path / "place") / "mine.yaml")
    free = ["train.optim=schedule_free_adamw", "train.lr_scheduler_type=constant", "train.max_steps=1"]
    assert cli.main(["plan", mine, *free]) == 0, capsys.readouterr().err
    assert cli.main(["finetune", mine, f"output={tmp_path / 'run'}", *free]) == 0, capsys.readouterr().err


def test_sgd_takes_the_step_of_its_formula() -> None:
    """w <- w - lr (g + decay w), from the gradient of the same batch by autograd alone."""
    config = replace(ONE_STEP, optim="sgd", weight_decay=0.1, tokens_per_batch=10_000, max_grad_norm=1e9)
    run = training(config)
    before = {key: value.clone() for key, value in checkpoint.trained_weights(run).items()}
    gradients = {}
    for name, weight in run.model.named_parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda p, n=name: gradients.update({n: p.grad.clone()}))
    next(run.run())
    for name, weight in checkpoint.trained_weights(run).items():
        torch.testing.assert_close(weight, before[name] - 1e-2 * (gradients[name] + 0.1 * before[name]))


def test_lora_plus_steps_further_in_b(tmp_path: Path) -> None:
    """Adam's first step is lr wherever there is a gradient: 16 times as far in B as LoRA goes, and as far in A."""
    plain, plus = training(ONE_STEP), training(replace(ONE_STEP, loraplus_lr_ratio=16.0))
    rates = {group["lr"] for group in plus.optimizer.param_groups}
    assert rates == {1e-2, 16e-2}
    steps = []
    for run in (plain, plus):
        before = {key: value.clone() for key, value in checkpoint.trained_weights(run).items()}
        next(run.run())
        steps.append({key: (value - before[key]).abs().max() for key, value in checkpoint.trained_weights(run).items()})
    for name in steps[0]:
        if "lora_B" in name:
            torch.testing.assert_close(steps[1][name], 16 * steps[0][name], rtol=1e-3, atol=0)
    assert_resumes_exactly(tmp_path, 2, config=replace(CONFIG, loraplus_lr_ratio=16.0, num_train_epochs=1))


def test_lora_plus_trains_an_embedding_at_the_learning_rate() -> None:
    config = replace(ONE_STEP, loraplus_lr_ratio=16.0)
    run = training(config, adapter={**LORA, "target_modules": ["q_proj", "embed_tokens"]})
    rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in run.model.named_parameters() if p.requires_grad}
    assert {rate for name, rate in named.items() if "lora_embedding" in name} == {1e-2}
    assert set(named.values()) == {1e-2, 16e-2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": "adamw_torchfused"}, "train.optim is 'adamw_torchfused'. Did you mean 'adamw_torch_fused'"),
        ({"optim": "torch.optim.NAdamm"}, "torch.optim has no optimizer 'NAdamm'. Did you mean 'NAdam'"),
        ({"optim": "torch.optim.LBFGS"}, "several times a step"),
        ({"optim": "adamw_torch_xla"}, "adamw_torch_xla is not installed"),
        ({"optim": "galore_adamw"}, "galore_adamw needs groups of parameters with a rank"),
        ({"optim": "apollo_adamw"}, "apollo_adamw needs groups of parameters with a rank"),
        ({"optim": "lomo"}, "inside of the backward pass"),
        ({"optim_args": {"epz": 1}}, "unknown key 'train.optim_args.epz'. Did you mean 'eps'"),
        ({"optim_args": {"lr": 1}}, "train.optim_args.lr has a key of its own: train.learning_rate"),
        ({"optim_args": {"betas": [2.0, 0.9]}}, "refuses these settings: Invalid beta"),
        ({"optim_args": {"amsgrad": "yes"}}, "adamw_torch_fused refuses these settings"),
        ({"optim": "torch.optim.SparseAdam"}, "does not support dense gradients"),
        ({"optim": "torch.optim.NAdam", "adam_beta2": 0.9}, "train.adam_beta2 does not reach torch.optim.NAdam"),
        ({"optim_args": {"betas": [0.9, 0.9]}, "adam_beta2": 0.95}, "train.adam_beta2 does not reach"),
        ({"lr_scheduler_type": "cosin"}, "train.lr_scheduler_type is 'cosin'. Did you mean 'cosine'"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "follows a score after every step"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "needs other settings in train.lr_scheduler_kwargs"),
        ({"lr_scheduler_kwargs": {"num_cycle": 2}}, "'train.lr_scheduler_kwargs.num_cycle'. Did you mean 'num_cycles'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        training(replace(CONFIG, **changes))
    assert message in str(raised.value)


def test_ratio_without_lora_is_refused() -> None:
    with pytest.raises(RecipeError, match="loraplus_lr_ratio is for LoRA"):
        training(replace(CONFIG, loraplus_lr_ratio=2.0), adapter={"peft_type": "IA3", "feedforward_modules": []})


def test_settings_of_a_schedule_take_effect() -> None:
    """cosine_with_min_lr ends where it is told to."""
    kwargs = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 4e-3}}
    run = training(replace(CONFIG, num_train_epochs=1, **kwargs))
    list(run.run())
    assert run.scheduler.get_last_lr()[0] == pytest.approx(4e-3)
