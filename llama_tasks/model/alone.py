"""One text alone, token by token: its step reads every weight once and does little else, so both are made as short as they can be.

Layers that read the same input lie side by side, and the step is the model's own without its modules: a third of the calls.

- float32, on the processors of `turning_is_faster`: the other way round ([D, F_1 + F_2 + ...]). MKL spends 0.12 microseconds on
  each row of a weight [F, D] beside reading it, half of the time where rows are short. A LoRA is added to them, W + s B A, so
  it costs nothing.
- bfloat16: as they are ([F_1 + F_2 + ..., D]), with a LoRA beside them, since the sum would have to be rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention_products import attend_step
from .lora import NotOneProduct, merged, read
from .norm import rms_norm
from .products import EVERYWHERE, is_changed, turning_is_faster

ALONE_AFTER = 8  # steps of a single text; to lay the weights out for it takes the time of about eight
HOLDERS = (nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.Identity)  # modules that compute nothing
OWN = f"{__package__}."  # where the modules of the architecture are from
RECORDERS = (
    "transformers.utils.output_capturing"  # whose hooks stay on a model, and do nothing where no outputs are asked for
)
SHORT = 1024  # numbers in a row of W; reading longer ones takes most of the time, however W is laid out

#: (number of a layer, its new key and value [1, K, 1, C]) -> all keys and values of the text so far, [1, K, S, C].
Remember = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


class _Turned:
    """float32 layers side by side: x W^T + b, W laid out as [D, F_1 + F_2 + ...]."""

    def __init__(self, *layers: nn.Module) -> None:
        weights, biases = zip(*map(merged, layers), strict=True)
        widths = [len(weight) for weight in weights]
        self.weight_DF = weights[0].new_empty(weights[0].shape[1], sum(widths))
        for weight, part in zip(weights, self.weight_DF.split(widths, dim=1), strict=True):
            part.copy_(weight.T)
        self.bias = None if biases[0] is None else torch.cat(biases)

    def __call__(self, x_1D: Tensor) -> Tensor:
        return x_1D @ self.weight_DF if self.bias is None else torch.addmm(self.bias, x_1D, self.weight_DF)


class _TurnedOnto:
    """A float32 layer whose output adds to the stream, with the one row turned over instead."""

    def __init__(self, layer: nn.Module) -> None:
        self.weight_DF, self.bias = merged(layer)

    def __call__(self, hidden_1D: Tensor, x_1F: Tensor) -> Tensor:
        sum_1D = torch.addmm(hidden_1D.T, self.weight_DF, x_1F.T).T
        return sum_1D if self.bias is None else sum_1D + self.bias


class _Narrow:
    """bfloat16 layers side by side, x W^T + b + (x A^T) (s B)^T: W [F_1 + F_2 + ..., D], and of all LoRAs, which stay in float32 as
    peft has them, one A [R, D] and one B, turned over, [R, F_1 + F_2 + ...], that is zero where a rank is another layer's."""

    def __init__(self, *layers: nn.Module) -> None:
        weights, biases, factors = zip(*(read(layer, torch.bfloat16) for layer in layers), strict=True)
        self.weight_FD = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.bias = None if biases[0] is None else torch.cat(biases)
        self.a_RD: Tensor | None = None
        if any(factors):
            none = [(w.new_empty(0, w.shape[1]).float(), w.new_empty(len(w), 0).float()) for w in weights]
            a, b = zip(*(found or empty for found, empty in zip(factors, none, strict=True)), strict=True)
            self.a_RD, self.b_RF = torch.cat(a), torch.block_diag(*(part.T for part in b))

    def __call__(self, x_1D: Tensor) -> Tensor:
        y_1F = F.linear(x_1D, self.weight_FD, self.bias)
        if self.a_RD is None:
            return y_1F
        return torch.addmm(y_1F.float(), F.linear(x_1D.float(), self.a_RD), self.b_RF).to(y_1F.dtype)


class _NarrowOnto:
    """A bfloat16 layer whose output adds to the stream."""

    def __init__(self, layer: nn.Module) -> None:
        self.product = _Narrow(layer)

    def __call__(self, hidden_1D: Tensor, x_1F: Tensor) -> Tensor:
        return hidden_1D + self.product(x_1F)


@dataclass(frozen=True)
class _Layer:
    """One decoder layer: the scales of its norms, its layers side by side, and those whose output adds to the stream."""

    norm: Tensor
    qkv: _Turned | _Narrow
    o: _TurnedOnto | _NarrowOnto
    mlp_norm: Tensor
    gate_up: _Turned | _Narrow
    down: _TurnedOnto | _NarrowOnto

    @classmethod
    def of(cls, layer: Any, dtype: torch.dtype) -> _Layer:
        together, onto = (_Turned, _TurnedOnto) if dtype == torch.float32 else (_Narrow, _NarrowOnto)
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            norm=_scale(layer.input_layernorm, dtype),
            qkv=together(attention.q_proj, attention.k_proj, attention.v_proj),
            o=onto(attention.o_proj),
            mlp_norm=_scale(layer.post_attention_layernorm, dtype),
            gate_up=together(mlp.gate_proj, mlp.up_proj),
            down=onto(mlp.down_proj),
        )


