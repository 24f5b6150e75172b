"""Decoding by slots gives the greedy text of transformers' `generate`, whatever enters and leaves when."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_base
from transformers import AutoTokenizer, LlamaForCausalLM

from llama_tasks.generate import generate, slots
from llama_tasks.generate import outputs as module
from llama_tasks.model import alone, load_native
from llama_tasks.model.decoding import ALONE_AFTER, Decoder
from llama_tasks.recipe import PromptConfig, Suite
from llama_tasks.tokens import Encoder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base whose embedding is spread wide, so that no two tokens are nearly as likely."""
    folder = make_base(tmp_path_factory.mktemp("base"))
    model = LlamaForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(std=1.0)
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(base: Path) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(base), PromptConfig(max_length=128))


def draw(count: int, seed: int = 0) -> list[list[int]]:
    """Prompts of 1 to 40 tokens; every third begins as the one before, every seventh is the same."""
    rng = random.Random(seed)
    prompts: list[list[int]] = []
    for i in range(count):
        prompt = [rng.randrange(10, 4000) for _ in range(rng.randint(1, 40))]
        if i % 3 == 2:
            prompt = prompts[-1] + prompt[:5]
        prompts.append(list(prompts[-1]) if i % 7 == 6 else prompt)
    return prompts


def expected(base: Path, prompts: list[list[int]], ends: list[int], limit: int) -> list[tuple[list[int], str]]:
    model = LlamaForCausalLM.from_pretrained(base).eval()
    found = []
    for ids in prompts:
        made = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=limit,
            do_sample=False, eos_token_id=ends, pad_token_id=0,
        )[0, len(ids) :].tolist()  # fmt: skip
        stopped = made[-1] in ends
        found.append((made[:-1] if stopped else made, "stop" if stopped else "length"))
    return found


def frequent(base: Path, prompts: list[list[int]]) -> list[int]:
    """Tokens that the model writes often: as ends they stop rows at different times."""
    written = [token for ids, _ in expected(base, prompts, [4500], 12) for token in ids[1:]]
    return sorted(sorted(set(written), key=lambda token: -written.count(token))[:30])


@pytest.mark.parametrize("budget", [1, 60, 100_000])
@pytest.mark.parametrize("steps", [1, 5])
def test_greedy_text_is_that_of_transformers(
    base: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, budget: int, steps: int
) -> None:
    monkeypatch.setitem(slots.STEPS_PER_LOOK, "cpu", steps)
    prompts = draw(24)
    ends = frequent(base, prompts)
    wanted = expected(base, prompts, ends, 12)
    assert {finish for _, finish in wanted} == {"stop", "length"}
    monkeypatch.setattr(module, "stop_ids", lambda *_: ends)
    outputs = generate(load_native(base), encoder, prompts, Suite(max_new_tokens=12, tokens_per_batch=budget))
    decode = encoder.tokenizer.decode
    assert [(output.text, output.finish, output.tokens) for output in outputs] == [
        (decode(ids, skip_special_tokens=True), finish, len(ids) + (finish == "stop")) for ids, finish in wanted
    ]


def test_slots_and_batches_agree(base: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(max_new_tokens=9, tokens_per_batch=300)
    model, prompts = load_native(base), draw(15, seed=3)
    by_slots = generate(model, encoder, prompts, suite)
    monkeypatch.setattr(module, "can_decode", lambda _: False)
    assert generate(model, encoder, prompts, suite) == by_slots


def test_an_adapter_is_decoded_too(base: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    suite = Suite(max_new_tokens=6, tokens_per_batch=300)
    prompts = draw(8, seed=4)
    plain = generate(load_native(base), encoder, prompts, suite)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(load_native(base), config)
    adapted = generate(model, encoder, prompts, suite)
    assert adapted != plain
    monkeypatch.setattr(module, "can_decode", lambda _: False)
    assert generate(model, encoder, prompts, suite) == adapted
    monkeypatch.undo()
    tuned = get_peft_model(load_native(base), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert module._native(tuned) is None


def test_rows_wait_for_a_slot_and_nothing_is_laid_out_twice(
    base: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[int] = []
    steps: list[int] = []
    enter, step = Decoder.enter, Decoder.step

    def count_enter(self: Decoder, inputs: Any, texts: Any, last: Any) -> torch.Tensor:
        entered.append(inputs["input_ids"].shape[1])
        return enter(self, inputs, texts, last)

    def count_step(self: Decoder, ids: torch.Tensor) -> torch.Tensor:
        steps.append(len(ids))
        memory = [tensor.data_ptr() for tensor in self.slots.keys]
        logits = step(self, ids)
        assert memory == [tensor.data_ptr() for tensor in self.slots.keys]
        return logits

    monkeypatch.setattr(Decoder, "enter", count_enter)
    monkeypatch.setattr(Decoder, "step", count_step)
    monkeypatch.setattr(slots, "HELD", 1)
    passage = list(range(100, 130))
    prompts = [[*passage, 200 + i] for i in range(6)]
    generate(load_native(base), encoder, prompts, Suite(max_new_tokens=5, tokens_per_batch=4 * 37))
    assert entered == [30 + 4, 30 + 2]  # four slots; the passage once each time
    assert max(steps) == 4 and sum(steps) == 6 * 4


def test_one_prompt_one_token(base: Path, encoder: Encoder) -> None:
    (output,) = generate(load_native(base), encoder, [[17]], Suite(max_new_tokens=1))
    assert output.tokens == 1
    assert generate(load_native(base), encoder, [], Suite()) == []


def test_a_long_text_alone_is_the_same(base: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    model, suite = load_native(base), Suite(max_new_tokens=60)
    monkeypatch.setattr(module, "stop_ids", lambda *_: [])
    monkeypatch.setattr(alone, "turning_is_faster", lambda: False)
    (expected,) = generate(model, encoder, [[17, 18, 19]], suite)
    monkeypatch.setattr(alone, "turning_is_faster", lambda: True)
    steps: list[int] = []
    step = alone.Alone.step

    def look(self: alone.Alone, *inputs: Any) -> torch.Tensor:
        steps.append(inputs[-1].args[0])  # of what remembers the token: its place
        return step(self, *inputs)

    monkeypatch.setattr(alone.Alone, "step", look)
    assert generate(model, encoder, [[17, 18, 19]], suite) == [expected]
    assert steps == list(range(3 + ALONE_AFTER - 1, 3 + 59))  # places in the slot
