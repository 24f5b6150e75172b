"""A packed row is the same mathematics as its documents one at a time, and nothing leaks between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device

from llama_tasks.model import attention_products
from llama_tasks.model.attention_packed import Documents, PackedLayout, Rectangle, laid_out
from llama_tasks.model.caches import CACHE

LENGTHS = [5, 1, 17, 30, 2, 16, 1, 9]
BOUNDS = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
T = sum(LENGTHS)
POSITIONS = Documents.read(BOUNDS, None, T).positions()


def row(seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 97, (1, T), generator=torch.Generator().manual_seed(seed))


def flash_names(bounds: torch.Tensor = BOUNDS) -> dict[str, Any]:
    longest = int(bounds.diff().max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


def documents(ids: torch.Tensor) -> list[torch.Tensor]:
    return list(ids.split(LENGTHS, dim=1))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {key: p.grad.clone() for key, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("fields", [{}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1, "head_dim": 16}])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_packed_equals_one_document_at_a_time(make_pair: Any, attn: str, fields: dict[str, Any]) -> None:
    reference, native = make_pair(attn=attn, **fields)
    ids = row()
    alone = torch.cat([reference(part).logits for part in documents(ids)], dim=1)
    by_bounds = native(ids, **flash_names()).logits
    by_positions = native(ids, position_ids=POSITIONS, use_cache=False).logits
    torch.testing.assert_close(by_bounds, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(by_positions, alone, atol=1e-5, rtol=0)


def test_long_documents_train_under_autocast(monkeypatch: pytest.MonkeyPatch, pair: Any) -> None:
    monkeypatch.setattr(attention_products, "is_amd_without_avx512", lambda: True)
    monkeypatch.setattr(attention_products, "IN_BLOCKS", range(10, 40))
    _, native = pair
    with torch.autocast("cpu", torch.bfloat16):
        native(row(), labels=row(), skip_logits=True, **flash_names()).loss.backward()
    assert all(p.grad.isfinite().all() for p in native.parameters())


@pytest.mark.parametrize("lengths", [[128, *[100] * 19], [400], [300, 300], [700, 500, 300, 300]])
def test_what_attention_lays_out_is_known_beforehand(lengths: list[int]) -> None:
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    layout = PackedLayout.build(Documents.read(bounds, None, sum(lengths)), torch.device("cpu"))
    expected = [rectangle.length for rectangle in layout.rectangles for _ in range(rectangle.documents)]
    assert sorted(laid_out(torch.tensor(lengths)).tolist()) == sorted(expected)
    assert layout.as_packed == (len(set(lengths)) == 1)


@pytest.mark.parametrize("count", [1, 3])
def test_documents_that_need_no_layout_learn_alike(pair: Any, count: int) -> None:
    reference, native = pair
    bounds = torch.arange(count + 1, dtype=torch.int32) * (T // count)
    ids = row()[:, : int(bounds[-1])]
    reference(ids.view(count, -1), labels=ids.view(count, -1)).loss.backward()
    expected = gradients(reference)
    native(ids, labels=ids, skip_logits=True, **flash_names(bounds)).loss.backward()
    torch.testing.assert_close(gradients(native), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("by_blocks", [False, True])
@pytest.mark.parametrize("skip_logits", [False, True])
def test_loss_and_gradients_equal_one_document_at_a_time(
    monkeypatch: pytest.MonkeyPatch, pair: Any, skip_logits: bool, by_blocks: bool
) -> None:
    monkeypatch.setattr(attention_products, "is_amd_without_avx512", lambda: by_blocks)
    monkeypatch.setattr(attention_products, "IN_BLOCKS", range(10, 40))
    monkeypatch.setattr(attention_products, "BLOCK", 4)
    reference, native = pair
    ids = row()
    count = sum(length - 1 for length in LENGTHS)
    total = sum(reference(part, labels=part, num_items_in_batch=count).loss for part in documents(ids))
    total.backward()
    expected = gradients(reference)
    got = native(ids, labels=ids, num_items_in_batch=count, skip_logits=skip_logits, **flash_names()).loss
    got.backward()
    torch.testing.assert_close(got, total, atol=1e-6, rtol=0)
    torch.testing.assert_close(gradients(native), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("how", ["bounds", "positions", "positions, cache by default"])
@pytest.mark.parametrize("changed", [0, 3, 6])
def test_a_document_does_not_move_another_by_a_bit(make_pair: Any, changed: int, how: str, attn: str) -> None:
    _, native = make_pair(attn=attn)
    options: dict[str, Any] = flash_names()
    if how != "bounds":
        options = {"position_ids": POSITIONS}
        if how == "positions":
            options["use_cache"] = False
    before, other = row(), row(seed=1)
    after = before.clone()
    start, end = int(BOUNDS[changed]), int(BOUNDS[changed + 1])
    after[:, start:end] = (before[:, start:end] + 1 + other[:, start:end]) % 94 + 3
    left, right = native(before, **options).logits, native(after, **options).logits
    same = torch.ones(T, dtype=torch.bool)
    same[start:end] = False
    assert torch.equal(left[:, same], right[:, same])
    assert not torch.equal(left[:, ~same], right[:, ~same])


def test_damage_stays_in_its_document(pair: Any) -> None:
    """Not even through the padding of the rectangles: 0 * nan would be nan."""
    _, native = pair
    embeds = native.get_input_embeddings()(row()).detach()
    embeds[:, BOUNDS[2] : BOUNDS[3]] = float("nan")
    logits = native(inputs_embeds=embeds, **flash_names()).logits
    broken = logits.isnan().any(-1)[0]
    assert broken[BOUNDS[2] : BOUNDS[3]].all()
    assert int(broken.sum()) == LENGTHS[2]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(pair: Any, use_reentrant: bool) -> None:
    _, native = pair
    native.train()
    native.enable_input_require_grads()
    ids = row()
    native(ids, labels=ids, skip_logits=True, **flash_names()).loss.backward()
    expected = gradients(native)
    native.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    native(ids, labels=ids, skip_logits=True, **flash_names()).loss.backward()
    torch.testing.assert_close(gradients(native), expected)


def test_own_positions_do_not_join_documents(make_pair: Any) -> None:
    """Positions may run on (a document that continues elsewhere): the boundaries alone decide who sees whom."""
    ids, running = row(), torch.arange(T)[None]
    for attn in ("sdpa", "eager"):
        _, native = make_pair(attn=attn)
        alone = [
            native(part, position_ids=positions).logits
            for part, positions in zip(documents(ids), documents(running), strict=True)
        ]
        got = native(ids, position_ids=running, attention_mask=torch.ones_like(ids), **flash_names()).logits
        torch.testing.assert_close(got, torch.cat(alone, dim=1), atol=1e-5, rtol=0)


def test_a_packed_row_takes_no_cache(pair: Any) -> None:
    from transformers import DynamicCache

    _, native = pair
    assert getattr(native(row(), **flash_names()), CACHE) is None
    with pytest.raises(ValueError, match=f"take no {CACHE}"):
        native(row(), **{CACHE: DynamicCache(config=native.config)}, **flash_names())
    with pytest.raises(ValueError, match="one row"):
        native(row().expand(2, -1), **flash_names())


def test_documents_are_causal(make_pair: Any) -> None:
    for attn in ("sdpa", "eager"):
        with pytest.raises(ValueError, match="are causal"):
            make_pair(attn=attn)[1](row(), is_causal=False, **flash_names())


@pytest.mark.parametrize("prefixes", [None, torch.tensor([-1, 0, 0, -1, 3, 3, -1, -1])])
def test_a_layout_goes_where_the_layer_is(prefixes: torch.Tensor | None) -> None:
    """By accelerate's hooks too, which move the arguments of a layer that lies on another device."""
    layout = PackedLayout.build(Documents.read(BOUNDS, prefixes, T), torch.device("cpu"))
    for moved in (layout.to("meta"), send_to_device(layout, "meta")):
        indices = [moved.query_of_slot_P, moved.slot_of_query_R]
        for rectangle in moved.rectangles:
            indices += [x for x in (rectangle.key_tokens, rectangle.mask) if x is not None]
        assert len(indices) == 2 + (0 if prefixes is None else 2 * len(moved.rectangles))
        assert {x.device.type for x in indices} == {"meta"}
    assert layout.to("cpu") is layout


