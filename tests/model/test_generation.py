"""Whatever transformers' generation offers gives the tokens that its own LLaMA gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import ContinuousBatchingConfig, DynamicCache, GenerationConfig, StaticCache
from transformers.cache_utils import DynamicLayer

from llama_tasks.model import alone, generation
from llama_tasks.model.alone import ALONE_AFTER, Alone
from llama_tasks.model.caches import CACHE
from llama_tasks.model.generation import LEAST, RoomyLayer

IDS = torch.tensor([[0, 0, 0, 11, 12, 13, 14, 15, 11], [1, 21, 22, 23, 24, 21, 22, 23, 24]])
MASK = (IDS != 0).long()

MODES: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "top_k": 10, "temperature": 0.8},
    "nucleus": {"do_sample": True, "top_p": 0.7},
    "beam": {"num_beams": 3},
    "beam sampling": {"num_beams": 3, "do_sample": True},
    "static cache": {"cache_implementation": "static"},
    "sliding cache": {"cache_implementation": "sliding_window"},
    "no cache": {"use_cache": False},
    "processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "bad_words_ids": [[5]], "min_new_tokens": 3},
    "guidance": {"guidance_scale": 1.5},
    "min_p": {"do_sample": True, "min_p": 0.1},
    "typical": {"do_sample": True, "typical_p": 0.5},
    "watermark": {"watermarking_config": {"bias": 2.0, "seeding_scheme": "lefthash"}},
    "several beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5, "early_stopping": True},
    "prompt in pieces": {"prefill_chunk_size": 4},
    "float8 cache": {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}},
    "float8 cache, beam": {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}, "num_beams": 3},
}
# A quantiser's own settings: groups that fit the tiny model's heads, and a window short enough to be left.
FOUR_BITS = {"nbits": 4, "q_group_size": 16, "residual_length": 4}


def generate(model: Any, rows: slice = slice(None), **options: Any) -> list[list[int]]:
    torch.manual_seed(1)
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0, **options}
    return model.generate(IDS[rows], attention_mask=MASK[rows], **options).tolist()


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", MODES)
def test_modes(make_pair: Any, mode: str, attn: str) -> None:
    reference, native = make_pair(attn=attn)
    assert generate(native, **MODES[mode]) == generate(reference, **MODES[mode])


@pytest.mark.parametrize(("library", "axis"), [("hqq", 1), ("optimum.quanto", 0)])
def test_cache_in_four_bits(pair: Any, library: str, axis: int) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    settings = {"backend": library.split(".")[-1], "axis_key": axis, "axis_value": axis, **FOUR_BITS}
    found = [generate(model, cache_implementation="quantized", cache_config=settings) for model in pair]
    assert found[0] == found[1] != generate(pair[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloaded caches move keys and values by CUDA streams")
@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static"])
def test_offloaded_cache(pair: Any, kind: str) -> None:
    _, native = pair
    native.cuda()
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "attention_mask": MASK.cuda()}
    kept = native.generate(IDS.cuda(), **settings)
    assert torch.equal(native.generate(IDS.cuda(), cache_implementation=kind, **settings), kept)


def contrastive(model: Any, input_ids: torch.Tensor, generation_config: Any = None, **_: Any) -> torch.Tensor:
    """Contrastive search (Su et al., 2022) of one row: likely tokens that lead away from what the text already means."""
    for _ in range(generation_config.max_new_tokens):
        likely = model(input_ids).logits[0, -1].softmax(-1).topk(generation_config.top_k)
        rows = torch.cat([input_ids.expand(len(likely.indices), -1), likely.indices[:, None]], dim=1)
        states = F.normalize(model(rows, output_hidden_states=True).hidden_states[-1], dim=-1)
        alike = (states[:, :-1] @ states[:, -1:].mT).amax(dim=1)[:, 0]
        best = int((0.4 * likely.values - 0.6 * alike).argmax())
        input_ids = rows[best : best + 1]
    return input_ids


def test_a_way_of_generating_of_ones_own(pair: Any) -> None:
    """transformers gave contrastive search away; it comes back through `custom_generate`."""
    options = {"custom_generate": contrastive, "top_k": 4}
    found = [generate(model, slice(1, 2), **options) for model in pair]
    assert found[0] == found[1] != generate(pair[1], slice(1, 2))


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_what_generation_saw_on_the_way(make_pair: Any, attn: str) -> None:
    settings: dict[str, Any] = {
        "max_new_tokens": 5,
        "do_sample": False,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
    }
    seen = {
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
        "output_attentions": attn == "eager",
    }
    theirs, ours = (m.generate(IDS, attention_mask=MASK, **settings, **seen) for m in make_pair(attn=attn))
    assert ours.keys() == theirs.keys()
    for name in ("scores", "logits", "hidden_states", *(["attentions"] if attn == "eager" else [])):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("helper", ["prompt lookup", "assistant", "early exit"])
def test_speculation_gives_the_greedy_tokens(pair: Any, make_pair: Any, helper: str) -> None:
    _, native = pair
    options: dict[str, Any] = {
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
        "assistant": {"assistant_model": make_pair(seed=7)[1]},
        "early exit": {"assistant_early_exit": 1},
    }[helper]
    assert generate(native, slice(1, 2), **options) == generate(native, slice(1, 2))


@pytest.mark.filterwarnings("ignore")  # its manager speaks of settings that are right for a CPU
def test_continuous_batching(pair: Any) -> None:
    reference, native = pair
    settings = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    few = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=256)  # else it fills the memory of the machine
    prompts = [IDS[1].tolist(), IDS[0, 3:].tolist()]
    found = [
        model.generate_batch(inputs=prompts, generation_config=settings, continuous_batching_config=few)
        for model in (native, reference)
    ]
    tokens = [{key: request.generated_tokens for key, request in batch.items()} for batch in found]
    assert tokens[0] == tokens[1] and len(tokens[0]) == 2
    alone = generate(native, slice(1, 2), max_new_tokens=8)[0][9:]
    assert alone in tokens[0].values()


@pytest.mark.parametrize("places", [True, False], ids=["position_ids", "none"])
def test_one_graph_with_a_static_cache(pair: Any, places: bool) -> None:
    """`fullgraph` refuses any break; tracing alone is tested, code generation is torch's."""
    given = [{"position_ids": torch.arange(9)[None]}, {"position_ids": torch.tensor([[9]])}] if places else [{}, {}]
    _, native = pair
    step = torch.compile(native.forward, fullgraph=True, backend="eager")
    cache = StaticCache(config=native.config, max_cache_len=16)
    with torch.no_grad():
        step(IDS[1:], **{CACHE: cache}, **given[0])
        got = step(torch.tensor([[5]]), **{CACHE: cache}, **given[1]).logits
        expected = native(torch.cat([IDS[1:], torch.tensor([[5]])], dim=1)).logits[:, -1:]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


