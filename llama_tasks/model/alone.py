"""One text alone, token by token: its step reads every weight once and does little else, so both are made as short as they can be.

Layers that read the same input lie side by side, the other way round ([D, F_1 + F_2 + ...]): MKL spends 0.12 microseconds on
each row of a weight [F, D] beside reading it, half of the time where rows are short. A LoRA is added to them, W + s B A, so it
costs nothing. The step is the model's own without its modules: a third of the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .lora import NotOneProduct, merged
from .norm import rms_norm
from .products import is_changed, turning_is_faster

ALONE_AFTER = 8  # steps of a single text; to lay the weights out for it takes the time of about eight
OWN = f"{__package__}."  # where the modules of the architecture are from
SHORT = 1024  # numbers in a row of W; reading longer ones takes most of the time, however W is laid out

#: (number of a layer, its new key and value [1, K, 1, C]) -> all keys and values of the text so far, [1, K, S, C].
Remember = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Layer:
    """Weights and biases of one decoder layer: side by side [D, F_1 + F_2 + ...], and those that add to the stream [D, F]."""

    norm: Tensor
    qkv: tuple[Tensor, Tensor | None]
    o: tuple[Tensor, Tensor | None]
    mlp_norm: Tensor
    gate_up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]


class Alone:
    """The step of a `NativeLlamaForCausalLM` for one text, with weights of its own layout. `of` says whether there is one.

    Weights must not change while it is kept. It holds a second copy of most of them.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        self.head_dim, self.heads, self.groups = config.head_dim, config.num_attention_heads, config.num_key_value_heads
        self.scaling, self.eps = config.head_dim**-0.5, config.rms_norm_eps
        self.layers = [_read(layer) for layer in model.model.layers[: config.num_hidden_layers]]
        self.act_fn: Callable[[Tensor], Tensor] = model.model.layers[0].mlp.act_fn
        self.norm = _scale(model.model.norm)
        self.head = _side_by_side([model.lm_head])

    @staticmethod
    def gains(model: Any) -> bool:
        """Whether the usual step is slower, by what the model is and where; says nothing of its layers."""
        if not turning_is_faster() or model.dtype != torch.float32 or model.device.type != "cpu":
            return False
        return bool(model.config.hidden_size <= SHORT)

    @staticmethod
    def of(model: Any) -> Alone | None:
        """None where the usual step is as fast, or where a layer does more than multiply: quantised, hooked, other adapters."""
        if not Alone.gains(model) or _is_changed(model):
            return None
        try:
            return Alone(model)
        except NotOneProduct:
            return None

    def step(self, hidden: Tensor, cos: Tensor, signed_sin: Tensor, remember: Remember) -> Tensor:
        """Logits [1, V] behind the embedded token [1, D]; cos, sin [C] of its place."""
        turned = self.heads + self.groups
        for number, layer in enumerate(self.layers):
            rows = _times(rms_norm(hidden, layer.norm, self.eps), *layer.qkv).view(-1, self.head_dim)
            qk = rows[:turned]
            qk = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, dims=-1), signed_sin)
            k, v = remember(number, qk[None, self.heads :, None], rows[None, turned:, None])
            out = F.scaled_dot_product_attention(
                qk[None, : self.heads, None], k, v, scale=self.scaling, enable_gqa=self.heads != self.groups
            )
            hidden = _add(hidden, out.view(1, -1), *layer.o)
            gate, up = _times(rms_norm(hidden, layer.mlp_norm, self.eps), *layer.gate_up).chunk(2, dim=-1)
            hidden = _add(hidden, self.act_fn(gate) * up, *layer.down)
        return _times(rms_norm(hidden, self.norm, self.eps), *self.head)


def _is_changed(model: Any) -> bool:
    """Whether some module does not compute what the architecture says: hooked, patched, or replaced by another one."""
    if any(is_changed(module) for module in model.modules()):
        return True
    layers = list(model.model.layers)
    if not all(_is_own(layer) and _is_own(layer.self_attn) and _is_own(layer.mlp) for layer in layers):
        return True
    activations = {type(layer.mlp.act_fn) for layer in layers}
    return len(activations) > 1 or any(layer.self_attn.scaling != model.config.head_dim**-0.5 for layer in layers)


def _is_own(module: Any) -> bool:
    return type(module).__module__.startswith(OWN)


def _times(x_1D: Tensor, weight_DF: Tensor, bias: Tensor | None) -> Tensor:
    return x_1D @ weight_DF if bias is None else torch.addmm(bias, x_1D, weight_DF)


def _add(hidden_1D: Tensor, x_1F: Tensor, weight_DF: Tensor, bias: Tensor | None) -> Tensor:
    sum_D1 = torch.addmm(hidden_1D.T, weight_DF, x_1F.T)
    return sum_D1.T if bias is None else sum_D1.T + bias


def _read(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        norm=_scale(layer.input_layernorm),
        qkv=_side_by_side([attention.q_proj, attention.k_proj, attention.v_proj]),
        o=merged(attention.o_proj),
        mlp_norm=_scale(layer.post_attention_layernorm),
        gate_up=_side_by_side([mlp.gate_proj, mlp.up_proj]),
        down=merged(mlp.down_proj),
    )


def _scale(norm: Any) -> Tensor:
    if not _is_own(norm):  # an adapter on it, or another norm
        raise NotOneProduct
    weight: Tensor = norm.weight
    return weight


def _side_by_side(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor | None]:
    """The layers' weights [F_i, D] as one matrix [D, sum of F_i], and their biases as one."""
    weights, biases = zip(*map(merged, layers), strict=True)
    widths = [len(weight) for weight in weights]
    together = weights[0].new_empty(weights[0].shape[1], sum(widths))
    for weight, part in zip(weights, together.split(widths, dim=1), strict=True):
        part.copy_(weight.T)
    return together, None if biases[0] is None else torch.cat(biases)
