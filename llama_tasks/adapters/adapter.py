"""What is trained on a base: a peft adapter, or all weights; put on it, saved, and loaded afresh.

Any adapter of peft that changes weights is reached by peft's own names in the recipe (`adapter: {peft_type: LORA, r: 16}`),
checked against peft's own configuration classes; there is no code here per method.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from llama_tasks.adapters import effect, inits, rank_allocation
from llama_tasks.adapters.base import load_base
from llama_tasks.adapters.config_file import normalise_adapter_config
from llama_tasks.errors import ModelError, RecipeError, did_you_mean
from llama_tasks.model import NativeLlamaForCausalLM, load_native
from llama_tasks.recipe import BaseConfig

# Methods of peft that need more than token ids, or another model class.
UNFIT = {
    "ADAPTION_PROMPT": "rewrites the attention of transformers' own LLaMA class",
    "POLY": "needs the number of a task beside every row",
    "SHADOW": "needs its own way through the layers",
    "XLORA": "mixes adapters that were trained before",
}
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Methods that are not for all linear layers: what peft gives them on a LLaMA, and the embedding where it names none.
OWN_LAYERS: dict[str, dict[str, Any]] = {
    "IA3": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm", "post_attention_layernorm", "norm"]},
    "TRAINABLE_TOKENS": {},
}
# How peft says no, be it to a value, a name or a kind of layer.
REFUSALS = (ValueError, TypeError, NotImplementedError, LookupError, AttributeError, ImportError, re.error)


def adapter_config(fields: dict[str, Any]) -> Any:
    """peft's configuration for the recipe's `adapter`. Raises RecipeError for a method or field that peft does not know."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PromptLearningConfig

    kinds = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    kind = str(fields.get("peft_type", "LORA")).upper()
    default = {} if "target_modules" in fields else OWN_LAYERS.get(kind, {"target_modules": LINEAR_LAYERS})
    fields = {**default, **{name: value for name, value in fields.items() if name != "peft_type"}}
    if kind not in kinds:
        raise RecipeError(f"adapter.peft_type is {kind!r}.{did_you_mean(kind, sorted(kinds))}")
    if issubclass(kinds[kind], PromptLearningConfig):
        raise RecipeError(
            f"adapter.peft_type: {kind} puts virtual tokens before every example, which packed batches do not have; choose "
            "a method that changes weights, such as LORA."
        )
    if kind in UNFIT:
        raise RecipeError(f"adapter.peft_type: {kind} {UNFIT[kind]}; choose another method, such as LORA.")
    known = _names(kinds[kind])
    if kind == "ADALORA":
        if "total_step" in fields:
            raise RecipeError("adapter.total_step is the run's own number of steps; leave it out.")
        fields["total_step"] = rank_allocation.NO_STEPS_YET
    for name in fields:
        if name not in known:
            raise RecipeError(f"unknown key 'adapter.{name}'.{did_you_mean(name, sorted(known))}")
    effect.check_fields(kind, fields)
    init = fields.get("init_lora_weights")
    inits.check_fields(fields)
    if init == "loftq":  # of a base that is in 4 bits already; peft's own setting would quantise it
        fields["init_lora_weights"] = True
    try:
        if isinstance(layers := fields.get("target_modules"), str):
            re.compile(layers)
        config = kinds[kind](task_type="CAUSAL_LM", **fields)
    except REFUSALS as error:
        raise RecipeError(f"adapter: peft refuses this configuration: {error}") from None
    if init == "loftq":
        config.init_lora_weights = init
    return config


def reaches_vocabulary(fields: dict[str, Any]) -> bool:
    """Whether the adapter itself changes or trains the embedding or the head."""
    config = adapter_config(fields)
    for wanted in (config.target_modules, getattr(config, "modules_to_save", None)):
        for name in ("model.embed_tokens", "lm_head"):
            if isinstance(wanted, str):
                if wanted != "all-linear" and re.fullmatch(wanted, name):
                    return True
            elif any(name == given or name.endswith(f".{given}") for given in wanted or ()):
                return True
    return False


def attach(model: NativeLlamaForCausalLM, fields: dict[str, Any] | None, base: BaseConfig) -> Any:
    """Put the adapter on the base (`None`: train all weights). Adapter weights are float32 whatever the base is.

    Raises:
        RecipeError: a field that peft refuses, or a target module that the model does not have.
        ModelError: all weights shall be trained on a quantised base.
    """
    if fields is None:
        if base.is_quantized:
            raise ModelError(
                "A quantised base cannot be trained whole; give the recipe an `adapter`, or base.quantization=none."
            )
        return model
    from peft import get_peft_model

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    config = adapter_config(fields)
    four_bits = bool(getattr(model, "is_loaded_in_4bit", False))
    inits.check(config, base.is_quantized, four_bits, model.dtype)
    init = getattr(config, "init_lora_weights", None)
    if init == "loftq":
        config.init_lora_weights = True
    try:
        with warnings.catch_warnings():
            # LN tuning copies the layer as it is; peft does not know our norm by its name.
            warnings.filterwarnings("ignore", "(Unsupported layer type|The following (rank|alpha)_pattern keys)")
            adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
    except REFUSALS as error:
        raise RecipeError(f"adapter: peft refuses this configuration: {error}") from None
    effect.check_names(adapted, fields)
    inits.initialise(adapted, base, init)
    if base.is_quantized:
        effect.check_product(adapted)
    return adapted