# One text

ONE = slice(1, None)  # the row without padding


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """On every processor a single text takes the short way; grows by one with each of its steps."""
    taken: list[int] = []
    usual = Alone.step

    def step(self: Alone, *args: Any) -> torch.Tensor:
        taken.append(1)
        return usual(self, *args)

    monkeypatch.setattr(alone, "turning_is_faster", lambda: True)
    monkeypatch.setattr(Alone, "step", step)
    return taken


ONE_TEXT: dict[str, dict[str, Any]] = {
    "greedy": {},
    **{name: MODES[name] for name in ("sampling", "processors", "prompt in pieces", "static cache")},
    "a cache of one's own": {CACHE: "new"},
}


@pytest.mark.parametrize("options", ONE_TEXT.values(), ids=ONE_TEXT)
def test_one_text_takes_the_short_way_to_the_same_tokens(
    pair: Any, short_steps: list[int], options: dict[str, Any]
) -> None:
    count = 3 * ALONE_AFTER

    def made(model: Any) -> list[list[int]]:
        own = {CACHE: DynamicCache(config=model.config)} if CACHE in options else {}
        return generate(model, ONE, max_new_tokens=count, **{**options, **own})

    reference, native = pair
    assert made(native) == made(reference)
    # The first token is the prompt's; a prompt in pieces may end in one of a single token.
    assert len(short_steps) in (count - ALONE_AFTER, count - ALONE_AFTER + 1)


