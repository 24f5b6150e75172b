"""The base model in fp32, bf16, 8-bit or NF4, and what is trained on it: a peft adapter, or all weights.

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
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedConfig
from transformers.utils import cached_file

from llama_tasks import adapter_inits, rank_allocation
from llama_tasks.checks import normalise_adapter_config
from llama_tasks.errors import ModelError, RecipeError, did_you_mean
from llama_tasks.model import NativeLlamaConfig, NativeLlamaForCausalLM, load_native
from llama_tasks.model.configuration_native_llama import MODEL_TYPE
from llama_tasks.quantization import compute_4bit_as_trained, quantizer
from llama_tasks.recipe import BaseConfig
from llama_tasks.tokenizer import EMBEDDED as EMBEDDED
from llama_tasks.tokenizer import load_tokenizer as load_tokenizer
from llama_tasks.tokenizer import where_is as where_is

# Methods of peft that need more than token ids, or another model class.
UNFIT = {
    "ADAPTION_PROMPT": "rewrites the attention of transformers' own LLaMA class",
    "POLY": "needs the number of a task beside every row",
    "SHADOW": "needs its own way through the layers",
    "XLORA": "mixes adapters that were trained before",
}
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclasses.dataclass(frozen=True)
class Parameters:
    """How many numbers the model has, and how many of them are trained."""

    trainable: int
    total: int

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({100 * self.trainable / self.total:.2f}%)"


def pin(base: BaseConfig) -> BaseConfig:
    """The same base with the commit that its Hub revision is at now, so that tokenizer, weights, resume and card all mean
    one thing; unchanged for local bases, and where the Hub does not answer (loading then says why)."""
    if base.model == "embedded" or Path(base.model).exists():
        return base
    try:
        config = cached_file(base.model, "config.json", revision=base.revision)
    except (OSError, ValueError):
        return base
    return dataclasses.replace(base, revision=Path(config).parent.name)  # .../snapshots/<commit>/config.json


def load_base(base: BaseConfig, device: torch.device | str = "cpu", spread: bool = False) -> NativeLlamaForCausalLM:
    """The base model on its device, frozen in the precision that the recipe asks for; one that will be spread over several
    devices, whose memory need not hold it whole, waits on the CPU.

    Raises:
        ModelError: not found, not a LLaMA, or weights missing.
    """
    if base.config is not None:
        if base.is_quantized:
            raise RecipeError("base.config makes a new model; it cannot be quantised, leave base.quantization out.")
        return new_model(base.config)
    dtype = resolve_dtype(base.dtype, device)
    quantization = quantizer(base, dtype)
    try:
        model = load_native(
            where_is(base.model),
            revision=base.revision,
            dtype=dtype,
            quantization_config=quantization,
            attn_implementation=base.attn_implementation,
            device_map={"": device} if quantization or (str(device) != "cpu" and not spread) else None,
        )
    except ValueError as error:
        raise ModelError(f"Cannot load the base {base.model!r} as asked: {str(error).splitlines()[0]}") from None
    compute_4bit_as_trained(model)
    _keep_only_ends(model)
    return model


def load_any(base: BaseConfig, device: torch.device | str = "cpu") -> Any:
    """Any causal language model of transformers: a LLaMA as the native model, others by their own classes.

    Raises:
        ModelError: not found, no causal language model, pickled weights, or code of its own that would have to run.
    """
    place = where_is(base.model)
    try:
        kind = PreTrainedConfig.get_config_dict(place, revision=base.revision)[0].get("model_type")
    except (OSError, ValueError):
        kind = None  # load_native says what is wrong
    if kind in (None, "llama", MODEL_TYPE):
        return load_base(base, device)
    dtype = resolve_dtype(base.dtype, device)
    quantization = quantizer(base, dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            place, revision=base.revision, dtype=dtype, quantization_config=quantization, use_safetensors=True,
            attn_implementation=base.attn_implementation, trust_remote_code=False,
            device_map={"": device} if quantization or str(device) != "cpu" else None,
        )  # fmt: skip
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"Cannot load {base.model!r} as a causal language model: {str(error).splitlines()[0]}"
        ) from None
    compute_4bit_as_trained(model)
    _keep_only_ends(model)
    return model.eval()


def _keep_only_ends(model: Any) -> None:
    """Only what ends an output is taken from a model: its sampling settings would enter our scores unseen."""
    given = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=given.bos_token_id, eos_token_id=given.eos_token_id, pad_token_id=given.pad_token_id
    )


def native_of(model: Any) -> NativeLlamaForCausalLM | None:
    """The native model inside, where there is one and its adapter, if any, adds nothing to its inputs."""
    if any(getattr(config, "is_prompt_learning", False) for config in getattr(model, "peft_config", {}).values()):
        return None
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner if isinstance(inner, NativeLlamaForCausalLM) else None


def new_model(fields: dict[str, Any]) -> NativeLlamaForCausalLM:
    """A model with random weights from LLaMA configuration fields. Raises RecipeError for an unknown one."""
    known = [f.name for f in dataclasses.fields(NativeLlamaConfig)]
    for name in fields:
        if name not in known and name != "rope_theta":
            raise RecipeError(f"base.config: unknown field {name!r}.{did_you_mean(name, known)}")
    try:
        return NativeLlamaForCausalLM(NativeLlamaConfig(**fields))
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise RecipeError(f"base.config: {' '.join(str(error.__cause__ or error).split())}") from None


def resolve_dtype(name: str, device: torch.device | str) -> torch.dtype:
    """`auto` is bfloat16 on a CUDA device that computes it, else float32 (on most CPUs bfloat16 is emulated and slow)."""
    if name != "auto":
        return getattr(torch, name)
    return torch.bfloat16 if torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def adapter_config(fields: dict[str, Any]) -> Any:
    """peft's configuration for the recipe's `adapter`. Raises RecipeError for a method or field that peft does not know."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PromptLearningConfig

    kinds = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    fields = (
        {"target_modules": LINEAR_LAYERS, **fields} if "target_modules" in _names(kinds.get("LORA")) else dict(fields)
    )
    kind = str(fields.pop("peft_type", "LORA")).upper()
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
    if "target_modules" not in known:
        fields.pop("target_modules")
    for name in fields:
        if name not in known:
            raise RecipeError(f"unknown key 'adapter.{name}'.{did_you_mean(name, sorted(known))}")
    init = fields.get("init_lora_weights")
    adapter_inits.check_fields(fields)
    if init == "loftq":  # of a base that is in 4 bits already; peft's own setting would quantise it
        fields["init_lora_weights"] = True
    try:
        config = kinds[kind](task_type="CAUSAL_LM", **fields)
    except (ValueError, TypeError) as error:
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
    adapter_inits.check(config, base.is_quantized, four_bits, model.dtype)
    init = getattr(config, "init_lora_weights", None)
    if init == "loftq":
        config.init_lora_weights = True
    try:
        with warnings.catch_warnings():
            # LN tuning copies the layer as it is; peft does not know our norm by its name.
            warnings.filterwarnings("ignore", "Unsupported layer type")
            adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"adapter: peft refuses this configuration: {error}") from None
    adapter_inits.initialise(adapted, base, init)
    return adapted


