"""Likelihoods of texts equal those of one text at a time through transformers' own LLaMA, however they are batched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import logprob, plain_embedded

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
    return plain_embedded()


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
