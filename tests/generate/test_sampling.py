"""Sampling, penalties and limits are those of transformers; a row's text depends on its name and the seed alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import make_base
from transformers import (
    AutoTokenizer,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llama_tasks.errors import ModelError, RecipeError
from llama_tasks.generate import generate
from llama_tasks.generate.sampling import Chooser, draw
from llama_tasks.model import load_native
from llama_tasks.recipe import PromptConfig, Suite
from llama_tasks.recipe.decoding_fields import check_decoding, settings
from llama_tasks.tokens import Encoder

PROMPTS = [[10 + i, 20, 21, 22, 20, 21] + [30 + i] * i for i in range(7)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_native(make_base(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def encoder(model: Any) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(model.config.name_or_path), PromptConfig(max_length=128))


def scores(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 40, generator=torch.Generator().manual_seed(seed)) * 3


def test_scores_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn from, step by step, for rows of unlike length."""
    suite = Suite(do_sample=True, temperature=0.7, top_k=12, top_p=0.8, repetition_penalty=1.4, no_repeat_ngram_size=2,
                  min_new_tokens=2, max_new_tokens=9)  # fmt: skip
    prompts, ends = [[1, 2, 3, 2], [5, 1, 2]], [2, 7]
    drawn: list[torch.Tensor] = []

    def watch(found: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        drawn.append(found)
        return draw(found, numbers)

    monkeypatch.setattr("llama_tasks.generate.sampling.draw", watch)
    chooser = Chooser(suite, ends)
    chooser.enter(["a", "b"], prompts)
    texts = [list(prompt) for prompt in prompts]
    for step in range(6):
        given = scores(2, step)
        tokens = chooser(given).tolist()
        for i, prompt in enumerate(prompts):
            theirs = LogitsProcessorList([
                RepetitionPenaltyLogitsProcessor(1.4), NoRepeatNGramLogitsProcessor(2),
                MinNewTokensLengthLogitsProcessor(len(prompt), 2, ends), TemperatureLogitsWarper(0.7), TopKLogitsWarper(12),
                TopPLogitsWarper(0.8),
            ])  # fmt: skip
            expected = theirs(torch.tensor([texts[i]]), given[i : i + 1].clone())
            torch.testing.assert_close(drawn[-1][i : i + 1], expected)
            assert expected[0, tokens[i]] > -torch.inf
            texts[i].append(tokens[i])


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    numbers = (torch.arange(1000, dtype=torch.double) + 0.5) / 1000
    counts = draw(probabilities.log().expand(1000, 4), numbers).bincount(minlength=4)
    assert counts.tolist() == [500, 0, 300, 200]
    assert draw(torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([1.0], dtype=torch.double)).item() == 1


@pytest.mark.parametrize("changes", [{"do_sample": True, "temperature": 1.5, "top_k": 50}, {"repetition_penalty": 1.5},
                                     {"no_repeat_ngram_size": 2}, {"min_new_tokens": 4}])  # fmt: skip
def test_a_row_depends_on_nothing_beside_it(model: Any, encoder: Encoder, changes: dict[str, Any]) -> None:
    """Whatever the batches, the order and the engine; another name or seed draws something else."""
    names = [f"row{i}" for i in range(len(PROMPTS))]

    def texts(order: list[int], **more: Any) -> list[Any]:
        suite = Suite(max_new_tokens=6, **changes, **more)
        found = generate(model, encoder, [PROMPTS[i] for i in order], suite, [names[i] for i in order])
        return [found[order.index(i)] for i in sorted(order)]

    everything = list(range(len(PROMPTS)))
    wanted = texts(everything)
    assert texts(everything[::-1], tokens_per_batch=40) == wanted
    assert texts([3]) == wanted[3:4]
    assert texts(everything, engine="transformers", tokens_per_batch=60) == wanted
    if "do_sample" in changes:
        assert texts(everything, seed=1) != wanted
        names = [f"{name}!" for name in names]
        assert texts(everything) != wanted


def test_penalties_equal_those_of_generate(model: Any, encoder: Encoder) -> None:
    """One text at a time through transformers' own options."""
    suite = Suite(max_new_tokens=8, repetition_penalty=1.3, no_repeat_ngram_size=3, min_new_tokens=3)
    outputs = generate(model, encoder, PROMPTS, suite)
    for ids, output in zip(PROMPTS, outputs, strict=True):
        made = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False, max_new_tokens=8,
            repetition_penalty=1.3, no_repeat_ngram_size=3, min_new_tokens=3, eos_token_id=[2], pad_token_id=0,
        )[0, len(ids) :]  # fmt: skip
        assert output.text == encoder.tokenizer.decode(made, skip_special_tokens=True)


def test_beams_do_not_punish_padding(model: Any, encoder: Encoder) -> None:
    """Prompts of unlike length decoded together give what each gives alone."""
    suite = Suite(max_new_tokens=5, num_beams=3, length_penalty=0.5, repetition_penalty=1.8, early_stopping=True)
    together = generate(model, encoder, PROMPTS, suite)
    assert together == [generate(model, encoder, [ids], suite)[0] for ids in PROMPTS]
    assert together != generate(model, encoder, PROMPTS, Suite(max_new_tokens=5, num_beams=3))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temperature": 0.5}, "temperature would have no effect"),
        ({"top_k": 5, "num_beams": 2}, "top_k"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"do_sample": True, "num_beams": 2}, "exclude each other"),
        ({"do_sample": True, "temperature": 0.0}, "above 0"),
        ({"do_sample": True, "top_p": 1.5}, "at most 1"),
        ({"min_new_tokens": 65}, "at most eval.max_new_tokens"),
        ({"scoring": "likelihood", "num_beams": 2}, "generates no text"),
        ({"engine": "native", "num_beams": 2}, "no beam search"),
        ({"engine": "continuous_batching", "repetition_penalty": 1.2}, "continuous batching does not"),
        ({"engine": "vllm", "no_repeat_ngram_size": 2}, "vLLM"),
    ],
)
def test_what_would_have_no_effect_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        check_decoding(Suite(**fields))


@pytest.mark.filterwarnings("ignore")  # its manager speaks of settings that are right for a CPU
def test_continuous_batching_writes_the_same(model: Any, encoder: Encoder) -> None:
    suite = Suite(max_new_tokens=5)
    assert generate(model, encoder, PROMPTS, replace(suite, engine="continuous_batching")) == generate(
        model, encoder, PROMPTS, suite
    )


def test_settings_say_what_is_not_the_default() -> None:
    suite = Suite(do_sample=True, top_p=0.9, max_new_tokens=5)
    check_decoding(suite)
    assert settings(suite) == {
        "scoring": "generate",
        "max_new_tokens": 5,
        "do_sample": True,
        "top_p": 0.9,
        "seed": 12345,
    }
    assert settings(Suite(scoring="likelihood")) == {"scoring": "likelihood"}


def test_engines_that_cannot(model: Any, encoder: Encoder) -> None:
    model.config._attn_implementation = "eager"
    try:
        with pytest.raises(ModelError, match="attention `sdpa` alone"):
            generate(model, encoder, PROMPTS, Suite(engine="native"))
    finally:
        model.config._attn_implementation = "sdpa"