class _Sources:
    """What the layout was made of. Whoever stands between two steps (a logits processor, a streamer) may switch or merge adapters,
    hook modules or write weights; asked at every step, so this looks at what is quickly compared."""

    def __init__(self, model: Any) -> None:
        modules = [module for module in model.modules() if not isinstance(module, HOLDERS)]
        hooks = [*EVERYWHERE, *(h for m in modules for h in (m._forward_hooks, m._forward_pre_hooks))]
        self._free_of_hooks = [each for each in hooks if not each]
        self._hooked = [each for each in hooks if each]  # by transformers' recorders
        self._attributes = [vars(module) for module in modules]
        self._adapters = [module for module in modules if "merged_adapters" in vars(module)]
        self._weights = [
            weight for weight in model.parameters() if not weight.is_inference()
        ]  # the others cannot be written
        self._before = self._read()

    def are_as_before(self) -> bool:
        """Whether the model still computes what it did."""
        return self._read() == self._before

    def _read(self) -> tuple[Any, ...]:
        return (
            any(self._free_of_hooks),
            sum(map(len, self._hooked)),
            sum(map(len, self._attributes)),  # a patched `forward` is one more
            [(a._disable_adapters, a._active_adapter, len(a.merged_adapters)) for a in self._adapters],
            [dict(vars(a).get("scaling", ())) for a in self._adapters],
            [weight.data_ptr() for weight in self._weights],
            [weight._version for weight in self._weights],
        )


class Alone:
    """The step of a `NativeLlamaForCausalLM` for one text, with weights of its own layout. `of` says whether there is one.

    It holds a second copy of most weights, and is good for as long as `is_current`.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        self.head_dim, self.heads, self.groups = config.head_dim, config.num_attention_heads, config.num_key_value_heads
        self.scaling, self.eps = config.head_dim**-0.5, config.rms_norm_eps
        self.layers = [_Layer.of(layer, model.dtype) for layer in model.model.layers[: config.num_hidden_layers]]
        self.act_fn: Callable[[Tensor], Tensor] = model.model.layers[0].mlp.act_fn
        self.norm = _scale(model.model.norm, model.dtype)
        self.head = (_Turned if model.dtype == torch.float32 else _Narrow)(model.lm_head)
        self._sources = _Sources(model)

    def is_current(self) -> bool:
        """Whether the model's weights, adapters and hooks are what they were when this was made."""
        return self._sources.are_as_before()

    @staticmethod
    def gains(model: Any) -> bool:
        """Whether the usual step is slower, by what the model is and where; says nothing of its layers."""
        gains = model.dtype == torch.bfloat16 or (model.dtype == torch.float32 and turning_is_faster())
        return bool(gains and model.device.type == "cpu" and model.config.hidden_size <= SHORT)

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
            rows = layer.qkv(rms_norm(hidden, layer.norm, self.eps)).view(-1, self.head_dim)
            qk = rows[:turned]
            qk = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, dims=-1), signed_sin)
            k, v = remember(number, qk[None, self.heads :, None], rows[None, turned:, None])
            out = attend_step(qk[None, : self.heads, None], k, v, None, self.scaling)
            hidden = layer.o(hidden, out.view(1, -1))
            gate, up = layer.gate_up(rms_norm(hidden, layer.mlp_norm, self.eps)).chunk(2, dim=-1)
            hidden = layer.down(hidden, self.act_fn(gate) * up)
        return self.head(rms_norm(hidden, self.norm, self.eps))


def _is_changed(model: Any) -> bool:
    """Whether some module does not compute what the architecture says: hooked, patched, or replaced by another one."""
    if any(is_changed(module, besides=RECORDERS) for module in model.modules()):
        return True
    layers = list(model.model.layers)
    if not all(_is_own(layer) and _is_own(layer.self_attn) and _is_own(layer.mlp) for layer in layers):
        return True
    activations = {type(layer.mlp.act_fn) for layer in layers}
    return len(activations) > 1 or any(layer.self_attn.scaling != model.config.head_dim**-0.5 for layer in layers)


def _is_own(module: Any) -> bool:
    return type(module).__module__.startswith(OWN)


def _scale(norm: Any, dtype: torch.dtype) -> Tensor:
    if not _is_own(norm) or norm.weight.dtype != dtype:  # an adapter on it, or another norm
        raise NotOneProduct
    weight: Tensor = norm.weight
    return weight
