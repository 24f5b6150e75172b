"""Likelihoods of choices equal those of one text at a time through transformers' own LLaMA, however they are batched."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tiny import logprob, plain_embedded

from llama_tasks import adapters, dataset
from llama_tasks.recipe import BaseConfig, load_recipe
from llama_tasks.rundir import read_jsonl
from llama_tasks.score import choices

CHOICES = ["sports", "sport", "sports news", "体育", "music"]


@pytest.fixture(scope="module")
def data(root: Any) -> dataset.Dataset:
    recipe = load_recipe(root / "recipes/classify.yaml", ["data.max_train_samples=100", "data.max_test_samples=9"])
    return dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))


@pytest.fixture(scope="module")
def model() -> Any:
    return adapters.load_base(BaseConfig())


@pytest.fixture(scope="module")
def plain() -> Any:
    return plain_embedded()


def test_a_tree_of_four_labels() -> None:
    trie = choices.Trie.of([[5, 6, 2], [5, 7, 8, 2], [5, 2], [9, 9, 2]])
    assert (trie.runs, trie.parents) == ([[5], [6], [7, 8], [9, 9]], [-1, 0, 0, -1])
    assert trie.paths[1:3] == [[(-1, 5), (0, 7), (2, 8), (3, 2)], [(-1, 5), (0, 2)]]
    assert (trie.num_tokens, trie.laid_out(10)) == (6, 10 + 11 + 12 + 13 + 12)


@pytest.mark.parametrize("tokens_per_batch", [1, 200, 4096])
def test_choices_equal_one_text_at_a_time(data: Any, model: Any, plain: Any, tokens_per_batch: int) -> None:
    prompts = data.prompts["test"]
    ids = data.encoder.prompt_ids(prompts)
    offered = [CHOICES if i % 2 else CHOICES[1:3] for i in range(len(prompts))]  # each prompt may have its own
    got = choices.score_choices(model, data.encoder, prompts, ids, offered, tokens_per_batch)
    assert [list(row) for row in got] == offered
    for prompt, head, row in zip(prompts, ids, got, strict=True):
        for choice, tail in zip(row, data.encoder.choice_ids(prompt, list(row)), strict=True):
            assert tail[-1:] == data.encoder.eos
            assert row[choice] == pytest.approx(logprob(plain, head + tail, len(head)), abs=1e-4)


def test_attention_that_takes_no_masks_gives_the_same(data: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = data.prompts["test"]
    ids = data.encoder.prompt_ids(prompts)
    offered = [data.labels] * len(prompts)
    together = choices.score_choices(model, data.encoder, prompts, ids, offered, 4096)
    monkeypatch.setattr(choices, "SHARES_PREFIXES", ())
    apart = choices.score_choices(model, data.encoder, prompts, ids, offered, 4096)
    for row, expected in zip(apart, together, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)


def test_what_prompts_and_labels_begin_with_is_computed_once(data: Any, model: Any) -> None:
    """Tokens that go through the layers: each prompt's own, each tree's, and the common beginning one time."""
    sizes: list[int] = []
    hook = model.model.layers[0].register_forward_hook(
        lambda module, inputs, output: sizes.append(inputs[0][..., 0].numel())
    )
    prompts = data.prompts["test"][:1] * 3
    header = [7] * 40
    ids = [header + found for found in data.encoder.prompt_ids(prompts)]
    choices.score_choices(model, data.encoder, prompts, ids, [CHOICES] * 3, 4096)
    hook.remove()
    tree = choices.Trie.of(data.encoder.choice_ids(prompts[0], CHOICES))
    assert tree.num_tokens < sum(len(path) - 1 for path in tree.paths)
    common = len(ids[0]) - 1  # the same prompt three times: each keeps its last token
    assert sizes == [common + 3 * (1 + tree.num_tokens)]


def test_150_intents_in_one_pass(shared: Any) -> None:
    """CLINC150: the labels of all intents by one forward a prompt, equal to one forward a label, and far faster."""
    folder, base = shared("data/public/classification/clinc150"), shared("models/stories260K/hf")
    recipe_rows = list(read_jsonl(folder / "train.jsonl"))
    labels = sorted({row["label"] for row in recipe_rows})
    assert len(labels) == 151  # with "out of scope"
    model = adapters.load_base(BaseConfig(model=str(base)))
    tokenizer = adapters.load_tokenizer(BaseConfig(model=str(base)))
    from llama_tasks import tasks
    from llama_tasks.prompts import Renderer
    from llama_tasks.recipe import PromptConfig
    from llama_tasks.sources import Row
    from llama_tasks.tokens import Encoder

    task = tasks.create("classify", labels)
    encoder, renderer = Encoder(tokenizer, PromptConfig()), Renderer(task)
    rows = [Row(f"test:{i}", row, "x") for i, row in enumerate(recipe_rows[:: len(recipe_rows) // 8][:8])]
    prompts = [renderer(task.example(row)) for row in rows]
    ids = encoder.prompt_ids(prompts)
    assert not any(label in prompts[0].text for label in labels[:20])  # the template lists no labels
    began = time.perf_counter()
    together = choices.score_choices(model, encoder, prompts, ids, [labels] * 8, 8192)
    fast = time.perf_counter() - began
    began = time.perf_counter()
    apart = [choices.score_choices(model, encoder, prompts[:2], ids[:2], [[label]] * 2, 8192) for label in labels]
    slow = (time.perf_counter() - began) * 4
    for row in range(2):
        one_by_one = {label: found[row][label] for label, found in zip(labels, apart, strict=True)}
        assert together[row] == pytest.approx(one_by_one, abs=1e-4)
    assert fast < slow