def save_trained(model: Any, folder: Path, base: BaseConfig, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write what was trained: an adapter (safetensors and a byte-stable adapter_config.json), or a whole plain LLaMA.

    Where the model is spread over processes, `weights` are what was trained, by parameter name, in one piece.
    """
    if hasattr(model, "peft_config"):
        if hasattr(model.base_model, "rankallocator"):
            rank_allocation.keep_ranks_of_weights(model)
        adapter_inits.save(model, folder, weights)
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
    return str(fields.get("init_lora_weights")).lower().startswith(adapter_inits.MUTATING)


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
    difference = float((expected - sample_logits(model, input_ids)).abs().max())
    if not difference <= 1e-3 * max(1.0, float(expected.abs().max())):
        raise ModelError(
            f"What was saved does not give the logits of the trained model: loaded afresh they differ by {difference:.2g}. "
            "The run failed; please report this."
        )


def count_parameters(model: torch.nn.Module) -> Parameters:
    """Trainable and total parameters; a packed 4-bit weight counts the numbers it stands for."""
    total = trainable = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        count = (state.shape if state is not None else getattr(parameter, "ds_shape", parameter.shape)).numel()
        total += count
        trainable += count if parameter.requires_grad else 0
    return Parameters(trainable, total)


def auto_learning_rate(hidden_size: int) -> float:
    """Learning rate of LoRA for a LLaMA of this width: 5e-4 x (2000 / width)^0.781.

    Source: the rule fitted over LLaMA models in Thinking Machines Lab, "LoRA Without Regret" (2025): a base of 5e-5,
    ten times as much for LoRA, and the exponent 0.781 for the LLaMA family.
    """
    return 5e-4 * (2000 / hidden_size) ** 0.781


def _names(config: Any) -> set[str]:
    return {f.name for f in dataclasses.fields(config)} if config is not None else set()