def save_trained(model: Any, folder: Path, base: BaseConfig, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write what was trained: an adapter (safetensors and a byte-stable adapter_config.json), or a whole plain LLaMA.

    Where the model is spread over processes, `weights` are what was trained, by parameter name, in one piece.
    """
    if hasattr(model, "peft_config"):
        if hasattr(model.base_model, "rankallocator"):
            rank_allocation.keep_ranks_of_weights(model)
        inits.save(model, folder, weights)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty card; `push` writes a real one
        normalise_adapter_config(folder, base.model, base.revision)
    else:
        save_as_llama(model, folder, weights)


def save_as_llama(model: NativeLlamaForCausalLM, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write the native model (with `weights` of its parameters in place of its own) as a plain `llama` checkpoint, which any
    transformers user loads."""
    fields = {
        k: v
        for k, v in model.config.to_dict().items()
        if k not in ("model_type", "architectures", "transformers_version")
    }
    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig(**fields))
    plain.load_state_dict({**model.state_dict(), **(weights or {})}, assign=True)
    plain.tie_weights()
    plain.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=model.config.eos_token_id
    )
    plain.save_pretrained(folder)


def changes_base(fields: Mapping[str, Any]) -> bool:
    """Whether the adapter's initialisation takes something out of the base's weights."""
    return str(fields.get("init_lora_weights")).lower().startswith(inits.MUTATING)


def load_trained(base: BaseConfig, folder: Path, device: torch.device | str = "cpu", onto: Any = None) -> Any:
    """What `save_trained` wrote, loaded afresh from the disk (an adapter `onto` a base at hand), in evaluation mode.

    Raises:
        ModelError: the folder holds neither, or an adapter's weights are missing, superfluous or not finite.
    """
    if not (folder / "adapter_config.json").is_file():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} holds neither an adapter nor a model.")
        place = {"": device} if str(device) != "cpu" else None
        return load_native(folder, attn_implementation=base.attn_implementation, device_map=place).eval()
    return put_on(onto or load_base(base, device), base, folder)


def put_on(model: Any, base: BaseConfig, folder: Path) -> Any:
    """A loaded model with the adapter of a folder, in evaluation mode.

    Raises:
        ModelError: the adapter's weights are missing, superfluous, not finite, or do not fit the model.
    """
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    try:
        with warnings.catch_warnings():
            # AdaLoRA's ranks are named otherwise when it is loaded; peft reads both names, and says that it does not know one.
            warnings.filterwarnings("ignore", "(Unsupported layer type|The following rank_pattern keys)")
            model = PeftModel.from_pretrained(model, str(folder), autocast_adapter_dtype=True)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{folder} does not fit {base.model!r}: {str(error).strip().splitlines()[0]}") from None
    wanted, found = (
        get_peft_model_state_dict(model, save_embedding_layers=False),
        load_file(folder / "adapter_model.safetensors"),
    )
    if wanted.keys() != found.keys():
        raise ModelError(
            f"{folder}: its weights do not fit the base {base.model!r} "
            f"(differing names: {sorted(wanted.keys() ^ found.keys())[:3]})."
        )
    if not all(bool(torch.isfinite(weight).all()) for weight in found.values()):
        raise ModelError(f"{folder}: the adapter holds NaN or infinite weights.")
    return model.eval()


@torch.inference_mode()
def sample_logits(model: Any, input_ids: list[int]) -> torch.Tensor:
    """Logits [T, V] of one example, float32 on the CPU."""
    model.eval()
    ids = torch.tensor([input_ids], device=next(model.parameters()).device)
    return model(input_ids=ids).logits[0].float().cpu()


def check_reload(expected: torch.Tensor, model: Any, input_ids: list[int]) -> None:
    """Raise ModelError unless the model, loaded afresh from what was saved, gives the logits of the one trained."""
    if not bool(expected.isfinite().all()):
        raise ModelError(
            "The trained model answers with NaN or infinite numbers, so nothing is scored; begin again with --overwrite and a "
            "lower train.learning_rate."
        )
    difference = float((expected - sample_logits(model, input_ids)).abs().max())
    if not difference <= 1e-3 * max(1.0, float(expected.abs().max())):
        raise ModelError(
            f"What was saved does not give the logits of the trained model: loaded afresh they differ by {difference:.2g}. "
            "The run failed; please report this."
        )


def auto_learning_rate(hidden_size: int) -> float:
    """Learning rate of LoRA for a LLaMA of this width: 5e-4 x (2000 / width)^0.781.

    Source: the rule fitted over LLaMA models in Thinking Machines Lab, "LoRA Without Regret" (2025): a base of 5e-5,
    ten times as much for LoRA, and the exponent 0.781 for the LLaMA family.
    """
    return 5e-4 * (2000 / hidden_size) ** 0.781


def _names(config: Any) -> set[str]:
    return {f.name for f in dataclasses.fields(config)} if config is not None else set()
