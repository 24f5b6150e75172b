"""LLaMA, whole: the model, its attention and its loss, read from top to bottom.

The architecture is that of "LLaMA: Open and Efficient Foundation Language Models" (Touvron et al., 2023), with grouped
queries (Ainslie et al., 2023) and every rotary variant transformers knows. Parameters carry Hugging Face's names, so
any `llama` checkpoint loads without a converter and an adapter trained here fits the original model. Caches,
generation, saving, quantization and parallelism come from transformers through the contracts of its `PreTrainedModel`.

Shapes, as suffixes of names:
    B rows of the batch   T tokens of a row      D hidden size   F width of the MLP   V vocabulary
    H query heads         K key/value heads      C channels of a head
    S keys seen (cached ones and T)              N positions that carry a target
    R tokens whose output is read (R = T but in the last layer of training)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention_packed import Documents, PackedLayout, packed_attention, see_documents
from .caches import CACHE, is_paged, remember, takes_cache
from .configuration_native_llama import NativeLlamaConfig
from .decoding import Slots
from .generation import NativeGenerationMixin
from .lora import project
from .loss import Targets, refuse_other_losses, sum_of_losses, without_document_starts
from .norm import rms_norm
from .products import is_changed, linear
from .rotary import NativeLlamaRotaryEmbedding, rotate

SILU = (nn.SiLU, type(ACT2FN["silu"]))
READS_AT_MOST = 0.75  # of a packed row's tokens; beyond, a last layer of its own layout saves nothing


class NativeLlamaRMSNorm(nn.Module):
    """Scale to unit root mean square (Zhang and Sennrich, 2019), computed in float32."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.variance_epsilon}"


def eager_attention(
    module: NativeLlamaAttention,
    q_BHTC: Tensor,
    k_BKSC: Tensor,
    v_BKSC: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, with its weights: output [B, T, H, C] and weights [B, H, T, S]."""
    groups = module.num_key_value_groups
    k_BHSC, v_BHSC = k_BKSC.repeat_interleave(groups, dim=1), v_BKSC.repeat_interleave(groups, dim=1)
    scores_BHTS = q_BHTC @ k_BHSC.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores_BHTS = scores_BHTS + attention_mask
    weights_BHTS = scores_BHTS.softmax(dim=-1, dtype=torch.float32).to(q_BHTC.dtype)
    weights_BHTS = F.dropout(weights_BHTS, p=dropout, training=module.training)
    return (weights_BHTS @ v_BHSC).transpose(1, 2), weights_BHTS


class NativeLlamaAttention(nn.Module):
    """Causal self-attention in which groups of query heads share a key/value head."""

    def __init__(self, config: NativeLlamaConfig, layer_idx: int) -> None:
        super().__init__()
        assert config.head_dim is not None  # both filled in by the configuration
        assert config.num_key_value_heads is not None
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_dropout or 0.0
        self.is_causal = True
        query_width, key_width = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_width, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=config.attention_bias)

    @takes_cache
    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        packed_layout: PackedLayout | None = None,
        reads: Tensor | None = None,
        slots: Slots | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Output [B, T, D], and the weights [B, H, T, S] where the implementation gives them.

        Of a packed row, `reads` [R] names the tokens whose output is wanted, as `packed_layout` has them; it is [1, R, D].
        `slots` is the memory of `decoding`: a packed row is written there, a row of single tokens attends to it.
        """
        heads = (-1, self.head_dim)
        if reads is None:
            q_BTX, k_BTX, v_BTX = project(hidden_states, self.q_proj, self.k_proj, self.v_proj)
            q_BTHC = rotate(q_BTX.unflatten(-1, heads), *position_embeddings)
        else:
            (q_BTX,) = project(hidden_states.index_select(1, reads), self.q_proj)
            k_BTX, v_BTX = project(hidden_states, self.k_proj, self.v_proj)
            q_BTHC = rotate(q_BTX.unflatten(-1, heads), *(x.index_select(1, reads) for x in position_embeddings))
        k_BTKC = rotate(k_BTX.unflatten(-1, heads), *position_embeddings)
        v_BTKC = v_BTX.unflatten(-1, heads)
        dropout = self.attention_dropout if self.training else 0.0

        weights = None
        if slots is not None:
            slots.write(self.layer_idx, k_BTKC, v_BTKC)
        if packed_layout is not None:
            out_BTHC = packed_attention(q_BTHC, k_BTKC, v_BTKC, packed_layout, scaling=self.scaling, dropout=dropout)
        elif slots is not None:
            out_BTHC = slots.attend(self.layer_idx, q_BTHC, self.scaling)
        else:
            q_BHTC, k_BKSC, v_BKSC = q_BTHC.transpose(1, 2), k_BTKC.transpose(1, 2), v_BTKC.transpose(1, 2)
            k_BKSC, v_BKSC = remember(cache, k_BKSC, v_BKSC, self.layer_idx, attend_with=kwargs)
            attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation, eager_attention
            )
            out_BTHC, weights = attend(
                self, q_BHTC, k_BKSC, v_BKSC, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs
            )
        (out_BTD,) = project(out_BTHC.flatten(2), self.o_proj)
        return out_BTD, weights


