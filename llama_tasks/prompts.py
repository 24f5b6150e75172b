"""Example -> Prompt: the only place where templates live.

A template is plain text with {fields}; it holds no special token (BOS and EOS are added as ids by `tokens`), so what a
user's text contains is never special either. The templates of a run are one mapping, which the contract keeps:

    default, zh, ...          a template for every language code
    default.pair, zh.pair     for the Examples of that variant
    system                    what stands before a whole conversation
    fewshot.en, fewshot.zh    solved examples, as they stand before every prompt of that language
    chat                      source of the chat template (Jinja), where the base has one and the recipe wants it
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llama_tasks.errors import RecipeError, did_you_mean
from llama_tasks.tasks import BUILT_IN
from llama_tasks.tasks.base import Example, Task, primary

UNSPACED = ("ja", "km", "lo", "my", "th", "zh")  # written without spaces between words
BETWEEN = "\n\n"  # between the exchanges of a dialogue, and between solved examples
_FIELD = re.compile(r"\{(\w+)\}")
_OF_THE_WHOLE = ("chat", "system", "fewshot")


@dataclass(frozen=True)
class Prompt:
    """A rendered example.

    Attributes:
        example: where it comes from.
        template: the template used, for every exchange of a dialogue.
        main_field: the field that may be shortened.
        system: what stands before a whole conversation.
        fewshot: solved examples before the prompt, with what separates them from it.
        where: file and line of its row, for errors.
    """

    example: Example
    template: str
    main_field: str
    system: str = ""
    fewshot: str = ""
    where: str = field(default="", repr=False, compare=False)

    @property
    def name(self) -> str:
        """The example's id, with file and line where they are known: `test:17 (my.jsonl:18)`."""
        return f"{self.example.id} ({self.where})" if self.where else self.example.id

    @property
    def exchanges(self) -> list[tuple[str, str]]:
        """What is asked and what is answered, oldest first; the last one is the example's own."""
        turns = [(turn.fields, turn.answer) for turn in self.example.turns]
        asked = [(render(self.template, fields), answer) for fields, answer in turns]
        asked.append((render(self.template, self.example.fields), self.example.target))
        return [(self.fewshot + asked[0][0], asked[0][1]), *asked[1:]]

    @property
    def segments(self) -> list[str]:
        """Prompt, response, prompt, response ... as plain text, without BOS and EOS."""
        texts: list[str] = []
        for asked, answer in self.exchanges:
            before = BETWEEN if texts else f"{self.system}{BETWEEN}" if self.system else ""
            texts += [before + asked, self._follow(asked, answer)]
        return texts

    @property
    def text(self) -> str:
        """Everything before the place where the response begins."""
        return "".join(self.segments[:-1])

    @property
    def response(self) -> str:
        """The response to learn, without EOS, as it follows the prompt."""
        return self.segments[-1]

    def follow(self, answer: str) -> str:
        """The answer as it stands after the prompt: `Answer:` and then ` Paris`, but `答案：` and then `巴黎`.

        Tokenizers write a word after a space as another token than at the start of a line, so only with its space is
        the answer the token that the text above it holds.
        """
        return self._follow(self.exchanges[-1][0], answer)

    def _follow(self, asked: str, answer: str) -> str:
        spaced = asked and not asked[-1].isspace() and self.example.lang not in UNSPACED
        return f" {answer}" if spaced else answer

    def with_main(self, text: str) -> Prompt:
        """The same prompt with another text in the main field."""
        return replace(self, example=replace(self.example, fields={**self.example.fields, self.main_field: text}))

    def without_oldest(self) -> Prompt:
        """The same dialogue without its oldest exchange."""
        return replace(self, example=replace(self.example, turns=self.example.turns[1:]))


def render(template: str, fields: Mapping[str, str]) -> str:
    """Fill {fields}; braces around anything else stay, and a field's own braces are never filled again.

    >>> render("Text: {text}\\nLabel:\\n", {"text": "a {b}"})
    'Text: a {b}\\nLabel:\\n'
    """
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


