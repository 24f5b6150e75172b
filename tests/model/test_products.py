"""Products and attention taken another way than torch's usual one are the same functions, with the same gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llama_tasks.model import attention_products, products
from llama_tasks.model.attention_products import attend_step, causal_attention


def qkv(heads: int, keys: int, length: int, context: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (3, length, heads, 8), (3, context + length, keys, 8), (3, context + length, keys, 8)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def output_and_gradients(inputs: list[Tensor], mask: Tensor | None) -> tuple[Tensor, ...]:
    out = causal_attention(*inputs, mask, 8**-0.5, 0.0)
    generator = torch.Generator().manual_seed(1)
    return out, *torch.autograd.grad(out, inputs, torch.randn(out.shape, generator=generator).to(out.dtype))


@pytest.mark.parametrize(("heads", "keys"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("context", [0, 5])
@pytest.mark.parametrize("kept", [256, 4])
def test_attention_by_products_is_sdpa(
    monkeypatch: pytest.MonkeyPatch, heads: int, keys: int, context: int, kept: int
) -> None:
    monkeypatch.setattr(attention_products, "KEPT", kept)
    mask = None
    if context:
        mask = torch.ones(3, 1, 7, context + 7, dtype=torch.bool).tril(context)
        mask[1, :, :, :2] = False
    inputs = qkv(heads, keys, 7, context)
    monkeypatch.setattr(attention_products, "_multiplies_bfloat16", lambda x: False)
    expected = output_and_gradients(inputs, mask)
    monkeypatch.setattr(attention_products, "_multiplies_bfloat16", lambda x: True)
    torch.testing.assert_close(output_and_gradients(inputs, mask), expected, atol=1e-6, rtol=1e-5)


@pytest.fixture
def by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three queries, for documents of 2 to 19 tokens."""
    monkeypatch.setattr(attention_products, "is_amd_without_avx512", lambda: True)
    monkeypatch.setattr(attention_products, "IN_BLOCKS", range(2, 20))
    monkeypatch.setattr(attention_products, "BLOCK", 3)


@pytest.mark.usefixtures("by_blocks")
@pytest.mark.parametrize(("heads", "keys"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("length", [2, 6, 11])
def test_attention_by_blocks_is_sdpa(monkeypatch: pytest.MonkeyPatch, heads: int, keys: int, length: int) -> None:
    inputs = qkv(heads, keys, length)
    found = output_and_gradients(inputs, None)
    assert "_Products" in type(found[0].grad_fn).__name__
    monkeypatch.setattr(attention_products, "IN_BLOCKS", range(0))
    expected = output_and_gradients(inputs, None)
    assert "_Products" not in type(expected[0].grad_fn).__name__
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("by_blocks")
@pytest.mark.parametrize("length", [1, 5, 8, 19, 20])
def test_blocks_keep_the_weights_that_they_say(length: int) -> None:
    """Three documents of four heads, beside q, k and v."""
    inputs = qkv(4, 2, length)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        causal_attention(*inputs, None, 1.0, 0.0)
    said = attention_products.weights_kept(length)
    assert (said > 0) == (length in (5, 8, 19))
    if said:
        assert sum(x.numel() for x in kept) - sum(x.numel() for x in inputs) == 3 * 4 * said


@pytest.mark.usefixtures("by_blocks")
def test_blocks_are_for_training_in_float32_of_their_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_products, "_Products", None)
    with torch.no_grad():
        causal_attention(*qkv(4, 2, 7), None, 1.0, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        causal_attention(*qkv(4, 2, 7), None, 1.0, 0.0)
    causal_attention(*qkv(4, 2, 7), None, 1.0, 0.1)
    causal_attention(*qkv(4, 2, 20), None, 1.0, 0.0)
    with pytest.raises(AttributeError):
        causal_attention(*qkv(4, 2, 7), None, 1.0, 0.0)


def test_bfloat16_attention_is_near_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = output_and_gradients(qkv(4, 2, 33), None)
    monkeypatch.setattr(attention_products, "_multiplies_bfloat16", lambda x: True)
    found = output_and_gradients(qkv(4, 2, 33, dtype=torch.bfloat16), None)
    for ours, exact in zip(found, expected, strict=True):
        assert (ours.float() - exact).norm() < 0.02 * exact.norm()


def test_dropout_and_long_documents_stay_with_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_products, "_multiplies_bfloat16", lambda x: True)
    monkeypatch.setattr(attention_products, "_Products", None)
    causal_attention(*qkv(4, 2, 7), None, 1.0, 0.1)
    monkeypatch.setattr(attention_products, "LONGEST", 6)
    causal_attention(*qkv(4, 2, 7), None, 1.0, 0.0)


needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch is built without oneDNN"
)


