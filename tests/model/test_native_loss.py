"""The loss at target positions only, in chunks, is the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llama_tasks.model import loss, modeling_native_llama
from llama_tasks.model.loss import sum_of_losses


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


@pytest.mark.parametrize("hooked", [False, True])
def test_weights_count_a_target_more_or_less(pair: Any, monkeypatch: pytest.MonkeyPatch, hooked: bool) -> None:
    """Weight 2 is the loss of a target that stands there twice, weight 0 of one that does not."""
    reference, native = pair
    monkeypatch.setattr(loss, "rows_per_chunk", lambda *_: 3)
    if hooked:
        native.lm_head.register_forward_hook(lambda module, inputs, output: output)
    ids, labels = batch()
    weights = torch.tensor([1.0, 2.0, 0.0, 0.5])[torch.arange(ids.numel()) % 4].view(ids.shape)
    losses = torch.nn.functional.cross_entropy(
        reference(ids).logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none"
    )
    counted = weights[:, 1:] * (labels[:, 1:] != -100)
    expected = (losses * counted).sum() / counted.sum()
    got = native(ids, labels=labels, skip_logits=True, loss_weights=weights).loss
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    expected.backward()
    got.backward()
    torch.testing.assert_close(gradients(native), gradients(reference), atol=1e-6, rtol=1e-4)
    with pytest.raises(ValueError, match="skip_logits"):
        native(ids, labels=labels, loss_weights=weights)


class _LastLayer:
    """Rows that the last layer's MLP saw."""

    def __init__(self, model: Any) -> None:
        self.rows: list[int] = []
        model.model.layers[-1].mlp.register_forward_hook(lambda module, inputs, out: self.rows.append(out.shape[1]))


PACKED = {"cu_seq_lens_q": torch.tensor([0, 5, 9, 13, 13, 20], dtype=torch.int32)}
CONTINUED = {**PACKED, "prefix_documents": torch.tensor([-1, 0, 0, -1, 2])}


@pytest.mark.parametrize("packed", [PACKED, CONTINUED], ids=["apart", "continued"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_layer_is_computed_where_a_loss_is_read(
    make_pair: Any, monkeypatch: pytest.MonkeyPatch, packed: dict[str, Any], checkpointing: bool
) -> None:
    _, native = make_pair(num_hidden_layers=3)
    native.train()
    if checkpointing:
        native.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids, _ = batch(rows=1, length=20)
    labels = torch.full_like(ids, -100)
    at = [4, 5, 8, 9, 12, 19]  # ends of documents and beginnings of continuations among them
    labels[0, at] = ids[0, at]
    seen = _LastLayer(native)
    few = native(ids, labels=labels, skip_logits=True, use_cache=False, **packed).loss
    few.backward()
    found = gradients(native)
    assert 0 < seen.rows[0] <= len(at)
    monkeypatch.setattr(modeling_native_llama, "READS_AT_MOST", 0.0)
    whole = native(ids, labels=labels, skip_logits=True, use_cache=False, **packed).loss
    whole.backward()
    assert seen.rows[-1] == 20
    torch.testing.assert_close(few, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(found, gradients(native), atol=1e-6, rtol=1e-4)


def test_reads_give_the_hidden_states_of_those_tokens(make_pair: Any) -> None:
    reads = torch.tensor([0, 3, 6, 19])
    ids, _ = batch(rows=1, length=20)
    for attn in ("sdpa", "eager"):
        _, native = make_pair(attn=attn)
        whole = native.model(ids, use_cache=False, **CONTINUED).last_hidden_state
        few = native.model(ids, use_cache=False, reads=reads, **CONTINUED).last_hidden_state
        torch.testing.assert_close(few, whole[:, reads], atol=1e-5, rtol=0)
        with pytest.raises(ValueError, match="cu_seq_lens_q"):
            native.model(ids, reads=reads)


@pytest.mark.parametrize("what", ["shift_labels", "ignore_index", "loss_function"])
def test_other_losses_need_logits(pair: Any, what: str) -> None:
    _, native = pair
    ids, _ = batch()
    labels = ids
    options = {"shift_labels": {"shift_labels": labels}, "ignore_index": {"ignore_index": 7}}.get(what, {})
    if what == "loss_function":
        native.loss_function = lambda **_: torch.zeros(())
    native(ids, labels=labels, **options)
    with pytest.raises(ValueError, match=f"knows no .*{what}.*Leave skip_logits out"):
        native(ids, labels=labels, skip_logits=True, **options)
    if what == "loss_function":
        assert native(ids, labels=labels, skip_logits=True, objective=sum_of_losses).loss > 1


def test_the_gradient_of_many_targets_keeps_its_length() -> None:
    """A mean over 3,001 targets in bfloat16: 1/3001 rounded would make all of it longer by 0.17%."""
    head = torch.nn.Linear(32, 97, bias=False)
    hidden, targets = torch.randn(3001, 32), torch.randint(97, (3001,))

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        x = hidden.bfloat16().to(dtype).requires_grad_()
        narrow = torch.nn.Linear(32, 97, bias=False, dtype=dtype)
        narrow.weight = torch.nn.Parameter(head.weight.detach().bfloat16().to(dtype), requires_grad=False)
        (sum_of_losses(narrow, x, targets) / 3001).backward()
        return x.grad.double().flatten()

    exact, found = gradient(torch.float32), gradient(torch.bfloat16)
    assert abs(found @ exact / (exact @ exact) - 1) < 5e-4
