"""What trainers rely on: the same numbers as transformers' LLaMA under autocast, accumulation and checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

IDS = torch.randint(3, 97, (4, 11), generator=torch.Generator().manual_seed(0))
LABELS = IDS.masked_fill(torch.rand(IDS.shape, generator=torch.Generator().manual_seed(1)) < 0.4, -100)
MASK = torch.ones_like(IDS)
MASK[1, :4] = 0
MASK[2, 8:] = 0


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {key: p.grad.clone() for key, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("skip_logits", [False, True])
def test_autocast(pair: Any, dtype: torch.dtype, skip_logits: bool) -> None:
    """Weights and gradients stay float32, products are taken in 16 bits: as near to float32 as transformers' are."""
    reference, native = (model.train() for model in pair)
    native(IDS, attention_mask=MASK, labels=LABELS).loss.backward()
    exact = gradients(native)
    losses, errors = [], []
    for model, options in ((reference, {}), (native, {"skip_logits": skip_logits})):
        with torch.autocast("cpu", dtype):
            loss = model(IDS, attention_mask=MASK, labels=LABELS, use_cache=False, **options).loss
        loss.backward()
        found = gradients(model)
        assert loss.dtype == torch.float32 and {g.dtype for g in found.values()} == {torch.float32}
        losses.append(loss.detach())
        errors.append(max(float((found[key] - exact[key]).norm() / exact[key].norm()) for key in exact))
    torch.testing.assert_close(losses[1], losses[0], atol=2e-3, rtol=0)
    assert 0 < errors[1] < 1.2 * errors[0]


@pytest.mark.parametrize("skip_logits", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_accumulated_batches_are_one_batch(pair: Any, skip_logits: bool, as_tensor: bool) -> None:
    """Rows carry different numbers of targets; `num_items_in_batch` weighs them as one batch would."""
    reference, native = pair
    whole = reference(IDS, labels=LABELS).loss
    whole.backward()
    count: Any = int((LABELS[:, 1:] != -100).sum())
    count = torch.tensor(count) if as_tensor else count
    total = torch.zeros(())
    for ids, labels in zip(IDS.split(1), LABELS.split(1), strict=True):
        loss = native(ids, labels=labels, num_items_in_batch=count, skip_logits=skip_logits).loss
        loss.backward()
        total += loss.detach()
    torch.testing.assert_close(total, whole.detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(gradients(native), gradients(reference), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_is_that_of_transformers(make_pair: Any, attn: str, use_reentrant: bool) -> None:
    found = []
    for model in make_pair(attn=attn):
        model.train().activation_checkpointing_enable({"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
        assert model.is_activation_checkpointing
        loss = model(IDS, attention_mask=MASK, labels=LABELS).loss
        loss.backward()
        found.append({"loss": loss.detach(), **gradients(model)})
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]])}])
def test_what_the_layers_saw(make_pair: Any, options: dict[str, Any]) -> None:
    """Hidden states and attentions, recorded by the same hooks, of padded and of packed rows."""
    wanted = {"output_hidden_states": True, "output_attentions": True, "use_cache": False, **options}
    mask = {} if options else {"attention_mask": MASK}
    theirs, ours = (model(IDS, **mask, **wanted) for model in make_pair(attn="eager"))
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 3
    assert len(ours.attentions) == len(theirs.attentions) == 2
    torch.testing.assert_close(ours.hidden_states, theirs.hidden_states, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.attentions, theirs.attentions, atol=1e-5, rtol=0)
    states = make_pair(attn="sdpa")[1](IDS, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(4, 11, 32)] * 3