@needs_onednn
def test_products_by_onednn_are_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: True)
    x, weight, bias = torch.randn(5, 9), torch.randn(7, 9), torch.randn(7)
    torch.testing.assert_close(products.times_transposed(x, weight, bias), x @ weight.T + bias)
    torch.testing.assert_close(products.times(x[:, :7], weight), x[:, :7] @ weight)
    total = torch.randn(5, 9)
    torch.testing.assert_close(products.add_times(total.clone(), x[:, :7], weight), total + x[:, :7] @ weight)


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_by_onednn_learns_alike(monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    layer, x = nn.Linear(9, 7, bias=bias), torch.randn(2, 5, 9, requires_grad=True)

    def run(by_onednn: bool) -> tuple[Tensor, ...]:
        monkeypatch.setattr(products, "_onednn_is_faster", lambda: by_onednn)
        y = products.linear(x, layer)
        return y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])

    torch.testing.assert_close(run(True), run(False), atol=1e-5, rtol=1e-5)


@needs_onednn
def test_whole_texts_in_evaluation_keep_their_bits(monkeypatch: pytest.MonkeyPatch, pair: Any) -> None:
    reference, native = pair
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: True)
    ids = torch.randint(3, 97, (2, 9))
    with torch.no_grad():
        assert torch.equal(native(ids).logits, reference(ids).logits)


@needs_onednn
def test_a_model_trains_alike(monkeypatch: pytest.MonkeyPatch, pair: Any) -> None:
    reference, native = pair
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: True)
    ids = torch.randint(3, 97, (2, 9))
    for model in (reference.train(), native.train()):
        model(ids, labels=ids).loss.backward()
    expected = {name: p.grad for name, p in reference.named_parameters()}
    torch.testing.assert_close({n: p.grad for n, p in native.named_parameters()}, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 16, 17])
def test_few_rows_turned_over_are_the_same_product(monkeypatch: pytest.MonkeyPatch, rows: int, bias: bool) -> None:
    layer, x = nn.Linear(9, 7, bias=bias), torch.randn(rows, 1, 9)
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: False)
    monkeypatch.setattr(products, "turning_is_faster", lambda: True)
    with torch.no_grad():
        assert products._by_turning(x) == (2 <= rows <= 16)
        torch.testing.assert_close(products.linear(x, layer), layer(x), atol=1e-6, rtol=1e-5)
        assert torch.equal(products.linear(x.view(1, rows, 9), layer), layer(x.view(1, rows, 9)))