class Renderer:
    """Templates of one run: Example -> Prompt. The same object serves training, evaluation and prediction.

    Raises:
        RecipeError: a key under which no template is looked up, so that another one would serve instead.
    """

    def __init__(self, task: Task, templates: str | Mapping[str, str] | None = None) -> None:
        self.task = task
        given = {"chat": "tokenizer"} if isinstance(templates, str) else dict(templates or {})
        own = {key: text for key, text in given.items() if key.split(".")[0] not in _OF_THE_WHOLE}
        if "default" not in own and len(own) == 1:
            own["default"] = next(iter(own.values()))
        for key, text in given.items():
            right = _looked_up(key, task)
            if right != key and text != own.get("default"):  # one that stands alone serves all, whatever its key
                raise RecipeError(f"Nothing reads prompt.template.{key}; write prompt.template.{right}.")
        self.templates = {**(own or task.templates), **{key: text for key, text in given.items() if key not in own}}

    def __call__(self, example: Example, where: str = "") -> Prompt:
        """Render one example. where: file and line of its row.

        Raises:
            RecipeError: the template names a field that the task does not give, or leaves out the main one.
        """
        template = self._template(example)
        for name in _FIELD.findall(template):
            if name not in example.fields:
                raise RecipeError(f"The prompt template names {{{name}}}.{did_you_mean(name, list(example.fields))}")
        if template and self.task.main_field not in _FIELD.findall(template):
            raise RecipeError(f"The prompt template must name {{{self.task.main_field}}}: {template!r}")
        fewshot = self.templates.get(f"fewshot.{example.lang}", self.templates.get("fewshot", ""))
        return Prompt(example, template, self.task.main_field, self.templates.get("system", ""), fewshot, where)

    @property
    def has_fewshot(self) -> bool:
        """Whether solved examples stand in the templates: drawn before (a run's own recipe), or written by the user."""
        return any(key.split(".")[0] == "fewshot" for key in self.templates)

    def draw_fewshot(self, prompts: Sequence[Prompt], count: int, seed: int) -> set[str]:
        """Put `count` solved examples of each language before all later prompts of that language; returns their ids, and those of
        rows that say the same.

        Templates that hold solved examples keep them. Where they are what would be drawn (a run's own recipe), the ids are
        those of that draw, so that the same rows leave the training again.

        Raises:
            RecipeError: a language has no more examples than that, where they are to be drawn.
        """
        kept = self.has_fewshot
        by_lang: dict[str, dict[Any, list[Prompt]]] = {}
        for prompt in prompts:
            alike = by_lang.setdefault(prompt.example.lang, {}).setdefault(_content(prompt.example), [])
            alike.append(replace(prompt, system="", fewshot=""))
        drawn: set[str] = set()
        for lang, candidates in sorted(by_lang.items()):
            if len(candidates) <= count and not kept:
                raise RecipeError(
                    f"prompt.num_fewshot is {count}, but only {len(candidates)} different training rows are in the language "
                    f"{lang!r}."
                )
            chosen = random.Random(f"{seed}/{lang}").sample(list(candidates.values()), min(count, len(candidates)))
            header = "".join(f"{prompt.text}{prompt.response}{BETWEEN}" for prompt, *_ in chosen)
            if not kept:
                self.templates[f"fewshot.{lang}"] = header
            if self.templates.get(f"fewshot.{lang}") == header:
                drawn |= {prompt.example.id for alike in chosen for prompt in alike}
        return drawn

    def _template(self, example: Example) -> str:
        """The template of the example's variant and language, else of its variant, its language, or `default`."""
        variants = [f"{example.lang}.{example.variant}", f"default.{example.variant}"] if example.variant else []
        for key in (*variants, example.lang, "default"):
            if key in self.templates:
                if variants and key not in variants:
                    self._check_names_all(example, key)
                return self.templates[key]
        raise RecipeError(
            f"There is no prompt template for the language {example.lang!r} ({example.id}); known: "
            f"{', '.join(self.templates)}. Add prompt.template.{example.lang} or prompt.template.default."
        )

    def _check_names_all(self, example: Example, key: str) -> None:
        """Raise RecipeError where a template that is not the variant's own would leave out what the variant shows."""
        own = self.task.templates.get(f"default.{example.variant}")
        extra = set(_FIELD.findall(own or "")) - set(_FIELD.findall(self.task.templates.get("default", "")))
        missing = sorted(extra - set(_FIELD.findall(self.templates[key])))
        if own is None or missing:
            what = f"does not name {{{missing[0]}}}" if missing else "is not made for them"
            raise RecipeError(
                f"{example.id} needs a template for {example.variant!r} ({example.lang}.{example.variant} or "
                f"default.{example.variant}), and prompt.template.{key} {what}, so it would be left out of the prompt; add one."
            )


def _content(example: Example) -> tuple[Any, ...]:
    """What an example says, whatever its id: `data.weights` repeats rows, and so may a file."""
    turns = ((tuple(turn.fields.items()), turn.answer) for turn in example.turns)
    return (tuple(example.fields.items()), example.target, *turns)


def _looked_up(key: str, task: Task) -> str:
    """The key itself where a template may be looked up under it, else the likeliest one that is.

    The built-in tasks cut a language code to the language and have variants of their own; another task may do as it likes.
    """
    head, _, rest = key.partition(".")
    near = difflib.get_close_matches(head, ("default", *_OF_THE_WHOLE), n=1, cutoff=0.8) if len(head) > 3 else []
    head = near[0] if near else head
    if head in ("chat", "system"):
        return head
    lang, variant = (rest.partition(".")[0], "") if head == "fewshot" else (head, rest)
    if type(task) in BUILT_IN.values():
        lang = primary(lang)
        known = {name.partition(".")[2] for name in task.templates}
        variant = variant if variant in known else next(iter(difflib.get_close_matches(variant, known, n=1)), "")
    if head == "fewshot":
        return head if lang in ("", "default") else f"{head}.{lang}"
    return f"{lang}.{variant}" if variant else lang
