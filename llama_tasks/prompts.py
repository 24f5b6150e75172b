"""Example -> Prompt: the only place where templates live.

A template is plain text with {fields}; it holds no special token (BOS and EOS are added as ids by `tokens`), so what a
user's text contains is never special either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from llama_tasks.errors import RecipeError
from llama_tasks.recipe import did_you_mean
from llama_tasks.tasks.base import Example, Task

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