class NativeLlamaMLP(nn.Module):
    """SwiGLU (Shazeer, 2020): a gate and a value of width F, multiplied, and back to D."""

    def __init__(self, config: NativeLlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        gate_BTF, value_BTF = project(x, self.gate_proj, self.up_proj)
        if type(self.act_fn) in SILU and not is_changed(self.act_fn):
            (out_BTD,) = project(value_BTF, self.down_proj, gate=gate_BTF)
        else:
            (out_BTD,) = project(self.act_fn(gate_BTF) * value_BTF, self.down_proj)
        return out_BTD


class NativeLlamaDecoderLayer(GradientCheckpointingLayer):
    """Attention, then the MLP; each reads a normalised copy of the stream and adds to it."""

    def __init__(self, config: NativeLlamaConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = NativeLlamaAttention(config, layer_idx)
        self.mlp = NativeLlamaMLP(config)
        self.input_layernorm = NativeLlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = NativeLlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    @takes_cache
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        reads: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """[B, T, D] to [B, T, D], or to [1, R, D] where only `reads` [R] are wanted; all but the first are the attention's."""
        attended_BTD, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **{CACHE: cache},
            **({} if reads is None else {"reads": reads}),
            **kwargs,
        )
        hidden_states = (hidden_states if reads is None else hidden_states.index_select(1, reads)) + attended_BTD
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class NativeLlamaPreTrainedModel(PreTrainedModel):
    """What transformers asks of every class of the family."""

    config_class = NativeLlamaConfig
    config: NativeLlamaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["NativeLlamaDecoderLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = [CACHE]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs: ClassVar[dict[str, type[nn.Module]]] = {
        "hidden_states": NativeLlamaDecoderLayer,
        "attentions": NativeLlamaAttention,
    }


class NativeLlamaModel(NativeLlamaPreTrainedModel):
    """Token ids to hidden states."""

    def __init__(self, config: NativeLlamaConfig) -> None:
        super().__init__(config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(self.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(NativeLlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = NativeLlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = NativeLlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @takes_cache
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: Tensor | None = None,
        prefix_documents: Tensor | None = None,
        reads: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, T, D] of `input_ids` [B, T] or `inputs_embeds` [B, T, D].

        A packed row [1, T] names its documents by `cu_seq_lens_q` int [n_docs + 1], or by `position_ids` that restart
        (without `attention_mask`). Its documents never see each other. With `cu_seq_lens_q` there is no cache, and
        `attention_mask` is not read; `prefix_documents` int [n_docs] may then name for each document an earlier one
        that it continues (or -1), so that a text which several others begin with is computed once. `reads` int [R],
        rising, names the tokens whose hidden states are wanted: [1, R, D]; the last layer computes only those.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        # Continuous batching (`generate_batch`) names boundaries too, of what its paged cache adds; the mask is its own.
        paged = is_paged(cache)
        if cu_seq_lens_q is not None and not paged:
            if cache is not None or inputs_embeds.shape[0] != 1:
                raise ValueError(f"Packed documents (cu_seq_lens_q) come as one row [1, T] and take no {CACHE}.")
            if kwargs.get("is_causal") is False:
                raise ValueError(
                    "Packed documents (cu_seq_lens_q) are causal; with is_causal=False give each its own row."
                )
            attention_mask, use_cache = None, False
            documents = Documents.read(cu_seq_lens_q, prefix_documents, inputs_embeds.shape[1])
            position_ids, attention = see_documents(self.config, inputs_embeds, position_ids, cu_seq_lens_q, documents)
        else:
            if prefix_documents is not None or reads is not None:
                raise ValueError("prefix_documents and reads speak of the documents of cu_seq_lens_q; give that too.")
            given = position_ids
            if position_ids is None:
                seen = cache.get_seq_length() if cache is not None else 0
                position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen)[None]
            # Before a cache is made: with one, transformers no longer looks for documents in the positions.
            attention = {"attention_mask": attention_mask, "cu_seq_lens_q": cu_seq_lens_q}
            if not paged:
                mask = create_causal_mask(self.config, inputs_embeds, attention_mask, cache, given)
                attention = {"attention_mask": mask}
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)

        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids=position_ids)
        layers = self.layers[: self.config.num_hidden_layers]
        for layer in layers:
            if reads is not None and layer is layers[-1] and "packed_layout" in attention:
                layout = PackedLayout.build(documents, inputs_embeds.device, reads)
                attention = {"packed_layout": layout, "reads": reads}
            hidden_states = layer(
                hidden_states,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                use_cache=use_cache,
                **{CACHE: cache},
                **{**kwargs, **attention},
            )
        if reads is not None and "reads" not in attention:  # the attention at hand knows no reads
            hidden_states = hidden_states.index_select(1, reads)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE: cache})


