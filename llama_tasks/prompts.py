"""Example -> Prompt: the only place where templates live, and the prompt contract that travels with an adapter.

A template is plain text with {fields}; it holds no special token (BOS and EOS are added as ids by `tokens`), so what a
user's text contains is never special either.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks.errors import ModelError, RecipeError
from llama_tasks.recipe import did_you_mean
from llama_tasks.tasks.base import Example, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTRACT_FILE = "prompt_contract.json"
UNSPACED = ("ja", "km", "lo", "my", "th", "zh")  # written without spaces between words
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Prompt:
    """A rendered example.

    Attributes:
        example: where it comes from.
        template: the template used.
        main_field: the field that may be shortened.
    """

    example: Example
    template: str
    main_field: str

    @property
    def text(self) -> str:
        """The prompt, up to the place where the response begins."""
        return render(self.template, self.example.fields)

    @property
    def response(self) -> str:
        """The response to learn, without EOS, as it follows the prompt."""
        return self.follow(self.example.target)

    def follow(self, answer: str) -> str:
        """The answer as it stands after the prompt: `Answer:` and then ` Paris`, but `答案：` and then `巴黎`.

        Tokenizers write a word after a space as another token than at the start of a line, so only with its space is
        the answer the token that the text above it holds.
        """
        spaced = self.text and not self.text[-1].isspace() and self.example.lang not in UNSPACED
        return f" {answer}" if spaced else answer

    def with_main(self, text: str) -> Prompt:
        """The same prompt with another text in the main field."""
        return replace(self, example=replace(self.example, fields={**self.example.fields, self.main_field: text}))


def render(template: str, fields: Mapping[str, str]) -> str:
    """Fill {fields}; braces around anything else stay, and a field's own braces are never filled again.

    >>> render("Text: {text}\\nLabel:\\n", {"text": "a {b}"})
    'Text: a {b}\\nLabel:\\n'
    """
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


class Renderer:
    """Templates of one run: Example -> Prompt. The same object serves training, evaluation and prediction."""

    def __init__(self, task: Task, templates: Mapping[str, str] | None = None) -> None:
        self.task = task
        self.templates = dict(templates or task.templates)
        if "default" not in self.templates and len(self.templates) == 1:
            self.templates["default"] = next(iter(self.templates.values()))

    def __call__(self, example: Example) -> Prompt:
        """Render one example. Raises RecipeError where the template names a field that the task does not give."""
        template = self.templates.get(example.lang) or self.templates.get("default")
        if template is None:
            raise RecipeError(
                f"There is no prompt template for the language {example.lang!r} ({example.id}); known: "
                f"{', '.join(self.templates)}. Add prompt.template.{example.lang} or prompt.template.default."
            )
        for name in _FIELD.findall(template):
            if name not in example.fields:
                raise RecipeError(f"The prompt template names {{{name}}}.{did_you_mean(name, list(example.fields))}")
        if template and self.task.main_field not in _FIELD.findall(template):
            raise RecipeError(f"The prompt template must name {{{self.task.main_field}}}: {template!r}")
        return Prompt(example, template, self.task.main_field)


@dataclass(frozen=True)
class PromptContract:
    """What an adapter was trained with; everything that loads the adapter checks it."""

    task: str
    template: dict[str, str]
    template_sha256: str
    tokenizer_sha256: str
    special_ids: dict[str, int | None]
    max_length: int
    labels: list[str] = field(default_factory=list)
    sample: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    format: int = 1

    def save(self, folder: Path) -> None:
        """Write `prompt_contract.json` into the folder."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2, sort_keys=True)
        (folder / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> PromptContract:
        """Read the contract. Raises ModelError where it is missing or broken."""
        path = folder / CONTRACT_FILE
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ModelError(f"{folder} has no {CONTRACT_FILE}: it was not trained by llama-tasks.") from None
        except (ValueError, TypeError) as error:
            raise ModelError(f"{path} is broken ({error}).") from None

    def check(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """Raise ModelError, naming the difference, unless tokenizer and templates are those of the training."""
        if hash_of(self.template) != self.template_sha256:
            raise ModelError(f"{folder / CONTRACT_FILE}: the template was changed after training (its hash differs).")
        found = special_ids(tokenizer)
        if found != self.special_ids:
            raise ModelError(
                f"{folder}: trained with special tokens {self.special_ids}, but the tokenizer has {found}."
            )
        if tokenizer_sha256(tokenizer) != self.tokenizer_sha256:
            raise ModelError(
                f"{folder}: trained with another tokenizer (SHA-256 {self.tokenizer_sha256[:12]}…); use the one in the folder."
            )


def hash_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """Ids of BOS, EOS and padding."""
    return {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what decides token ids: vocabulary, merges, normaliser, pre-tokeniser (not padding, not truncation)."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    return hash_of({key: value for key, value in tree.items() if key not in ("padding", "truncation")})
