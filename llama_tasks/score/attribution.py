"""Which tokens an output rests on: input x gradient, and attention rollout.

    attribution[t, i]      output token t, input token i (prompt, and the output tokens before t); 0 for later ones

Both look at one forward pass of prompt and output together. Neither is a proof of a cause: gradients speak of small changes,
attention of where was looked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def input_x_gradient(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Input x gradient (Shrikumar et al. 2016; the gradient: Simonyan et al. 2013): [N, T] of N outputs.

    Args:
        function: embeddings [1, T, D] -> the N numbers to explain.
        inputs: embeddings [1, T, D].

    Of a linear function without constant the row of an output adds up to its value.
    """
    inputs = inputs.detach().requires_grad_()
    with torch.enable_grad():
        outputs = function(inputs)
        rows = []
        for place, output in enumerate(outputs):
            (gradient,) = torch.autograd.grad(output, inputs, retain_graph=place + 1 < len(outputs))
            rows.append((gradient * inputs).detach().float().sum(-1)[0])
    return torch.stack(rows).cpu()


def attention_rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020): [T, T], row i says what token i draws from tokens j <= i; rows add up to 1.

    Heads are averaged, half of each layer is the token itself (the residual stream), and the layers are multiplied.

    Args:
        attentions: weights [1, H, T, T] of each layer, from the first.
    """
    size = attentions[0].shape[-1]
    rollout = torch.eye(size)
    for weights in attentions:
        mean = weights[0].detach().float().mean(0).cpu()
        rollout = (0.5 * mean / mean.sum(-1, keepdim=True) + 0.5 * torch.eye(size)) @ rollout
    return rollout


def explain(model: Any, ids: Sequence[int], prompt_length: int) -> dict[str, Tensor]:
    """`input_x_gradient` of each output token's logit, and `attention_rollout` to the place that predicted it: [N, T] each.

    Args:
        ids: prompt and output, T tokens; the output is the last N = T - prompt_length.
    """
    tokens = torch.tensor([list(ids)], device=model.device)
    predicted_by = torch.arange(prompt_length - 1, len(ids) - 1, device=model.device)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(tokens)

    def logits_of_outputs(inputs: Tensor) -> Tensor:
        logits = model(inputs_embeds=inputs, use_cache=False).logits[0, predicted_by].float()
        return logits.gather(-1, tokens[0, prompt_length:, None])[:, 0]

    with _settled(model):
        gradients = input_x_gradient(logits_of_outputs, embeddings)
        with torch.no_grad():
            attentions = model(input_ids=tokens, use_cache=False, output_attentions=True).attentions
    return {
        "input_x_gradient": gradients,
        "attention_rollout": attention_rollout(attentions)[predicted_by.cpu()],
    }


@contextmanager
def _settled(model: Any) -> Iterator[None]:
    """In evaluation mode, with attention written out: the fast implementations give no weights."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    before, was_training = inner.config._attn_implementation, model.training
    model.eval()
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(before)
        model.train(was_training)