class NativeLlamaForCausalLM(NativeLlamaPreTrainedModel, NativeGenerationMixin):
    """The language model: hidden states to logits over the vocabulary, and the loss."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan: ClassVar[dict[str, str]] = {"lm_head": "colwise_gather_output"}
    _pp_plan: ClassVar[dict[str, Any]] = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan: ClassVar[dict[str, str]] = {"lm_head": "keep_full_weight"}

    def __init__(self, config: NativeLlamaConfig) -> None:
        super().__init__(config)
        self.model = NativeLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @takes_cache
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool = False,
        loss_weights: Tensor | None = None,
        objective: Callable[..., Tensor] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V], and with `labels` [B, T] the loss.

        Labels stand at their own tokens and are shifted here; -100 carries no loss. The loss is the sum over targets
        divided by `num_items_in_batch`, or their mean when that is not given. With `labels` and `skip_logits` (or
        `prefix_documents`) the head runs only where there is a target, a chunk at a time, and `logits` is None; then
        `loss_weights` float [B, T] may weigh the targets (their sum takes the place of the number of targets), and
        `objective` may take the place of `sum_of_losses`, with the arguments of that.
        """
        others = {**kwargs, "inputs_embeds": inputs_embeds, "labels": labels}
        logits = self.short_step(input_ids, attention_mask, position_ids, cache, others)
        if logits is not None:
            return CausalLMOutputWithPast(logits=logits, **{CACHE: cache})
        packed = kwargs.get("cu_seq_lens_q"), kwargs.get("prefix_documents")
        targets = places = None
        if labels is not None and (skip_logits or packed[1] is not None):
            refuse_other_losses(self, objective, kwargs)
            targets = Targets.read(labels, *packed, weights=loss_weights)
            places = targets.places
        elif loss_weights is not None:
            raise ValueError("loss_weights need skip_logits=True: only then is the loss computed here.")
        elif packed[0] is not None and labels is None and not is_paged(cache):
            places = index_of(logits_to_keep)
        if places is not None and self._reads_few(places, packed[0], kwargs):
            kwargs["reads"], places = places.unique(return_inverse=True)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{CACHE: cache},
            **kwargs,
        )
        hidden_states, loss = outputs.last_hidden_state, None
        if places is not None:
            hidden_ND = hidden_states.flatten(0, 1).index_select(0, places)
        if targets is not None:
            total = (objective or sum_of_losses)(self.lm_head, hidden_ND, targets.ids, targets.weights)
            count = kwargs.get("num_items_in_batch")
            count = torch.as_tensor(targets.total if count is None else count, device=total.device)
            loss = total / (count if loss_weights is not None else count.clamp(min=1))
        elif places is not None:
            logits = self.project_to_vocabulary(hidden_ND[None])
        else:
            logits = self.project_to_vocabulary(kept(hidden_states, logits_to_keep))
            if labels is not None:
                labels = without_document_starts(labels, packed[0])
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: getattr(outputs, CACHE)},
        )

    def project_to_vocabulary(self, hidden_BTD: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        return linear(hidden_BTD, self.lm_head).contiguous()

    def _reads_few(self, places: Tensor, cu_seq_lens: Tensor | None, kwargs: dict[str, Any]) -> bool:
        """Whether the last layer need not be computed whole: a packed row, few of its tokens read, and none recorded."""
        if cu_seq_lens is None or kwargs.get("output_hidden_states", self.config.output_hidden_states):
            return False
        return 0 < len(places) <= READS_AT_MOST * int(cu_seq_lens[-1])


def index_of(logits_to_keep: Any) -> Tensor | None:
    """The positions of all rows that it names [N], counted from the beginning; None where it says it in another way."""
    if not isinstance(logits_to_keep, Tensor) or logits_to_keep.ndim != 1 or logits_to_keep.dtype == torch.bool:
        return None
    return logits_to_keep if len(logits_to_keep) > 0 and bool((logits_to_keep >= 0).all()) else None


def kept(hidden_BTD: Tensor, logits_to_keep: Any) -> Tensor:
    """The positions whose logits are asked for, in transformers' words: the last n of each row (0: all), an index [N] or slice for
    all rows, an index [B, N] or a mask [B, T] of each row's own (the mask's positions end to end)."""
    if isinstance(logits_to_keep, Tensor) and logits_to_keep.ndim == 2:
        if logits_to_keep.dtype == torch.bool:
            return hidden_BTD[logits_to_keep]
        return hidden_BTD.take_along_dim(logits_to_keep[..., None], dim=1)
    if isinstance(logits_to_keep, int):
        return hidden_BTD[:, -logits_to_keep:]
    return hidden_BTD[:, logits_to_keep, :]
