"""Every method of peft through our own path on the embedded base: what its fields name took effect, it trains, and what is saved
gives the same logits on the original base."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from loops import CONFIG, assert_resumes_exactly, examples, training

from llama_tasks import adapters, checkpoint
from llama_tasks.errors import RecipeError
from llama_tasks.packing import collate
from llama_tasks.recipe import BaseConfig
from llama_tasks.train import Training

EMBEDDED = BaseConfig(dtype="float32")
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*CUDA extension|Setting `boft|Setting boft|Sparse invariant")


def layer(model: Any, name: str = "layers.0.self_attn.q_proj") -> Any:
    return model.get_submodule(f"base_model.model.model.{name}")


def trained(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def is_orthonormal(columns: torch.Tensor) -> bool:
    return torch.allclose(columns.T @ columns, torch.eye(columns.shape[1]), atol=1e-5)


Check = Callable[[Any], bool]
#: name: (fields, what must be true of the model)
METHODS: dict[str, tuple[dict[str, Any], Check]] = {
    "LoRA": ({"r": 3, "lora_alpha": 12, "lora_dropout": 0.2},
             lambda m: layer(m).lora_A["default"].weight.shape[0] == 3 and layer(m).scaling["default"] == 4.0
             and layer(m).lora_dropout["default"].p == 0.2),
    "rsLoRA": ({"r": 4, "lora_alpha": 8, "use_rslora": True}, lambda m: layer(m).scaling["default"] == 4.0),
    "DoRA": ({"r": 2, "use_dora": True}, lambda m: any("magnitude_vector" in name for name in trained(m))),
    "PiSSA": ({"r": 4, "init_lora_weights": "pissa"}, lambda m: bool(layer(m).lora_B["default"].weight.any())),
    "PiSSA, random SVD": ({"r": 4, "init_lora_weights": "pissa_niter_4", "use_rslora": True}, lambda m: True),
    "OLoRA": ({"r": 4, "lora_alpha": 4, "init_lora_weights": "olora"},
              lambda m: is_orthonormal(layer(m).lora_B["default"].weight.detach())),
    "orthogonal": ({"r": 4, "init_lora_weights": "orthogonal"}, lambda m: bool(layer(m).lora_B["default"].weight.any())),
    "IA3": ({"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
            lambda m: layer(m, "layers.0.mlp.down_proj").is_feedforward
            and not layer(m, "layers.0.self_attn.k_proj").is_feedforward),
    "AdaLoRA": ({"peft_type": "ADALORA", "init_r": 6, "target_r": 3, "deltaT": 5},
                lambda m: layer(m).lora_E["default"].shape == (6, 1) and m.peft_config["default"].total_step == 2),
    "LoHa": ({"peft_type": "LOHA", "r": 3}, lambda m: layer(m).hada_w1_a["default"].shape[1] == 3),
    "LoKr": ({"peft_type": "LOKR", "r": 3, "decompose_factor": 8}, lambda m: layer(m).lokr_w1["default"].shape == (8, 8)),
    "VeRA": ({"peft_type": "VERA", "r": 16, "d_initial": 0.3},
             lambda m: bool((layer(m).vera_lambda_d["default"] == 0.3).all())
             and all("vera_lambda" in name for name in trained(m))),
    "OFT": ({"peft_type": "OFT", "oft_block_size": 8}, lambda m: layer(m).oft_R["default"].weight.shape[1] == 28),
    "BOFT": ({"peft_type": "BOFT", "boft_block_size": 4}, lambda m: layer(m).boft_R["default"].shape[-1] == 4),
    "VB-LoRA": ({"peft_type": "VBLORA", "r": 2, "num_vectors": 16, "vector_length": 32, "save_only_topk_weights": False},
                lambda m: m.base_model.vblora_vector_bank["default"].shape == (16, 32)),
    "FourierFT": ({"peft_type": "FOURIERFT", "n_frequency": 50}, lambda m: layer(m).fourierft_spectrum["default"].shape == (50,)),
    "LN tuning": ({"peft_type": "LN_TUNING", "target_modules": ["input_layernorm", "norm"]},
                  lambda m: len(trained(m)) == 6 and all("norm" in name for name in trained(m))),
    "LN tuning, its own layers": ({"peft_type": "LN_TUNING"},
                                  lambda m: len(trained(m)) == 11 and all("norm" in n for n in trained(m))),
    "IA3, its own layers": ({"peft_type": "IA3"},
                            lambda m: len(trained(m)) == 15 and layer(m, "layers.0.mlp.down_proj").is_feedforward),
    "trainable tokens": ({"peft_type": "TRAINABLE_TOKENS", "token_indices": [2, 5]},
                         lambda m: adapters.count_parameters(m).trainable == 2 * m.config.hidden_size),
    "layers_to_transform": ({"r": 2, "layers_to_transform": [1]}, lambda m: all("layers.1." in name for name in trained(m))),
    "target_modules": ({"r": 2, "target_modules": r".*layers\.[01]\.self_attn\.(q|v)_proj"}, lambda m: len(trained(m)) == 8),
    "modules_to_save": ({"r": 2, "modules_to_save": ["norm"]}, lambda m: any("modules_to_save" in name for name in trained(m))),
    "rank_pattern": ({"r": 2, "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"q_proj": 10}},
                     lambda m: layer(m).lora_A["default"].weight.shape[0] == 5 and layer(m).scaling["default"] == 2.0),
    "PiSSA, patterns": ({"r": 2, "init_lora_weights": "pissa", "rank_pattern": {"q_proj": 5}, "trainable_token_indices": [2]},
                        lambda m: any("trainable_tokens" in name for name in trained(m))),
}  # fmt: skip


def train_and_reload(folder: Path, fields: dict[str, Any], base: BaseConfig, look: Check | None = None) -> None:
    set_seed(5)
    model = adapters.attach(adapters.load_base(base), dict(fields), base)
    config = replace(CONFIG, max_steps=2, tokens_per_batch=64, lr_scheduler_type="constant", warmup_steps=0)
    run = Training(model, examples(8), config, Accelerator(), 5e-3)
    ids = examples(2)[0].input_ids
    untrained = adapters.sample_logits(model, ids)
    start = {name: weight.clone() for name, weight in checkpoint.trained_weights(run).items()}
    assert look is None or look(model)
    for _ in run.run():
        pass
    assert any(not torch.equal(weight, start[name]) for name, weight in checkpoint.trained_weights(run).items())
    expected = adapters.sample_logits(model, ids)
    assert not torch.allclose(expected, untrained, atol=1e-4)
    adapters.save_trained(model, folder, base)
    found = adapters.sample_logits(adapters.load_trained(base, folder), ids)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_it_takes_effect_trains_and_reloads(name: str, tmp_path: Path) -> None:
    fields, look = METHODS[name]
    train_and_reload(tmp_path, fields, EMBEDDED, look)


def test_what_pissa_saves_is_a_plain_lora_of_the_original_base(tmp_path: Path) -> None:
    from peft import PeftConfig

    train_and_reload(tmp_path, {"r": 3, "lora_alpha": 6, "init_lora_weights": "pissa"}, EMBEDDED)
    config: Any = PeftConfig.from_pretrained(tmp_path)
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (6, 12, True)


def test_loftq_makes_good_what_four_bits_lose(tmp_path: Path) -> None:
    """Before any training, the adapted 4-bit base is nearer to the original than the bare one; and it trains and reloads."""
    base = replace(EMBEDDED, quantization="nf4")
    fields = {"r": 16, "lora_alpha": 32, "init_lora_weights": "loftq"}
    ids = examples(2)[0].input_ids
    original = adapters.sample_logits(adapters.load_base(EMBEDDED), ids)
    bare = adapters.sample_logits(adapters.load_base(base), ids)
    adapted = adapters.sample_logits(adapters.attach(adapters.load_base(base), fields, base), ids)
    assert (adapted - original).norm() < 0.9 * (bare - original).norm()
    train_and_reload(tmp_path, fields, base)


# --- AdaLoRA ---------------------------------------------------------------------------------------------------------


ADALORA = {"peft_type": "ADALORA", "init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 2}


def test_adalora_gives_up_ranks_within_the_run() -> None:
    run = training(replace(CONFIG, num_train_epochs=1), adapter=ADALORA)
    list(run.run())
    kept = [int((p != 0).sum()) for name, p in run.model.named_parameters() if "lora_E" in name]
    assert sum(kept) == 2 * len(kept) < 4 * len(kept)


@pytest.mark.parametrize("stop_at", [3, 7])
def test_adalora_resumes_exactly(tmp_path: Path, stop_at: int) -> None:
    """Before the last masks, whose averages must come back, and after them."""
    config = replace(CONFIG, num_train_epochs=1)
    assert training(config, adapter=ADALORA).total_steps == 8
    assert_resumes_exactly(tmp_path, stop_at, config=config, adapter=ADALORA)


def test_the_term_for_orthogonality_counts_once_a_step() -> None:
    """However many batches a step has."""
    found = []
    for size in (10_000, 60):
        run = training(
            replace(CONFIG, tokens_per_batch=size, gradient_accumulation_steps=100, num_train_epochs=8), adapter=ADALORA
        )
        found.append(next(run.run()))
    assert found[0].loss == pytest.approx(found[1].loss, abs=1e-5)
    assert found[0].grad_norm == pytest.approx(found[1].grad_norm, rel=1e-4)


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "base", "message"),
    [
        ({"init_lora_weights": "eva"}, {}, "eva is computed from a pass over the data"),
        ({"init_lora_weights": "loftq"}, {}, "use it with base.quantization=nf4"),
        ({"init_lora_weights": "loftq", "loftq_config": {}}, {}, "adapter.loftq_config"),
        ({"init_lora_weights": "olora"}, {"quantization": "nf4"}, "only in float32"),
        ({"init_lora_weights": "pissa"}, {"dtype": "bfloat16"}, "only in float32"),
        ({"peft_type": "ADALORA", "total_step": 3}, {}, "the run's own number of steps"),
        ({"peft_type": "POLY"}, {}, "POLY needs the number of a task"),
        ({"peft_type": "PREFIX_TUNING"}, {}, "puts virtual tokens before every example"),
        ({"peft_type": "ADALORA", "r": 4}, {}, "adapter.r is not read by ADALORA"),
        ({"alora_invocation_tokens": [5]}, {}, "packed batches do not tell"),
        ({"layer_replication": [[0, 2]]}, {}, "changes the base itself"),
        ({"kasa_config": {}}, {}, "takes a part of the base away for good"),
        ({"monteclora_config": {}}, {}, "needs a term of its own in the loss"),
        ({"eva_config": {}}, {}, "computed from a pass over the data"),
        ({"revision": "main"}, {}, "is written when an adapter is saved"),
        ({"bias": "all"}, {}, "adapter.bias would train the biases of the base"),
        ({"target_modules": "(q_proj"}, {}, "peft refuses this configuration: missing )"),
        ({"arrow_config": {}}, {}, "peft refuses this configuration"),
        ({"target_modules": ["q_proj", "c_attn"]}, {}, "adapter.target_modules: 'c_attn' fits no layer"),
        ({"modules_to_save": ["lm_haed"]}, {}, "Did you mean 'lm_head'"),
        ({"layers_to_transform": [0, 99]}, {}, "there is no layer 99; the base has 0 to 4"),
        ({"rank_pattern": {"qproj": 8}}, {}, "adapter.rank_pattern: 'qproj' fits no layer"),
        ({"peft_type": "TRAINABLE_TOKENS"}, {}, "no number to train"),
        ({"peft_type": "TRAINABLE_TOKENS", "token_indices": [99999]}, {}, "out of bounds"),
        ({"peft_type": "HRA", "r": 8}, {"quantization": "nf4"}, "cannot compute on this quantised base"),
    ],
)
def test_what_cannot_be_reloaded_is_refused_before(fields: dict[str, Any], base: dict[str, Any], message: str) -> None:
    config = replace(EMBEDDED, **base)
    with pytest.raises(RecipeError, match=re.escape(message)):
        adapters.attach(adapters.load_base(config), fields, config)


def test_an_adalora_schedule_without_steps_is_refused() -> None:
    with pytest.raises(RecipeError, match="leave none of the run's 2 steps"):
        training(replace(CONFIG, max_steps=2), adapter=ADALORA)


def test_a_batch_without_targets_carries_no_loss() -> None:
    batch = collate(examples(3))
    assert batch.num_targets > 0 == batch.without_targets().num_targets
    assert torch.equal(batch.input_ids, batch.without_targets().input_ids)
