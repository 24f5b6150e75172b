"""The base model in fp32, bf16, 8-bit or NF4, frozen, on its device; and how many of its numbers are trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers.utils import cached_file

from llama_tasks.adapters.quantization import compute_4bit_as_trained, quantizer
from llama_tasks.errors import ModelError, RecipeError, did_you_mean
from llama_tasks.model import NativeLlamaConfig, NativeLlamaForCausalLM, load_native
from llama_tasks.model.configuration_native_llama import MODEL_TYPE
from llama_tasks.recipe import BaseConfig
from llama_tasks.tokens.tokenizer import largest_id, where_is

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        return _in_dtype(new_model(base.config, base.attn_implementation), resolve_dtype(base.dtype, device))
    dtype = resolve_dtype(base.dtype, device)
    quantization = quantizer(base, dtype)
    try:
        model = load_native(
            where_is(base.model, base.revision),
            revision=base.revision,
            dtype=dtype,
            quantization_config=quantization,
            attn_implementation=base.attn_implementation,
            device_map={"": device} if quantization or (str(device) != "cpu" and not spread) else None,
        )
    except ValueError as error:
        raise ModelError(f"Cannot load the base {base.model!r} as asked: {str(error).splitlines()[0]}") from None
    compute_4bit_as_trained(model)
    keep_only_ends(model)
    keep_commit(model, base)
    return model


def load_any(base: BaseConfig, device: torch.device | str = "cpu") -> Any:
    """Any causal language model of transformers: a LLaMA as the native model, others by their own classes.

    Raises:
        ModelError: not found, no causal language model, pickled weights, or code of its own that would have to run.
    """
    place = where_is(base.model, base.revision)
    if _config_of(base).get("model_type") in (None, "llama", MODEL_TYPE):
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
    keep_only_ends(model)
    keep_commit(model, base)
    return model.eval()


def check_tokenizer(base: BaseConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError where a text can become a token that the embedding has no row for; by the configuration, so before any
    weights are loaded."""
    rows, largest = _config_of(base).get("vocab_size"), largest_id(tokenizer)
    if isinstance(rows, int) and largest >= rows:
        raise ModelError(
            f"The tokenizer of {base.model!r} gives texts ids up to {largest}, and the model's embedding has {rows} rows; use the "
            "tokenizer that the model was trained with."
        )


def _config_of(base: BaseConfig) -> dict[str, Any]:
    """config.json of a base as it stands; empty where there is none, which loading then says."""
    try:
        found: dict[str, Any] = PreTrainedConfig.get_config_dict(
            where_is(base.model, base.revision), revision=base.revision
        )[0]
    except (OSError, ValueError):
        return {}
    return found


def keep_commit(model: Any, base: BaseConfig) -> None:
    """Whoever reads a model's files once more (vLLM) takes those of the same commit. This is transformers' own place for it, which
    it fills no longer and writes to no file."""
    model.config._commit_hash = base.revision


def keep_only_ends(model: Any) -> None:
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


def new_model(fields: dict[str, Any], attn_implementation: str = "sdpa") -> NativeLlamaForCausalLM:
    """A float32 model with random weights from LLaMA configuration fields. Raises RecipeError for an unknown one."""
    known = [f.name for f in dataclasses.fields(NativeLlamaConfig)]
    for name in fields:
        if name not in known and name != "rope_theta":
            raise RecipeError(f"base.config: unknown field {name!r}.{did_you_mean(name, known)}")
    try:
        return NativeLlamaForCausalLM(NativeLlamaConfig(**fields, attn_implementation=attn_implementation))
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise RecipeError(f"base.config: {' '.join(str(error.__cause__ or error).split())}") from None


def _in_dtype(model: NativeLlamaForCausalLM, dtype: torch.dtype) -> NativeLlamaForCausalLM:
    """The model with parameters in that precision; the frequencies of its positions stay in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def resolve_dtype(name: str, device: torch.device | str) -> torch.dtype:
    """`auto` is bfloat16 on a CUDA device that computes it, else float32 (on most CPUs, and on GPUs before Ampere, bfloat16 is
    emulated and slow)."""
    if name != "auto":
        return getattr(torch, name)
    computed = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if computed else torch.float32


def count_parameters(model: torch.nn.Module) -> Parameters:
    """Trainable and total parameters; a packed 4-bit weight counts the numbers it stands for."""
    total = trainable = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        count = (state.shape if state is not None else getattr(parameter, "ds_shape", parameter.shape)).numel()
        total += count
        trainable += count if parameter.requires_grad else 0
    return Parameters(trainable, total)