def test_heads_that_share_keys_are_the_same_without_grouping() -> None:
    """What is computed on a GPU where there is a mask."""
    q, k, v = (torch.randn(3, n, heads, 8) for n, heads in ((5, 6), (9, 2), (9, 2)))
    mask = torch.rand(3, 1, 5, 9) < 0.7
    mask[..., 0] = True
    expected = attention_products.causal_attention(q, k, v, mask, 0.3, 0.0)
    k_own, v_own = (attention_products.each_query_its_own(x, 6) for x in (k, v))
    torch.testing.assert_close(attention_products.causal_attention(q, k_own, v_own, mask, 0.3, 0.0), expected)
    q, k, v, mask = q[:, :1].transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask[:, :, :1]
    for seen in (mask, None):
        found = attention_products.of_shared_keys(q, k, v, seen, 0.3)
        torch.testing.assert_close(found, attention_products.attend_step(q, k, v, seen, 0.3))


def test_layout_is_the_picture_of_its_docstring() -> None:
    layout = PackedLayout.build(Documents.read(torch.tensor([0, 3, 4, 8, 9]), None, 9), torch.device("cpu"))
    assert layout.rectangles == (Rectangle(2, 1), Rectangle(2, 4))
    assert layout.query_of_slot_P.tolist() == [3, 8, 0, 1, 2, 2, 4, 5, 6, 7]
    assert layout.slot_of_query_R.tolist() == [2, 3, 4, 0, 6, 7, 8, 9, 1]


