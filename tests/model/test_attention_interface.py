"""Attention comes from transformers' AttentionInterface: what somebody registers there is what the model computes with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

LENGTHS = [4, 7, 1, 6]
BOUNDS = torch.tensor([0, 4, 11, 12, 18], dtype=torch.int32)
POSITIONS = torch.cat([torch.arange(n) for n in LENGTHS])[None]
IDS = torch.randint(3, 97, (1, 18), generator=torch.Generator().manual_seed(0))
VARLEN = {"cu_seq_lens_q": BOUNDS, "cu_seq_lens_k": BOUNDS, "max_length_q": 7, "max_length_k": 7}


def in_float64(
    module: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    """Attention written out in double precision; reads the mask."""
    k, v = (x.double().repeat_interleave(module.num_key_value_groups, dim=1) for x in (k, v))
    scores = q.double() @ k.mT * scaling + attention_mask
    weights = scores.softmax(-1)
    return (weights @ v).transpose(1, 2).to(q.dtype), weights


def by_boundaries(
    module: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, scaling: float, cu_seq_lens_q: Tensor,
    cu_seq_lens_k: Tensor, max_length_q: int, max_length_k: int, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention as flash attention is called for packed rows: no mask, the boundaries say who sees whom."""
    assert attention_mask is None
    assert cu_seq_lens_q.dtype == torch.int32 and torch.equal(cu_seq_lens_q, cu_seq_lens_k)
    assert max_length_q == max_length_k == max(LENGTHS)
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
    out = [F.scaled_dot_product_attention(*part, is_causal=True, scale=scaling, enable_gqa=True) for part in parts]
    return torch.cat(out, dim=2).transpose(1, 2), None


@pytest.fixture
def registered() -> Iterator[None]:
    AttentionInterface.register("in_float64", in_float64)
    AttentionMaskInterface.register("in_float64", eager_mask)
    AttentionInterface.register("by_boundaries", by_boundaries)
    yield
    del AttentionInterface._global_mapping["in_float64"], AttentionInterface._global_mapping["by_boundaries"]
    del AttentionMaskInterface._global_mapping["in_float64"]


@pytest.mark.usefixtures("registered")
def test_a_registered_attention_is_the_one_that_computes(make_pair: Any) -> None:
    reference, native = make_pair(attn="in_float64")
    eager = make_pair(attn="eager")[1]
    padded = {"attention_mask": torch.tensor([[0] * 5 + [1] * 13])}
    for options in ({}, padded, {"position_ids": POSITIONS, "use_cache": False}, VARLEN):
        found = native(IDS, output_attentions=True, **options)
        torch.testing.assert_close(found.logits, eager(IDS, **options).logits, atol=1e-5, rtol=0)
        assert found.attentions[0].dtype == torch.float64
        if options is not VARLEN:  # which transformers' LLaMA reads in flash attention only
            assert torch.equal(found.logits, reference(IDS, **options).logits)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(native.generate(IDS, **settings), reference.generate(IDS, **settings))


@pytest.mark.filterwarnings("ignore")  # transformers says that it makes no mask for an attention that registered none
@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("given", [VARLEN, {"cu_seq_lens_q": BOUNDS.long(), "position_ids": torch.arange(18)[None]}])
def test_an_attention_without_mask_gets_the_boundaries(make_pair: Any, given: dict[str, Any]) -> None:
    """All that flash attention wants of them, whatever the caller named: with less it would look into the positions."""
    native, plain = make_pair(attn="by_boundaries")[1], make_pair()[1]
    torch.testing.assert_close(native(IDS, **given).logits, plain(IDS, **given).logits, atol=1e-5, rtol=0)


@pytest.mark.skipif(shutil.which("g++") is None, reason="flex attention is compiled, and there is no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_flex_attention_keeps_documents_apart(make_pair: Any) -> None:
    """Without gradient, which flex attention has on a GPU only."""
    reference, native = make_pair(attn="flex_attention", hidden_size=64)  # heads of at least 16 channels
    plain = make_pair(hidden_size=64)[1]
    options = {"position_ids": POSITIONS, "use_cache": False}
    changed = IDS.clone()
    changed[:, BOUNDS[1] : BOUNDS[2]] = 7
    same = torch.ones(18, dtype=torch.bool)
    same[BOUNDS[1] : BOUNDS[2]] = False
    with torch.no_grad():
        logits = native(IDS, **options).logits
        torch.testing.assert_close(logits, plain(IDS, **options).logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(logits, reference(IDS, **options).logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(native(IDS, **VARLEN).logits, logits, atol=1e-5, rtol=0)
        assert torch.equal(native(changed, **options).logits[:, same], logits[:, same])