def test_the_short_way_has_the_adapter_and_weights_of_its_time(
    pair: Any, short_steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, native = pair
    torch.manual_seed(0)
    wrapped = get_peft_model(native, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    settings = {"max_new_tokens": 3 * ALONE_AFTER}
    with_adapter, steps = generate(wrapped, ONE, **settings), len(short_steps)
    with wrapped.disable_adapter():
        without = generate(wrapped, ONE, **settings)
    assert steps and len(short_steps) == 2 * steps
    assert with_adapter != without
    short_steps.clear()
    with monkeypatch.context() as context:
        context.setattr(alone, "turning_is_faster", lambda: False)
        assert generate(wrapped, ONE, **settings) == with_adapter
    assert not short_steps
    with torch.no_grad():
        native.lm_head.weight.neg_()
    assert generate(wrapped, ONE, **settings) != with_adapter


@pytest.mark.parametrize("between", ["each step", "now and then"])
def test_the_adapter_may_be_switched_between_steps(pair: Any, short_steps: list[int], between: str) -> None:
    """A logits processor that looks at the base's own logits, as contrastive decoding does."""
    native = pair[1]
    torch.manual_seed(0)
    wrapped = get_peft_model(native, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    settings = {"max_new_tokens": 4 * ALONE_AFTER}
    alone_ids = generate(wrapped, ONE, **settings)
    with wrapped.disable_adapter():
        expected = wrapped(torch.tensor(alone_ids), use_cache=False).logits[0]
    own, found = DynamicCache(config=native.config), []

    def base_beside(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if between == "each step" or ids.shape[1] % 5 == 0:
            with wrapped.disable_adapter():
                found.append((ids.shape[1] - 1, wrapped(ids[:, own.get_seq_length() :], **{CACHE: own}).logits[0, -1]))
        return scores

    assert generate(wrapped, ONE, logits_processor=[base_beside], **settings) == alone_ids
    assert short_steps or between == "each step"
    for place, logits in found:
        torch.testing.assert_close(logits, expected[place], atol=1e-5, rtol=1e-4)


def _negated(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.neg_()


def _steered(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda module, args, output: output + 1.0)


def _patched(model: Any) -> None:
    layer = model.model.layers[1]
    usual = layer.forward
    layer.forward = lambda *args, **kwargs: -usual(*args, **kwargs)


@pytest.mark.parametrize("recorded", [False, True], ids=["", "outputs were once recorded"])
@pytest.mark.parametrize("change", [_negated, _steered, _patched])
def test_what_is_changed_between_steps_counts_from_then_on(
    pair: Any, short_steps: list[int], change: Callable[[Any], None], recorded: bool
) -> None:
    for model in pair:
        model(IDS, output_hidden_states=recorded)  # which leaves transformers' hooks on the layers
    count, at = 4 * ALONE_AFTER, 2 * ALONE_AFTER

    def made(model: Any) -> list[list[int]]:
        def changes(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if ids.shape[1] == IDS.shape[1] + at:
                change(model)
            return scores

        return generate(model, ONE, max_new_tokens=count, logits_processor=[changes])

    plain = generate(pair[1], ONE, max_new_tokens=count)
    short_steps.clear()
    found = made(pair[1])
    assert found == made(pair[0]) != plain
    assert 0 < len(short_steps) < count - ALONE_AFTER


LONG_WAYS: dict[str, dict[str, Any]] = {
    "two texts": {"rows": slice(None)},
    "padding": {"rows": slice(0, 1)},
    "beams": MODES["beam"],
    "padding before a static cache": {"rows": slice(0, 1), **MODES["static cache"]},
    "a quantised cache": MODES["float8 cache"],
    "what happened on the way": {"output_hidden_states": True, "return_dict_in_generate": True},
}


@pytest.mark.parametrize("options", LONG_WAYS.values(), ids=LONG_WAYS)
def test_anything_else_goes_the_usual_way(pair: Any, short_steps: list[int], options: dict[str, Any]) -> None:
    settings = {"rows": ONE, "max_new_tokens": 2 * ALONE_AFTER, **options}
    rows = settings.pop("rows")
    found = [
        model.generate(
            IDS[rows], attention_mask=MASK[rows], do_sample=False, eos_token_id=None, pad_token_id=0, **settings
        )
        for model in pair
    ]
    first, second = (getattr(each, "sequences", each) for each in found)
    assert torch.equal(first, second) and not short_steps


class Waits(TorchDispatchMode):
    """Counts how often a number is fetched from a tensor, which on a GPU waits for all that was asked of it."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["greedy", "static cache"])
def test_no_token_waits_longer_than_in_transformers(pair: Any, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Where the short way is not taken, as on a GPU."""
    monkeypatch.setattr(alone, "turning_is_faster", lambda: False)

    def waits(model: Any) -> int:
        with Waits() as found:
            generate(model, ONE, max_new_tokens=3 * ALONE_AFTER, **MODES.get(mode, {}))
        return found.count

    reference, native = pair
    assert waits(native) <= waits(reference)


# The cache with room

OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "crop": lambda layer: layer.crop(-2),
    "repeat": lambda layer: layer.batch_repeat_interleave(2),
    "select": lambda layer: layer.batch_select_indices(torch.tensor([1, 0])),
    "reorder": lambda layer: layer.reorder_cache(torch.tensor([1, 1])),
    "reset": lambda layer: layer.reset(),
}


def tokens(seed: int, count: int, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, count, 4, generator=generator), torch.randn(rows, 2, count, 4, generator=generator)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@torch.no_grad()
def test_a_layer_with_room_holds_what_transformers_own_holds(operation: Callable[[Any], Any]) -> None:
    layers = DynamicLayer(), RoomyLayer()
    for seed, count in enumerate((5, 1, 1, LEAST, 1)):
        for layer in layers:
            layer.update(*tokens(seed, count))
        assert all(torch.equal(getattr(layers[0], name), getattr(layers[1], name)) for name in ("keys", "values"))
    for layer in layers:
        operation(layer)
        rows = layer.keys.shape[0] if layer.is_initialized else 2
        found = layer.update(*tokens(9, 3, rows))
        assert found[0] is layer.keys
    assert all(torch.equal(getattr(layers[0], name), getattr(layers[1], name)) for name in ("keys", "values"))


@torch.no_grad()
def test_a_token_does_not_move_the_past() -> None:
    layer = RoomyLayer()
    layer.update(*tokens(0, 7))
    place = layer.keys.data_ptr()
    for seed in range(LEAST):
        layer.update(*tokens(seed, 1))
    assert layer.keys.data_ptr() == place and layer.keys.shape[2] == 7 + LEAST
    layer.update(*tokens(0, 1))
    assert layer.keys.data_ptr() != place


@torch.no_grad()
def test_a_past_that_is_replaced_at_each_step_gets_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As beams do, whose order changes; else each step would ask for room, and use none of it."""
    made: list[int] = []
    usual = generation._Room.__init__
    monkeypatch.setattr(generation._Room, "__init__", lambda self, *args: (made.append(1), usual(self, *args))[1])
    layers = DynamicLayer(), RoomyLayer()
    for seed, count in enumerate((5, 1, 1, 1, 1)):
        for layer in layers:
            layer.update(*tokens(seed, count))
            layer.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(layers[0].keys, layers[1].keys) and torch.equal(layers[0].values, layers[1].values)
    assert len(made) == 2  # keys and values of the prompt
    for seed in range(3):
        layers[1].update(*tokens(seed, 1))
    assert len(made) == 4  # it grows again


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@torch.no_grad()
def test_two_texts_go_on_from_one_past(copied: Callable[[Any], Any]) -> None:
    one = RoomyLayer()
    one.update(*tokens(0, 4))
    other = copied(one)
    first, second = one.update(*tokens(1, 1))[0], other.update(*tokens(2, 1))[0]
    assert torch.equal(first[:, :, 4:], tokens(1, 1)[0])
    assert torch.equal(second[:, :, 4:], tokens(2, 1)[0])
    assert torch.equal(first[:, :, :4], second[:, :, :4])


@torch.no_grad()
def test_what_was_cropped_stays_as_it_was_for_who_holds_it() -> None:
    layer = RoomyLayer()
    held = layer.update(*tokens(0, 4))[0]
    layer.crop(-1)
    layer.update(*tokens(1, 1))
    assert torch.equal(held, tokens(0, 4)[0])


def test_keys_with_a_gradient_are_not_written_over() -> None:
    layer = RoomyLayer()
    keys, values = tokens(0, 3)
    layer.update(keys.requires_grad_(), values)
    found, _ = layer.update(*tokens(1, 1))
    found.sum().backward()
    assert keys.grad is not None and bool((keys.grad == 1).all())


def test_a_cache_of_inference_mode_goes_on_outside_of_it() -> None:
    layer = RoomyLayer()
    with torch.inference_mode():
        layer.update(*tokens(0, 4))
    with torch.no_grad():
        found = layer.update(*tokens(1, 1))
    assert torch.equal(found[0], torch.cat((tokens(0, 4)[0], tokens(1, 1)[0]), dim=2))


def test_queries_learn_behind_a_cache_that_generate_made(pair: Any) -> None:
    """Keys need no gradient where q alone is trained; what attention saved of them must stay as it was."""

    def gradient(model: Any) -> torch.Tensor:
        for name, weight in model.named_parameters():
            weight.requires_grad_("layers.0.self_attn.q_proj" in name)
        row = IDS[ONE]
        made = model.generate(row, max_new_tokens=4, do_sample=False, pad_token_id=0, return_dict_in_generate=True)
        cache, total = getattr(made, CACHE), 0
        for token in (5, 6, 7):
            total = total + model(torch.tensor([[token]]), **{CACHE: cache}).logits.square().sum()
        total.backward()
        return model.model.layers[0].self_attn.q_proj.weight.grad

    torch.testing.assert_close(gradient(pair[1]), gradient(pair[0]), atol=1e-4, rtol=1e-4)


def test_generate_makes_room(pair: Any) -> None:
    made = pair[1].generate(IDS[ONE], max_new_tokens=4, do_sample=False, pad_token_id=0, return_dict_in_generate=True)
    assert {type(layer) for layer in getattr(made, CACHE).layers} == {RoomyLayer}
    own = DynamicCache(config=pair[1].config)
    pair[1].generate(IDS[ONE], **{CACHE: own}, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert {type(layer) for layer in own.layers} == {DynamicLayer}


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_steps_of_generate_are_exported(pair: Any, dynamic: bool) -> None:
    """As transformers' exporters record them, with the caches of a real `generate`."""
    exporters = pytest.importorskip(
        "transformers.exporters.exporter_dynamo", reason="this transformers has no exporters"
    )
    utils = pytest.importorskip("transformers.exporters.utils")
    steps = utils.decompose_for_generation(pair[1], {"input_ids": IDS[:, 3:], "attention_mask": MASK[:, 3:]})
    assert len(steps) == 2
    for module, inputs in steps.values():
        # Takes what is constant out of the inputs.
        exported = exporters.DynamoExporter().export(module, inputs, config=exporters.DynamoConfig(dynamic=dynamic))
        with torch.no_grad():
            expected, found = (
                utils.get_leaf_tensors(step(**copy.deepcopy(inputs))) for step in (module, exported.program.module())
            )
        assert len(expected) > 4
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