def test_empty_documents_are_passed_over(pair: Any) -> None:
    _, native = pair
    ids = row()
    with_empty = torch.cat((BOUNDS[:1], BOUNDS[:3], BOUNDS[2:], BOUNDS[-1:]))
    expected = native(ids, labels=ids, **flash_names())
    got = native(ids, labels=ids, **flash_names(with_empty))
    assert torch.equal(got.logits, expected.logits)
    assert torch.equal(got.loss, expected.loss)


@pytest.mark.parametrize("bounds", [[0, 5], [1, T], [0, 9, 4, T], [0, T + 1]])
def test_boundaries_must_cover_the_row(pair: Any, bounds: list[int]) -> None:
    _, native = pair
    with pytest.raises(ValueError, match="cu_seq_lens must rise from 0"):
        native(row(), cu_seq_lens_q=torch.tensor(bounds, dtype=torch.int32), position_ids=torch.arange(T)[None])


# --- shared prefixes -----------------------------------------------------------------------------------------------

# Documents 1, 2 and 4 continue 0; 3 stands alone; 5 and 6 continue 4, which continues 0; 7 continues 3.
PREFIXES = torch.tensor([-1, 0, 0, -1, 0, 4, 4, 3])


def chain(document: int) -> list[int]:
    before = int(PREFIXES[document])
    return [*(chain(before) if before >= 0 else []), document]


def whole_text(ids: torch.Tensor, document: int) -> torch.Tensor:
    parts = documents(ids)
    return torch.cat([parts[i] for i in chain(document)], dim=1)


def shared_names() -> dict[str, Any]:
    return {**flash_names(), "prefix_documents": PREFIXES}


@pytest.mark.parametrize("fields", [{}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1, "head_dim": 16}])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_a_shared_prefix_gives_the_logits_of_whole_texts(make_pair: Any, attn: str, fields: dict[str, Any]) -> None:
    reference, native = make_pair(attn=attn, **fields)
    ids = row()
    got = native(ids, **shared_names()).logits.split(LENGTHS, dim=1)
    for document, length in enumerate(LENGTHS):
        expected = reference(whole_text(ids, document)).logits[:, -length:]
        torch.testing.assert_close(got[document], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_a_shared_prefix_gives_the_loss_and_gradients_of_whole_texts(make_pair: Any, attn: str) -> None:
    """Every token is a target, also the first ones of continuations, which the prefix's last token predicts."""
    reference, native = make_pair(attn=attn)
    ids = row()
    count, total = 0, torch.zeros(())
    for document, length in enumerate(LENGTHS):
        text = whole_text(ids, document)
        labels = text.clone()
        labels[:, :-length] = -100
        targets = int((labels[:, 1:] != -100).sum())
        if targets:
            total = total + reference(text, labels=labels).loss * targets
            count += targets
    (total / count).backward()
    expected = gradients(reference)
    loss = native(ids, labels=ids, num_items_in_batch=count, **shared_names()).loss
    loss.backward()
    torch.testing.assert_close(loss, total / count, atol=1e-6, rtol=0)
    torch.testing.assert_close(gradients(native), expected, atol=1e-6, rtol=1e-4)


def test_siblings_never_see_each_other(pair: Any) -> None:
    _, native = pair
    before, after = row(), row()
    after[:, BOUNDS[1] : BOUNDS[2]] = 7
    left, right = native(before, **shared_names()).logits, native(after, **shared_names()).logits
    same = torch.ones(T, dtype=torch.bool)
    same[BOUNDS[1] : BOUNDS[2]] = False
    assert torch.equal(left[:, same], right[:, same])


@pytest.mark.parametrize("prefixes", [[0] * 8, [-1, 2, *[-1] * 6], [-2, *[-1] * 7], [-1]])
def test_a_prefix_must_stand_before(pair: Any, prefixes: list[int]) -> None:
    _, native = pair
    with pytest.raises(ValueError, match="prefix_documents must name"):
        native(row(), prefix_documents=torch.tensor(prefixes), **flash_names())
