"""The base's tokenizer, and where a base lies: all that reading data needs of it. No weights, so no model is imported."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llama_tasks.errors import ModelError
from llama_tasks.recipe import BaseConfig

EMBEDDED = Path(__file__).parents[1] / "embedded" / "base"


def where_is(model: str, revision: str | None = None) -> str:
    """Folder of the embedded base, or the folder or Hub id itself. Raises ModelError for a revision of what is not on the Hub."""
    if revision is not None and (model == "embedded" or Path(model).is_dir()):
        what = "The base `embedded` comes along with llama-tasks" if model == "embedded" else f"{model} is a folder"
        raise ModelError(f"{what} and has no revision {revision!r}; leave the revision out.")
    return str(EMBEDDED) if model == "embedded" else model


def load_tokenizer(base: BaseConfig) -> PreTrainedTokenizerBase:
    """The base's tokenizer. Raises ModelError where there is none, or not in that revision."""
    place = where_is(base.model, base.revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=base.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_not_found(base.model, error)) from None
    if not tokenizer.is_fast:
        raise ModelError(
            f"{base.model}: its tokenizer has no tokenizer.json; save it with transformers as a fast tokenizer first."
        )
    return tokenizer


def largest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest id that a text can become; special tokens written in a text stay text (`Encoder.ids`)."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return max(number for number in tokenizer.get_vocab().values() if number not in special)


def _not_found(model: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = "folder" if Path(model).exists() else "folder, and no such model can be had from the Hub"
    return f"Cannot load the tokenizer of the base model {model!r} ({kind}): {reason}"
