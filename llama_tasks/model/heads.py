"""The native LLaMA with a head that classifies: whole texts, single tokens, or the ends of an answer span.

transformers' own generic heads on our body, under the parameter names its LLaMA uses, so checkpoints and adapters of
these tasks fit both. The body is built through `AutoModel`, which a `NativeLlamaConfig` has registered by then.
"""

from __future__ import annotations

from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
)

from .modeling_native_llama import NativeLlamaPreTrainedModel


class NativeLlamaForSequenceClassification(GenericForSequenceClassification, NativeLlamaPreTrainedModel):
    """Logits [B, num_labels], read at the last token of each row that is not padding."""

    # Its loss is a mean whatever `num_items_in_batch` says; a Trainer that believes otherwise scales gradients by the
    # number of accumulated batches and processes (transformers issue 47688).
    accepts_loss_kwargs = False


class NativeLlamaForTokenClassification(GenericForTokenClassification, NativeLlamaPreTrainedModel):
    """Logits [B, T, num_labels]."""

    accepts_loss_kwargs = False


class NativeLlamaForQuestionAnswering(GenericForQuestionAnswering, NativeLlamaPreTrainedModel):
    """Logits [B, T] for the first and [B, T] for the last token of the answer span."""

    base_model_prefix = "transformer"  # as in transformers' LLaMA, for the names of its parameters
    accepts_loss_kwargs = False
