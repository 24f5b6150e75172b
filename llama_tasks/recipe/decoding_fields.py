"""How outputs are made: the fields of a suite that say it, checked so that none is accepted and then not used. No torch here."""

from __future__ import annotations

import dataclasses
from typing import Any

from llama_tasks.errors import RecipeError
from llama_tasks.recipe.fields import Suite

#: Fields of a suite that can change a generated text, beside `scoring`.
FIELDS = (
    "max_new_tokens", "min_new_tokens", "num_beams", "length_penalty", "early_stopping", "do_sample", "temperature", "top_k",
    "top_p", "repetition_penalty", "no_repeat_ngram_size", "engine",
)  # fmt: skip
_BEAMS = ("length_penalty", "early_stopping")
_SAMPLING = ("temperature", "top_k", "top_p")
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Suite)}


def settings(suite: Suite) -> dict[str, Any]:
    """What makes the outputs of a suite, for its scores: `max_new_tokens` and whatever is not the default.

    >>> settings(Suite(num_beams=4))
    {'scoring': 'generate', 'max_new_tokens': 64, 'num_beams': 4}
    """
    if suite.scoring != "generate":
        return {"scoring": suite.scoring}
    named = {name: getattr(suite, name) for name in FIELDS if name == "max_new_tokens" or _changed(suite, name)}
    return {"scoring": "generate", **named, **({"seed": suite.seed} if suite.do_sample else {})}


def is_greedy(suite: Suite) -> bool:
    """Whether the next token is simply the likeliest one."""
    return not suite.do_sample and not any(
        _changed(suite, name) for name in ("min_new_tokens", "num_beams", "repetition_penalty", "no_repeat_ngram_size")
    )


def check_decoding(suite: Suite) -> None:
    """Raise RecipeError for a field out of its range, or one that another field leaves without effect."""
    for name, ok, range_ in (
        ("temperature", suite.temperature > 0, "above 0"),
        ("top_p", 0 < suite.top_p <= 1, "above 0 and at most 1"),
        ("repetition_penalty", suite.repetition_penalty > 0, "above 0"),
        ("min_new_tokens", suite.min_new_tokens <= suite.max_new_tokens, "at most eval.max_new_tokens"),
    ):
        if not ok:
            raise RecipeError(f"eval.{name} must be {range_}, not {getattr(suite, name)}.")
    if suite.num_beams > 1 and suite.do_sample:
        raise RecipeError("eval.num_beams above 1 and eval.do_sample exclude each other; choose one of them.")
    if suite.scoring != "generate":
        _refuse(suite, (*FIELDS[1:],), f"eval.scoring: {suite.scoring} generates no text")
    if suite.num_beams == 1:
        _refuse(suite, _BEAMS, "it belongs to beam search (eval.num_beams above 1)")
    if not suite.do_sample:
        _refuse(suite, _SAMPLING, "it belongs to sampling (eval.do_sample: true)")
    if suite.engine == "native":
        _refuse(suite, ("num_beams",), "the native engine has no beam search; leave eval.engine out")
    if suite.engine == "continuous_batching":
        beyond = ("num_beams", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens")
        _refuse(suite, beyond, "transformers' continuous batching does not do it")
    if suite.engine == "vllm":
        _refuse(suite, ("num_beams", "no_repeat_ngram_size"), "vLLM's generate does not do it")


def _changed(suite: Suite, name: str) -> bool:
    return bool(getattr(suite, name) != _DEFAULTS[name])


def _refuse(suite: Suite, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if _changed(suite, name):
            raise RecipeError(f"eval.{name} would have no effect: {why}.")
