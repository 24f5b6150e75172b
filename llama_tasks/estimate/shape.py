"""A model as a shape: its numbers without a weight, on the meta device, and the bytes that they will take."""

from __future__ import annotations

import dataclasses

import torch

from llama_tasks import adapters
from llama_tasks.adapters.freezing import freeze
from llama_tasks.model import NativeLlamaConfig, NativeLlamaForCausalLM
from llama_tasks.model.loading import read_config
from llama_tasks.recipe import BaseConfig, Recipe

#: Bytes a weight in 4 bits takes, with its scale (a byte for 64 weights and four for 64 x 256, or four for 64).
DOUBLY_SCALED, SCALED = 0.5 + 1 / 64 + 4 / (64 * 256), 0.5 + 4 / 64


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and its adapter without weights: numbers of each kind, and the configuration."""

    config: NativeLlamaConfig
    linear: int
    """Frozen weights of linear layers, which quantisation packs; the head is not among them."""
    other: int
    """All other frozen weights."""
    trained: int
    rank: int
    head: int
    """Weights of the output layer, tied or not."""

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied by; those of LoRA are not among them."""
        return self.linear + (0 if self.rank else max(0, self.trained - self.head))

    @property
    def narrow(self) -> int:
        """Width of keys, and of values."""
        config = self.config
        channels = config.head_dim or config.hidden_size // config.num_attention_heads
        return (config.num_key_value_heads or config.num_attention_heads) * channels


def shape_of(recipe: Recipe) -> Shape:
    """The recipe's model and adapter, made on the meta device. Raises ModelError or RecipeError as a run would."""
    base = recipe.base
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # a run's own draws stay as they are
        if base.config is not None:
            model = adapters.new_model(base.config)
        else:
            model = NativeLlamaForCausalLM(
                read_config(adapters.where_is(base.model, base.revision), revision=base.revision)
            )
        # The same names and numbers as the quantised base has; how they are packed comes later.
        plain = dataclasses.replace(base, quantization="none", quantization_config=None)
        if recipe.adapter is not None:  # its start does not matter, and LoftQ's would ask for the quantised base
            model = adapters.attach(model, {**recipe.adapter, "init_lora_weights": True}, plain)
        freeze(model, recipe.train.freeze)
    frozen = {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad}
    linear = sum(count for name, count in frozen.items() if ".layers." in name and "norm" not in name)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rank = 0 if recipe.adapter is None else adapters.adapter_config(recipe.adapter).r
    config = model.config
    return Shape(config, linear, sum(frozen.values()) - linear, trained, rank, config.vocab_size * config.hidden_size)


def size_of(base: BaseConfig, device: str) -> int:
    """Bytes a number of the model's own precision."""
    if device == "cpu":
        return adapters.resolve_dtype(base.dtype, "cpu").itemsize
    return 2 if base.dtype == "auto" else getattr(torch, base.dtype).itemsize


def frozen_bytes(shape: Shape, base: BaseConfig, device: str) -> int:
    """Bytes of the frozen weights, the linear layers in as many bits as the base has."""
    size = size_of(base, device)
    return int(shape.linear * (_packed(base) or size) + shape.other * size)


def _packed(base: BaseConfig) -> float | None:
    """Bytes a weight of a quantised linear layer; None where it is not quantised."""
    settings = base.quantization_config or {}
    if base.quantization == "int8" or settings.get("load_in_8bit"):
        return 1.0
    if not base.is_quantized:
        return None
    doubly = base.quantization != "none" or settings.get("bnb_4bit_use_double_quant")
    return DOUBLY_SCALED if doubly else SCALED
