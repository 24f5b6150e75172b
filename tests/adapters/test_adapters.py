"""The base as the recipe asks for it, what is trained on it, and the traps of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from loops import BASE, CONFIG, TINY, examples
from tiny import make_base, make_rows
from transformers import AutoTokenizer, LlamaForCausalLM

from llama_tasks import adapters, dataset, score
from llama_tasks.adapters.freezing import freeze
from llama_tasks.errors import ModelError, RecipeError
from llama_tasks.recipe import BaseConfig, Recipe, load_recipe
from llama_tasks.supervise import settling
from llama_tasks.train import Training


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "LORAX"}, "adapter.peft_type is 'LORAX'. Did you mean 'LORA'"),
        ({"lora_alfa": 3}, "unknown key 'adapter.lora_alfa'. Did you mean 'lora_alpha'"),
        ({"target_modules": ["nosuch"]}, "peft refuses"),
    ],
)
def test_adapter_mistakes(fields: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        adapters.attach(adapters.load_base(BASE), fields, BASE)


@pytest.mark.parametrize(
    "fields", [{"use_dora": True}, {"peft_type": "IA3", "feedforward_modules": ["down_proj"]}, {"use_rslora": True}]
)
def test_other_methods_of_peft_pass_through(fields: dict) -> None:
    fields = {"target_modules": ["k_proj", "v_proj", "down_proj"], **fields}
    model = adapters.attach(adapters.load_base(BASE), fields, BASE)
    assert 0 < adapters.count_parameters(model).trainable < 0.2 * adapters.count_parameters(model).total


def test_auto_learning_rate_follows_the_width() -> None:
    assert adapters.auto_learning_rate(2000) == pytest.approx(5e-4)
    assert adapters.auto_learning_rate(4096) == pytest.approx(2.86e-4, rel=0.01)


# --- frozen layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (["embed_tokens"], {"model.embed_tokens.weight"}),
        (["layers.0", "norm"], None),
        ([r"model\.layers\.[0-9]+\.mlp\..*"], None),
        (["lm_head", "self_attn.q_proj"], None),
    ],
)
def test_frozen_weights_stay_and_the_optimizer_holds_none(patterns: list[str], wanted: set[str] | None) -> None:
    set_seed(2)
    model = adapters.attach(adapters.load_base(BASE), None, BASE)
    freeze(model, patterns)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and (wanted is None or set(frozen) == wanted)
    run = Training(model, examples(), replace(CONFIG, max_steps=3), Accelerator(), 1e-2)
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in model.named_parameters() if name not in frozen}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in run.run():
        pass
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) is (name in frozen), name


def test_a_part_of_a_name_is_whole() -> None:
    """layers.1 is not layers.10 to layers.19."""
    model = adapters.load_base(BaseConfig(config={**TINY, "num_hidden_layers": 12}))
    freeze(model, ["layers.1"])
    assert {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad} == {"1"}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["embed_token"], "'embed_token' matches no parameter. Did you mean 'embed_tokens'"),
        (["("], "is no regular expression"),
        ([".*"], "leaves nothing to train"),
    ],
)
def test_mistakes_in_what_is_frozen(patterns: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        freeze(adapters.load_base(BASE), patterns)
    assert message in str(raised.value)


def test_freezing_beside_an_adapter_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"adapter\.layers_to_transform"):
        freeze(adapters.attach(adapters.load_base(BASE), {"r": 2}, BASE), ["norm"])


# --- quantised ---------------------------------------------------------------------------------------------------------


def test_nf4_computes_the_same_in_training_after_an_evaluation(tmp_path: Path) -> None:
    """bitsandbytes repacks 4-bit weights at the first evaluation on some CPUs; then gradients end at the top layer."""
    base = BaseConfig(model=str(make_base(tmp_path / "base")), quantization="nf4")
    set_seed(1)
    model = adapters.attach(adapters.load_base(base), {"r": 4, "init_lora_weights": False}, base)
    ids = torch.randint(3, 4608, (1, 20))

    def step() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.train()
        model.zero_grad()
        output = model(input_ids=ids, labels=ids)
        output.loss.backward()
        return output.logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    logits, gradients = step()
    evaluated = adapters.sample_logits(model, ids[0].tolist())
    again, gradients_after = step()
    assert torch.equal(again, logits)
    torch.testing.assert_close(evaluated, logits[0], atol=1e-5, rtol=0)
    assert any("layers.0" in name and gradient.any() for name, gradient in gradients.items())
    assert all(torch.equal(gradient, gradients_after[name]) for name, gradient in gradients.items())


FP4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"quantization": "nf4"}, ("nf4", True)),
        ({"quantization": "fp4"}, ("fp4", True)),
        ({"quantization": "int8"}, None),
        ({"quantization_config": FP4}, ("fp4", False)),
        ({"quantization_config": {"load_in_8bit": True, "llm_int8_skip_modules": ["q_proj"]}}, None),
    ],
)
def test_an_adapter_learns_on_a_quantised_base(
    tmp_path: Path, fields: dict[str, Any], wanted: tuple[str, bool] | None
) -> None:
    """With the quantisation that was asked for (kind, double)."""
    base = BaseConfig(model=str(make_base(tmp_path / "base")), **fields)
    set_seed(1)
    model = adapters.attach(adapters.load_base(base), {"r": 4}, base)
    weights: dict[str, Any] = dict(model.named_parameters())
    stored = weights["base_model.model.model.layers.0.mlp.up_proj.base_layer.weight"]
    assert stored.dtype == (torch.int8 if wanted is None else torch.uint8)
    if wanted is not None:
        assert (stored.quant_state.quant_type, stored.quant_state.nested) == wanted
    skipped = weights["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"]
    assert skipped.is_floating_point() is ("llm_int8_skip_modules" in fields.get("quantization_config", {}))
    before, ids = stored.clone(), torch.randint(3, 4608, (2, 20))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = model(input_ids=ids, labels=ids, skip_logits=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert torch.equal(stored, before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"load_in_4bits": True}, "'base.quantization_config.load_in_4bits'. Did you mean 'load_in_4bit'"),
        ({"bnb_4bit_quant_type": "fp4"}, "needs load_in_4bit: true or load_in_8bit: true"),
        ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "float31"}, "bitsandbytes refuses it"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf5"}, "bnb_4bit_quant_type is 'nf5'. Did you mean 'nf4'"),
        ({"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}, "has no effect in 8 bits"),
        ({"load_in_4bit": True, "llm_int8_threshold": 5.0}, "has no effect in 4 bits"),
    ],
)
def test_mistakes_in_a_quantisation(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        adapters.load_base(BaseConfig(quantization_config=fields))
    assert message in str(raised.value)


def test_packed_weights_may_be_kept_as_floats(tmp_path: Path) -> None:
    """As FSDP needs them; their bits are not read as numbers, some of which would be NaN."""
    folder = str(make_base(tmp_path / "base"))
    found = []
    for kept_as in ("uint8", "float32"):
        fields = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": kept_as}
        model = adapters.load_base(BaseConfig(model=folder, quantization_config=fields))
        weight: Any = model.model.layers[0].mlp.up_proj.weight
        assert str(weight.dtype) == f"torch.{kept_as}"
        found.append(adapters.sample_logits(model, [5, 6, 7]))
    assert torch.equal(*found)


def test_a_new_model_has_the_precision_and_attention_of_the_recipe() -> None:
    fields = {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = adapters.load_base(BaseConfig(config=fields, dtype="bfloat16", attn_implementation="eager"))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and model.config._attn_implementation == "eager"
    assert {b.dtype for b in model.buffers()} == {torch.float32}


@pytest.mark.parametrize(("generation", "dtype"), [(7, torch.float32), (8, torch.bfloat16), (9, torch.bfloat16)])
def test_auto_is_bfloat16_where_a_gpu_computes_it(
    monkeypatch: pytest.MonkeyPatch, generation: int, dtype: torch.dtype
) -> None:
    """torch says that a GPU before Ampere supports bfloat16 too: it emulates it, slowly."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=generation))
    assert adapters.resolve_dtype("auto", "cuda") == dtype
    assert adapters.resolve_dtype("auto", "cpu") == torch.float32


