"""Likelihoods equal those of one text at a time through transformers' own LLaMA, however they are batched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from llama_tasks import adapters, dataset, score
from llama_tasks.recipe import load_recipe
from llama_tasks.tokens import Tokens


@pytest.fixture(scope="module")
def data(root: Any) -> dataset.Dataset:
    recipe = load_recipe(root / "recipes/classify.yaml", ["data.max_train_samples=100", "data.max_test_samples=9"])
    return dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))


@pytest.fixture(scope="module")
def model(root: Any) -> Any:
    return adapters.load_base(load_recipe(root / "recipes/classify.yaml").base)


@pytest.fixture(scope="module")
def plain() -> Any:
    return LlamaForCausalLM.from_pretrained(adapters.EMBEDDED, dtype=torch.float32).eval()


@torch.inference_mode()
def logprob(plain: Any, ids: list[int], start: int) -> float:
    """log P(ids[start:] | ids[:start])"""
    values = plain(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(values[i - 1, ids[i]]) for i in range(start, len(ids)))


@pytest.mark.parametrize("tokens_per_batch", [1, 200, 4096])
def test_choices_equal_one_text_at_a_time(data: Any, model: Any, plain: Any, tokens_per_batch: int) -> None:
    choices = ["sports", "sport", "体育", "music"]
    prompts = data.prompts["test"]
    ids = data.encoder.prompt_ids(prompts)
    got = score.score_choices(model, data.encoder, prompts, ids, choices, tokens_per_batch)
    assert [list(row) for row in got] == [choices] * len(prompts)
    for prompt, head, row in zip(prompts, ids, got, strict=True):
        tails = data.encoder.response_ids([prompt.follow(choice) for choice in choices])
        for choice, tail in zip(choices, tails, strict=True):
            expected = logprob(plain, head + tail + data.encoder.eos, len(head))
            assert row[choice] == pytest.approx(expected, abs=1e-4)


def test_attention_that_knows_no_prefixes_gives_the_same(
    data: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = data.prompts["test"]
    ids = data.encoder.prompt_ids(prompts)
    shared = score.score_choices(model, data.encoder, prompts, ids, data.labels, 4096)
    monkeypatch.setattr(score, "SHARES_PREFIXES", ())
    for row, expected in zip(
        score.score_choices(model, data.encoder, prompts, ids, data.labels, 4096), shared, strict=True
    ):
        assert row == pytest.approx(expected, abs=1e-4)


def test_the_prompt_is_computed_once(data: Any, model: Any) -> None:
    """Tokens that go through the layers: the prompts' and the choices', not the prompts' once a choice."""
    sizes: list[int] = []
    hook = model.model.layers[0].register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[1]))
    prompts, choices = data.prompts["test"], data.labels
    ids = data.encoder.prompt_ids(prompts)
    score.score_choices(model, data.encoder, prompts, ids, choices, 4096)
    hook.remove()
    tails = sum(len(t) + 1 for p in prompts for t in data.encoder.response_ids([p.follow(c) for c in choices]))
    assert sum(sizes) == sum(map(len, ids)) + tails


def test_text(data: Any, model: Any, plain: Any) -> None:
    texts = [item.input_ids for item in data.train.tokens[:5]]
    got = score.score_text(model, [Tokens(str(i), ids, 1) for i, ids in enumerate(texts)], 1000, 300)
    total = -sum(logprob(plain, ids, 1) for ids in texts)
    assert got["loss"] == pytest.approx(total / sum(len(ids) - 1 for ids in texts), abs=1e-5)
    assert got["bits_per_byte"] == pytest.approx(total / 1000 / torch.tensor(2.0).log().item(), abs=1e-5)


def test_rank_of_end(data: Any, model: Any) -> None:
    ends = score.rank_of_end(model, data.train.tokens)
    elsewhere = score.rank_of_end(model, [Tokens("", [*t.input_ids[:3], 2], 1) for t in data.train.tokens])
    assert 0 <= ends < 0.1 < elsewhere <= 1