@pytest.fixture
def widening(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an x86 processor without AVX-512, weights of two rows at a time."""
    monkeypatch.setattr(products, "is_x86_without_avx512", lambda: True)
    monkeypatch.setattr(products, "PART", 19)


@pytest.mark.usefixtures("widening")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_widened_in_parts(dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(5, 9), torch.randn(7, 9).to(dtype), torch.randn(7).to(dtype)
    wide = weight.float()
    torch.testing.assert_close(products.times_transposed(x, weight, bias), x @ wide.T + bias.float())
    torch.testing.assert_close(products.times(x[:, :7], weight), x[:, :7] @ wide)
    torch.testing.assert_close(products.times(x[:, :2], weight[:2]), x[:, :2] @ wide[:2])
    total = torch.randn(5, 9)
    torch.testing.assert_close(products.add_times(total.clone(), x[:, :7], weight), total + x[:, :7] @ wide)


@pytest.mark.usefixtures("widening")
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_in_bfloat16_is_that_in_float32_rounded_once(bias: bool, train: bool) -> None:
    layer, x = nn.Linear(9, 7, bias=bias).train(train), torch.randn(2, 5, 9)
    narrow = copy.deepcopy(layer).bfloat16()
    layer.load_state_dict({name: value.float() for name, value in narrow.state_dict().items()})
    narrow_x = x.bfloat16().requires_grad_()
    x = narrow_x.detach().float().requires_grad_()
    dy = torch.randn(2, 5, 7).bfloat16()
    y = products.linear(narrow_x, narrow)
    assert "_Linear" in type(y.grad_fn).__name__
    found = y, *torch.autograd.grad(y, [narrow_x, *narrow.parameters()], dy)
    y = layer(x)
    expected = y, *torch.autograd.grad(y, [x, *layer.parameters()], dy.float())
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), exact, atol=1e-6, rtol=2**-8)


@pytest.mark.usefixtures("widening")
@pytest.mark.parametrize("train", [True, False])
def test_weights_of_another_precision_are_refused_as_by_torch(train: bool) -> None:
    layer = nn.Linear(9, 7).bfloat16().train(train)
    layer.bias = nn.Parameter(torch.zeros(7))
    with torch.set_grad_enabled(train), pytest.raises(RuntimeError, match="dtype"):
        products.linear(torch.randn(8, 1, 9).bfloat16(), layer)


@pytest.mark.parametrize("rows", [1, 8])
def test_decoding_of_few_rows_reads_the_narrow_weight(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    layer, x = nn.Linear(64, 7).bfloat16(), torch.randn(rows, 1, 64).bfloat16()
    monkeypatch.setattr(products, "is_x86_without_avx512", lambda: True)
    read: list[torch.dtype] = []
    times = products.times_transposed
    monkeypatch.setattr(products, "times_transposed", lambda x, *rest: (read.append(x.dtype), times(x, *rest))[1])
    with torch.no_grad():
        found = products.linear(x, layer)
        torch.testing.assert_close(found, layer(x), atol=1e-2, rtol=1e-2)
    assert set(read) == ({torch.float32} if rows == 8 else set())


@pytest.mark.usefixtures("widening")
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_bfloat16_is_that_in_float32_rounded_once(masked: bool) -> None:
    mask = torch.ones(3, 1, 7, 7, dtype=torch.bool).tril() if masked else None
    inputs = qkv(4, 2, 7, dtype=torch.bfloat16)
    found = output_and_gradients(inputs, mask)
    wide = [x.detach().float().requires_grad_() for x in inputs]
    out = causal_attention(*wide, mask, 8**-0.5, 0.0)
    dy = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    for ours, exact in zip(found, (out, *torch.autograd.grad(out, wide, dy)), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), exact, atol=1e-6, rtol=2**-8)


@pytest.mark.usefixtures("widening")
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_attends_in_bfloat16_as_in_float32_rounded_once(masked: bool) -> None:
    q, k, v = (x.detach().transpose(1, 2) for x in qkv(4, 2, 7, dtype=torch.bfloat16))
    mask = torch.arange(7) < torch.tensor([3, 7, 5])[:, None, None, None] if masked else None
    found = attend_step(q[:, :, :1], k, v, mask, 0.3)
    exact = attend_step(q[:, :, :1].float(), k.float(), v.float(), mask, 0.3)
    assert found.dtype == torch.bfloat16 and found.shape == (3, 4, 1, 8)
    assert torch.equal(found, exact.bfloat16())
    if masked:
        assert torch.equal(attend_step(q[:1, :, :1], k[:1, :, :3], v[:1, :, :3], None, 0.3), found[:1])


@pytest.mark.usefixtures("widening")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("adapter", ["none", "on", "off"])
def test_evaluation_by_wide_products(
    make_pair: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, adapter: str
) -> None:
    """A half-precision model is at least as near to float32 as by torch's own products, and takes none of them."""
    ids = torch.randint(3, 97, (2, 24), generator=torch.Generator().manual_seed(0))
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)

    def adapted(model: Any) -> Any:
        torch.manual_seed(2)
        made = model if adapter == "none" else get_peft_model(model, config).eval()
        if adapter == "off":
            made.base_model.disable_adapter_layers()
        return made

    native, exact = adapted(make_pair()[1].to(dtype)), adapted(make_pair()[1])
    exact.load_state_dict({name: value.float() for name, value in native.state_dict().items()})
    with torch.no_grad():
        truth = exact(ids).logits
        with monkeypatch.context() as context:
            context.setattr(products, "is_x86_without_avx512", lambda: False)
            narrow = native(ids).logits
        monkeypatch.setattr(nn.Linear, "forward", lambda *_: pytest.fail("a product of half precision"))
        wide = native(ids).logits
    assert wide.dtype == dtype and not torch.equal(wide, narrow)
    assert (wide.float() - truth).norm() <= 1.05 * (narrow.float() - truth).norm()