def test_what_is_not_finite_is_not_blamed_on_the_disk() -> None:
    with pytest.raises(ModelError, match="NaN or infinite numbers"):
        adapters.check_reload(torch.tensor([float("nan")]), None, [1])


def test_two_quantisations_exclude_each_other() -> None:
    with pytest.raises(RecipeError, match="leave one of the two out"):
        adapters.load_base(BaseConfig(quantization="nf4", quantization_config=FP4))


# --- a base that never met EOS -------------------------------------------------------------------------------------


def recipe(base: str, data: Path, *overrides: str) -> Recipe:
    return load_recipe(
        Path(__file__).parents[2] / "recipes/summarize.yaml",
        [
            f"base.model={base}",
            f"data.train={data}",
            "train.learning_rate=5e-3",
            "train.tokens_per_batch=2048",
            *overrides,
        ],
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    names = ["Tom", "Lily", "Ben", "Sue", "Max", "Mia", "Sam", "Amy"]
    things = ["a red ball", "a big dog", "a small cat", "the blue car", "a new toy"]
    told = [
        {"document": f"{name} was happy. {name} saw {thing} in the park.", "summary": f"{name} saw {thing}."}
        for name in names
        for thing in things
    ]
    return make_rows(tmp_path / "rows.jsonl", told)


def trained_rank(asked: Recipe) -> tuple[Recipe, float]:
    """The settled recipe, and the rank of EOS at the ends of its training targets after training."""
    data = dataset.prepare(asked, adapters.load_tokenizer(asked.base))
    base = adapters.load_base(asked.base)
    settled = settling.settle(asked, base, data)
    set_seed(0)
    model: Any = adapters.attach(base, settled.adapter, settled.base)
    training = Training(model, data.train.tokens, settled.train, Accelerator(), float(settled.train.learning_rate))
    for _ in training.run():
        pass
    return settled, score.rank_of_end(model.eval(), data.train.tokens)


def test_a_base_that_never_met_eos_learns_it(shared: Callable[[str], Path], rows: Path) -> None:
    stories = str(shared("models/stories260K/hf"))
    settled, rank = trained_rank(recipe(stories, rows, "train.max_steps=40"))
    assert settled.adapter is not None and settled.adapter["trainable_token_indices"] == [2]
    assert rank == 0.0  # nothing is likelier than EOS where a summary ends
    left, rank = trained_rank(recipe(stories, rows, "train.max_steps=40", "adapter.trainable_token_indices=null"))
    assert left.adapter is not None and left.adapter["trainable_token_indices"] is None
    assert rank > 0.0


def test_an_untied_head_learns_it_in_its_own_row(shared: Callable[[str], Path], rows: Path, tmp_path: Path) -> None:
    place = shared("models/stories260K/hf")
    plain = LlamaForCausalLM.from_pretrained(place)
    plain.config.tie_word_embeddings = False
    plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.detach().clone())
    plain.save_pretrained(tmp_path / "untied")
    AutoTokenizer.from_pretrained(place).save_pretrained(tmp_path / "untied")
    settled, rank = trained_rank(recipe(str(tmp_path / "untied"), rows, "train.max_steps=40"))
    assert settled.adapter is not None and settled.adapter["trainable_token_indices"] == {"lm_head": [2]}
    assert rank == 0.0


@pytest.mark.parametrize(
    ("fields", "reaches"),
    [
        ({}, False),
        ({"target_modules": "all-linear"}, False),
        ({"modules_to_save": ["lm_head"]}, True),
        ({"target_modules": ["q_proj", "embed_tokens"]}, True),
        ({"target_modules": r".*(q_proj|lm_head)"}, True),
        ({"target_modules": r".*\.q_proj"}, False),
    ],
)
def test_an_adapter_that_trains_the_vocabulary_is_left_alone(fields: dict[str, Any], reaches: bool) -> None:
    assert adapters.reaches_vocabulary(fields) is reaches


def test_a_base_that_knows_eos_is_left_alone(rows: Path) -> None:
    asked = recipe("embedded", rows)
    data = dataset.prepare(asked, adapters.load_tokenizer(asked.base))
    base = adapters.load_base(asked.base)
    assert score.rank_of_end(base, data.train.tokens) < 0.1
    assert settling.settle(asked, base, data).adapter == asked.adapter
