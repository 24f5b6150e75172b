"""Conversations by a tokenizer's own chat template (`prompt.template: chat`), as pieces that `tokens` encodes apart.

The template is rendered once with a mark for each message; the marks are then filled with the messages themselves, and
special tokens are looked for in the template's own text alone:

    <|user|>\\n⟦0⟧<|end|>\\n<|assistant|>\\n     ->  [id] "\\n" + message 0 [id] "\\n" [id] "\\n"     prompt
    ⟦1⟧<|end|>                                ->  message 1 [id]                               response
    \\n                                        ->  "\\n", before the next message

So what a user's text contains is never special, and a message is never read as a template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llama_tasks.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SOURCE = "tokenizer"  # stands in a recipe for the tokenizer's own template
# Llama 3's template writes today's date, and an adapter would meet another prompt every day; its own fallback is this one.
TODAY = "26 Jul 2024"
_MARK = re.compile(r"\ue000(\d+)\ue001")  # private-use characters, which no template writes

Piece = str | int  # plain text, or the id of a special token
Messages = Sequence[tuple[str, str]]  # (role, content)


@dataclass(frozen=True)
class ChatFormat:
    """A chat template with its tokenizer.

    source: the template's Jinja source, or `tokenizer` for the tokenizer's own.
    """

    tokenizer: PreTrainedTokenizerBase
    source: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, source: str) -> ChatFormat:
        """Raises ModelError where the tokenizer has no template (a base model), or one that cannot be used."""
        if source == SOURCE:
            found: Any = tokenizer.chat_template
            found = found.get("default") if isinstance(found, dict) else found
            if not found:
                raise ModelError(
                    "prompt.template is chat, but the tokenizer has no chat template: this base is no chat model. Leave "
                    "prompt.template out, and the task's plain prompt is used."
                )
            source = found
        made = cls(tokenizer, source)
        made.end  # noqa: B018 - a template without an end is refused here
        return made

    @cached_property
    def begin(self) -> list[int]:
        """BOS, where the template writes it, else nothing."""
        first = self.segments([("user", "a")], "a")[0][0]
        return [first] if isinstance(first, int) and first == self.tokenizer.bos_token_id else []

    @cached_property
    def end(self) -> int:
        """The special token that closes an answer."""
        last = self.segments([("user", "a")], "a")[1][-1]
        assert isinstance(last, int)
        return last

    def segments(self, before: Messages, answer: str) -> list[list[Piece]]:
        """Prompt, response, prompt, response ... of a conversation that ends with `answer`; a prompt begins where the
        response before it ended. White space around a message is dropped, as chat templates do.

        Raises:
            ModelError: the template does not take such a conversation, or its answers cannot be told from its prompts.
        """
        roles = [role for role, _ in before] + ["assistant"]
        contents = [content.strip() for _, content in before] + [answer.strip()]
        return [list(self._pieces(text, contents)) for text in self._shape(tuple(roles))]

    def whole(self, before: Messages, answer: str) -> list[int]:
        """Ids of the whole conversation as the tokenizer itself writes them; special tokens in messages become special."""
        messages = [{"role": role, "content": content.strip()} for role, content in [*before, ("assistant", answer)]]
        ids: list[int] = self.tokenizer.apply_chat_template(
            messages, chat_template=self.source, return_dict=False, date_string=TODAY
        )
        return ids

    def names_special(self, texts: Sequence[str]) -> bool:
        """Whether a special token is written in one of the texts."""
        return any(self._special.search(text) for text in texts)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Every special token, longest first."""
        added = self.tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.special} | set(self.tokenizer.all_special_tokens)
        return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))

    @cached_property
    def _shapes(self) -> dict[tuple[str, ...], list[str]]:
        return {}

    def _shape(self, roles: tuple[str, ...]) -> list[str]:
        """The segments of a conversation of these roles, with marks for its messages; rendered once."""
        if roles not in self._shapes:
            self._shapes[roles] = list(self._cut(roles))
        return self._shapes[roles]

    def _cut(self, roles: tuple[str, ...]) -> Iterator[str]:
        messages = [{"role": role, "content": f"\ue000{i}\ue001"} for i, role in enumerate(roles)]
        whole, done = self._render(messages, False), 0
        for i, role in enumerate(roles):
            if role != "assistant":
                continue
            prompt, mark = self._render(messages[:i], True), f"\ue000{i}\ue001"
            if not whole.startswith(prompt) or whole[len(prompt) :].lstrip()[: len(mark)] != mark:
                raise ModelError(
                    "The chat template writes an answer in a conversation otherwise than after its generation prompt, so "
                    f"training and answering would differ: {prompt[-60:]!r} against {whole[: len(prompt) + 60][-90:]!r}. Use "
                    "another template (prompt.template.chat), or the plain prompt."
                )
            end = self._special.search(whole, whole.index(mark) + len(mark))
            following = _MARK.search(whole, whole.index(mark) + len(mark))
            if end is None or (following is not None and following.start() < end.start()):
                raise ModelError(
                    "The chat template closes an answer with no special token, so a model could never learn to stop; use "
                    "another template (prompt.template.chat), or the plain prompt."
                )
            yield whole[done : len(prompt)]
            yield whole[len(prompt) : end.end()]
            done = end.end()

    def _render(self, messages: list[dict[str, str]], generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, chat_template=self.source, tokenize=False, add_generation_prompt=generation_prompt,
                date_string=TODAY,
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(f"The chat template does not take a conversation of {roles}: {error}.") from None
        return text

    def _pieces(self, text: str, contents: Sequence[str]) -> Iterator[Piece]:
        """The template's special tokens as ids, everything between them as text with the messages in it."""
        at = 0
        for special in [*self._special.finditer(text), None]:
            literal = text[at : special.start() if special else None]
            if literal:
                yield _MARK.sub(lambda mark: contents[int(mark[1])], literal)
            if special:
                yield self.tokenizer.convert_tokens_to_ids(special[0])
                at = special.end()