@pytest.mark.usefixtures("widening")
def test_few_rows_in_half_precision_go_through_peft(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To widen a weight costs more than it gains there."""
    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(pair[1].bfloat16(), config).eval()
    called: list[int] = []
    layer: Any = model.base_model.model.model.layers[0].self_attn.q_proj
    through_peft = type(layer).forward
    monkeypatch.setattr(type(layer), "forward", lambda self, x: called.append(x.shape[-2]) or through_peft(self, x))
    with torch.no_grad():
        for rows in (products.WIDENED_FROM - 1, products.WIDENED_FROM):
            model(torch.arange(3, 3 + rows)[None])
    assert set(called) == {products.WIDENED_FROM - 1}


@pytest.mark.usefixtures("widening")
def test_logits_of_few_rows_are_contiguous(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "turning_is_faster", lambda: True)
    with torch.no_grad():
        assert pair[1](torch.arange(3, 13)[:, None]).logits.is_contiguous()  # ten texts of one token
        assert pair[1].bfloat16()(torch.arange(3, 13)[None]).logits.is_contiguous()


@pytest.mark.usefixtures("widening")
def test_evaluation_with_lora_in_bfloat16_has_second_derivatives(pair: Any) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(pair[1].bfloat16(), config).eval()
    embedded = model.get_input_embeddings()(torch.arange(3, 13)[None]).detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        square = model(inputs_embeds=embedded).logits.float().square().mean()
        (gradient,) = torch.autograd.grad(square, embedded, create_graph=True)
        (second,) = torch.autograd.grad(gradient.float().square().sum(), embedded)
    assert second.isfinite().all() and second.any()


@pytest.mark.usefixtures("widening")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_that_is_switched_off_is_still_a_layer(pair: Any, dtype: torch.dtype) -> None:
    """Its hooks are called, and a merged one is taken out of the weights again."""
    ids = torch.arange(3, 13)[None]
    native = pair[1].to(dtype)
    with torch.no_grad():
        base = native(ids).logits
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(native, config).eval()
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, base)
            layer: Any = model.base_model.model.model.layers[0].mlp.down_proj
            handle = layer.register_forward_hook(lambda module, args, output: output * 0)
            assert not torch.equal(model(ids).logits, base)
            handle.remove()
        model.merge_adapter()
        with model.disable_adapter():
            torch.testing.assert_close(model(ids).logits, base, atol=0.2 if dtype == torch.bfloat16 else 1e-5, rtol=0)


@pytest.mark.usefixtures("widening")
def test_a_bfloat16_model_trains_as_near_to_float32_as_by_narrow_products(
    monkeypatch: pytest.MonkeyPatch, pair: Any
) -> None:
    """Gradients of all weights, of a plain row and of a packed one."""
    exact, native = pair
    ids = torch.randint(3, 97, (1, 24), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "labels": ids}
    packed = {"cu_seq_lens_q": torch.tensor([0, 10, 24], dtype=torch.int32), "skip_logits": True}
    native.bfloat16()
    exact.load_state_dict({name: value.float() for name, value in native.state_dict().items()})
    exact.train()(**inputs).loss.backward()
    expected = torch.cat([p.grad.flatten() for p in exact.parameters()])

    def gradients(**more: Any) -> Tensor:
        native.zero_grad()
        native.train()(**inputs, **more).loss.backward()
        return torch.cat([p.grad.float().flatten() for p in native.parameters()])

    def away(from_: Tensor, found: Tensor) -> float:
        return float((found - from_).norm() / from_.norm())

    wide, wide_packed = gradients(), gradients(**packed)
    monkeypatch.setattr(products, "is_x86_without_avx512", lambda: False)
    narrow, narrow_packed = gradients(), gradients(**packed)
    assert away(expected, wide) < min(0.05, 1.1 * away(expected, narrow))
    assert 0 < away(narrow_packed, wide_packed) < 0.05
