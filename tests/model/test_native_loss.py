"""The loss at target positions only, in chunks, is the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llama_tasks.model import loss


def batch(rows: int = 2, length: int = 13) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 97, (rows, length), generator=generator)
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.5, -100)
    return ids, labels


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {key: p.grad.clone() for key, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("count", [None, 50, torch.tensor(50)])
def test_targets_only_equals_all_logits(
    make_pair: Any, monkeypatch: pytest.MonkeyPatch, tied: bool, chunk: int, count: Any
) -> None:
    reference, native = make_pair(tie_word_embeddings=tied)
    monkeypatch.setattr(loss, "rows_per_chunk", lambda *_: chunk)
    ids, labels = batch()
    expected = reference(ids, labels=labels, num_items_in_batch=count).loss
    got = native(ids, labels=labels, num_items_in_batch=count, skip_logits=True)
    assert got.logits is None
    torch.testing.assert_close(got.loss, expected, atol=1e-6, rtol=0)
    expected.backward()
    got.loss.backward()
    torch.testing.assert_close(gradients(native), gradients(reference), atol=1e-6, rtol=1e-4)


class _Widest(TorchDispatchMode):
    """Rows of the largest table of logits that any operation made."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # [32, 97] is the head's weight, turned over.
        if isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] == 97 and out.shape[0] != 32:
            self.rows = max(self.rows, out.shape[0])
        return out


@pytest.mark.parametrize("hooked", [False, True])
def test_chunks_never_hold_all_logits(pair: Any, monkeypatch: pytest.MonkeyPatch, hooked: bool) -> None:
    """The head sees at most three positions at a time, also in the backward pass, and also where its call is hooked."""
    _, native = pair
    monkeypatch.setattr(loss, "rows_per_chunk", lambda *_: 3)
    calls: list[int] = []
    if hooked:
        native.lm_head.register_forward_hook(lambda module, inputs, output: calls.append(output.shape[0]))
    ids, labels = batch()
    native.get_input_embeddings().requires_grad_(False)
    native.lm_head.requires_grad_(False)  # its gradient has as many columns as a chunk of logits
    with _Widest() as widest:
        native(ids, labels=labels, skip_logits=True).loss.backward()
    assert widest.rows == 3
    assert sum(calls) == (2 * int((labels[:, 1:] != -100).sum()) if hooked else 0)


@pytest.mark.parametrize("count", [None, 0, 7])
def test_without_targets_the_loss_is_zero_and_differentiable(pair: Any, count: int | None) -> None:
    _, native = pair
    ids, _ = batch()
    loss = native(ids, labels=torch.full_like(ids, -100), skip_logits=True, num_items_in_batch=count).loss
    assert loss.item() == 0.0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in native.parameters())


def test_without_labels_skip_logits_has_no_effect(pair: Any) -> None:
    _, native = pair
    ids, _ = batch()
    assert torch.equal(native(ids, skip_logits=True).logits, native(ids).logits)


@pytest.mark.parametrize("skip_logits", [False, True])
def test_no_document_predicts_the_first_token_of_the_next(pair: Any, skip_logits: bool) -> None:
    _, native = pair
    ids, _ = batch(rows=1)
    bounds = torch.tensor([0, 4, 9, 13], dtype=torch.int32)
    safe = ids.clone()
    safe[:, [0, 4, 9]] = -100
    options = {"cu_seq_lens_q": bounds, "skip_logits": skip_logits}
    assert torch.equal(native(ids, labels=ids, **options).loss, native(ids, labels=safe, **options).loss)


def test_cross_entropy_is_float32_under_a_bfloat16_model(pair: Any) -> None:
    _, native = pair
    native.to(torch.bfloat16)
    ids, labels = batch()
    expected = native(ids, labels=labels).loss
    got = native(ids, labels=labels, skip_logits=True).loss
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
