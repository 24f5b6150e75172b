"""Decoding: prompts as ids in, outputs as they end; one seam for every engine.

The native model decodes by slots (`slots`): rows that have ended leave, waiting ones enter, what prompts begin with in common
is computed once. Beams and other models go through transformers (`engines`), or vLLM where a suite asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from llama_tasks.adapters import native_of
from llama_tasks.errors import ModelError
from llama_tasks.generate import engines
from llama_tasks.generate.slots import decode_by_slots
from llama_tasks.model import NativeLlamaForCausalLM
from llama_tasks.model.decoding import can_decode
from llama_tasks.parallel import is_spread
from llama_tasks.recipe import Suite
from llama_tasks.tokens import Encoder


@dataclass(frozen=True)
class Output:
    """One generated text; `finish` is `stop` when the model ended it with EOS, `length` when it ran into the limit. `ids` are its
    tokens, an EOS counted in."""

    text: str
    finish: Literal["stop", "length"]
    ids: list[int]

    @property
    def tokens(self) -> int:
        """How many there are."""
        return len(self.ids)


def generate(
    model: Any, encoder: Encoder, prompts: Sequence[list[int]], suite: Suite, names: Sequence[str] | None = None
) -> list[Output]:
    """The outputs of all prompts, in their order; see `stream`."""
    outputs = dict(stream(model, encoder, prompts, suite, names))
    return [outputs[i] for i in range(len(prompts))]


@torch.inference_mode()
def stream(
    model: Any, encoder: Encoder, prompts: Sequence[list[int]], suite: Suite, names: Sequence[str] | None = None
) -> Iterator[tuple[int, Output]]:
    """(index, output) of every prompt as it ends, by the engine and with the decoding that the suite names.

    At most `suite.tokens_per_batch` tokens, new ones counted in, are held at a time; `slots.HELD` times as many in slots.
    names: of the rows, from which their random numbers are made; left out: their indices.

    Raises:
        ModelError: as `check_engine`.
    """
    check_engine(model, suite)
    ends = stop_ids(model, encoder)
    names = names or [str(i) for i in range(len(prompts))]
    was_training = model.training
    model.eval()
    try:
        for index, ids in _decode(model, encoder, prompts, ends, suite, names):
            end = next((i for i, token in enumerate(ids) if token in ends), None)
            text = encoder.tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            yield index, Output(text, "length", ids) if end is None else Output(text, "stop", ids[: end + 1])
    finally:
        model.train(was_training)


def stop_ids(model: Any, encoder: Encoder) -> list[int]:
    """Every token that ends an output: the tokenizer's EOS, and those that the base names besides (Llama 3 has several)."""
    named = model.generation_config.eos_token_id
    named = [named] if isinstance(named, int) else named or []
    return sorted({*encoder.eos, *named})


def engine_of(model: Any, suite: Suite) -> str:
    """The engine that decodes: what the suite names, or for `auto` the native one where it can."""
    if suite.engine != "auto":
        return suite.engine
    return "native" if suite.num_beams == 1 and _native(model) is not None else "transformers"


def check_engine(model: Any, suite: Suite) -> None:
    """Raise ModelError where the engine that the suite asks for cannot decode this model, or is not installed."""
    engine = engine_of(model, suite)
    if engine == "native" and _native(model) is None:
        raise ModelError(
            "eval.engine: native decodes the native LLaMA with attention `sdpa` alone; leave it out, and transformers decodes."
        )
    if engine in engines.CHECKS:
        engines.CHECKS[engine](model)


def _decode(
    model: Any, encoder: Encoder, prompts: Sequence[list[int]], ends: list[int], suite: Suite, names: Sequence[str]
) -> Iterator[tuple[int, list[int]]]:
    """(index, new ids) of every prompt, by the engine."""
    engine, native = engine_of(model, suite), _native(model)
    if engine == "native" and native is not None:
        return decode_by_slots(native, prompts, ends, suite, names)
    job = engines.Job(model, prompts, ends, _padding(model, encoder), suite, names)
    return engines.ENGINES[engine](job)


def _padding(model: Any, encoder: Encoder) -> int:
    """The tokenizer's padding, unless the embedding has no row for it (many a tokenizer was given one later). It is masked, so any
    id does."""
    pad = encoder.tokenizer.pad_token_id
    return encoder.eos[0] if pad is None or pad >= model.config.vocab_size else pad


def _native(model: Any) -> NativeLlamaForCausalLM | None:
    """The native model inside, where it can be decoded by slots."""
    native = native_of(model)
    return native if native is not None and can_decode(native) and not is_spread(native) else None
