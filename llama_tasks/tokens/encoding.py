"""Prompt -> Tokens: prompt and response are encoded apart and joined as ids, so the mask is right by construction.

            prompt                    response
    <s>  Sum  mar  ize …  :  \\n  |  A   dog  barks  </s>
    -100 -100 -100 -100  … -100   |  A   dog  barks  </s>     <- labels: EOS always carries loss

In a dialogue every answer is a response; what is asked in between carries no loss:

    <s>  User : Hi …  |  Hello  </s>  |  \\n \\n User : …  |  Yes  </s>

The same function serves training, evaluation and prediction. `audit` checks what comes out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_tasks.duplicates import normalised
from llama_tasks.errors import DataError, ModelError
from llama_tasks.prompts import Prompt
from llama_tasks.recipe import PromptConfig
from llama_tasks.tokens.chat import ChatFormat, Messages, Piece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100  # torch's and transformers' label for "no loss here"
CHECKED = 64  # conversations of a split that are compared with the chat template's own ids


@dataclass(frozen=True)
class Tokens:
    """One example as ids. Labels are aligned with `input_ids` (the model shifts); those before `prompt_length` are -100.

    Attributes:
        ignored: half-open ranges behind `prompt_length` that carry no loss either (what is asked later in a dialogue).
        weight: of the example's loss.
    """

    id: str
    input_ids: list[int]
    prompt_length: int
    ignored: tuple[tuple[int, int], ...] = ()
    weight: float = 1.0

    @property
    def labels(self) -> list[int]:
        """-100 on what is asked, the id itself on every response and its EOS."""
        labels = [IGNORE] * self.prompt_length + self.input_ids[self.prompt_length :]
        for start, end in self.ignored:
            labels[start:end] = [IGNORE] * (end - start)
        return labels

    @property
    def responses(self) -> list[list[int]]:
        """Ids of each response with its EOS."""
        starts = [self.prompt_length, *(end for _, end in self.ignored)]
        ends = [*(start for start, _ in self.ignored), len(self.input_ids)]
        return [self.input_ids[start:end] for start, end in zip(starts, ends, strict=True)]


@dataclass
class Encoded:
    """Tokens of a split, and what happened to examples that were too long.

    Attributes:
        dropped: ids of those that were left out.
        answer_cut: those of them that would have fitted once shortened, but without what the answer takes out of the text.
        truncated: ids of those that were shortened.
    """

    tokens: list[Tokens] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    answer_cut: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fitted:
    """Prompts as ids that leave room for an answer; those that had to be shortened, by their index."""

    ids: list[list[int]]
    shortened: dict[int, Prompt]


class Encoder:
    """Owner of the special tokens: at most one BOS at the start, always one EOS at the end of a response.

    With a chat template both are what that template writes; `eos` is then the token that closes its answers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "The tokenizer has no EOS token, so a model could never learn to stop; use the base's own tokenizer."
            )
        _keep_no_texts(tokenizer)
        self.tokenizer = tokenizer
        self.config = config
        source = "tokenizer" if config.template == "chat" else (config.template or {}).get("chat")
        self.chat = ChatFormat.of(tokenizer, source) if source else None
        if self.chat:
            tokenizer.chat_template = self.chat.source  # so that it is saved with what is trained by it
        bos = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []
        self.bos = self.chat.begin if self.chat else bos
        self.eos = [self.chat.end] if self.chat else [tokenizer.eos_token_id]
        self.puts_space = tokenizer.convert_ids_to_tokens(self.ids(["a"])[0])[0].startswith("\u2581")
        after_special = tokenizer(f"{tokenizer.eos_token}a", add_special_tokens=False)["input_ids"][1:]
        self.puts_space_once = self.puts_space and after_special != self.ids(["a"])[0]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Plain ids of texts; special tokens written in a text stay text."""
        if not texts:
            return []
        # Not through transformers: without offsets and masks, which nobody reads, in a third less time.
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        before, backend.encode_special_tokens = backend.encode_special_tokens, True
        try:
            return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        finally:
            backend.encode_special_tokens = before

    def response_ids(self, responses: Sequence[str]) -> list[list[int]]:
        """Ids of responses as they follow their prompts; a tokenizer that puts a space before every text (Llama 2's) is
        not given another one."""
        return self.ids([text.removeprefix(" ") if self.puts_space else text for text in responses])

    def choice_ids(self, prompt: Prompt, choices: Sequence[str]) -> list[list[int]]:
        """Ids of possible answers as they follow the prompt, each with its EOS."""
        if not self.chat:
            return [ids + self.eos for ids in self.response_ids([prompt.follow(choice) for choice in choices])]
        before = _messages(prompt)
        return self._join([self.chat.segments(before, choice)[-1] for choice in choices], [True] * len(choices))

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Ids from BOS to the place where the response begins."""
        return [list(itertools.chain.from_iterable(segments)) for segments in self.segments(prompts, answered=False)]

    def segments(self, prompts: Sequence[Prompt], *, answered: bool = True) -> list[list[list[int]]]:
        """Ids of each prompt's segments: what is asked, the response with its EOS, and so on through a dialogue; without
        the last response where not `answered`."""
        if self.chat:
            pieces = [self.chat.segments(_messages(prompt), prompt.example.target) for prompt in prompts]
        else:
            pieces = [self._plain_pieces(prompt) for prompt in prompts]
        pieces = pieces if answered else [segments[:-1] for segments in pieces]
        counts = [len(segments) for segments in pieces]
        flat = [segment for segments in pieces for segment in segments]
        ids = iter(self._join(flat, [i % 2 == 1 for count in counts for i in range(count)]))
        return [list(itertools.islice(ids, count)) for count in counts]

    def encode(self, prompts: Sequence[Prompt]) -> Encoded:
        """Prompts with their responses as Tokens; too long ones as `on_too_long` says, and dropped where shortening
        cannot help: response, template and the other fields alone are too long, or what is left of the text no longer
        holds what the answer takes out of it, so that a model would learn to invent.

        Raises:
            DataError: an example is longer than `max_length` and the recipe does not say what to do.
            ModelError: with a chat template, prompt and response are not the ids of the whole conversation.
        """
        result = Encoded()
        too_long = []
        everything = self.segments(prompts)
        self._check_boundaries(prompts, everything)
        for prompt, segments in zip(prompts, everything, strict=True):
            tokens = _tokens(prompt, segments)
            if len(tokens.input_ids) > self.config.max_length:
                room = self.config.max_length - len(segments[-1])
                shorter = self._shorten(prompt, room) if self.config.on_too_long == "truncate_prompt" else None
                lost = shorter is not None and loses_answer(prompt, shorter)
                if shorter is None or lost:
                    too_long.append((prompt, len(tokens.input_ids)))
                    result.answer_cut += [tokens.id] if lost else []
                    continue
                tokens = _tokens(shorter, self.segments([shorter])[0])
                result.truncated.append(tokens.id)
            result.tokens.append(tokens)
        if too_long and self.config.on_too_long == "error":
            raise DataError(_too_long(too_long, len(prompts), self.config.max_length))
        result.dropped = [prompt.example.id for prompt, _ in too_long]
        return result

    def fit(self, prompts: Sequence[Prompt], reserve: int) -> Fitted:
        """Prompts for answering. Prompt and `reserve` new tokens (at most a quarter of max_length is kept free) must
        fit max_length; longer prompts are an error, or shortened in the main field where `on_too_long` is not `error`:
        an evaluation scores every row, so none is dropped.

        Raises:
            DataError: prompts are too long and the recipe does not say what to do.
        """
        room = self.config.max_length - min(reserve, self.config.max_length // 4)
        ids = self.prompt_ids(prompts)
        too_long = [(p, len(i)) for p, i in zip(prompts, ids, strict=True) if len(i) > room]
        if too_long and self.config.on_too_long == "error":
            raise DataError(_too_long(too_long, len(prompts), room))
        shortened = {}
        for index in [i for i, found in enumerate(ids) if len(found) > room]:
            shorter = self._shorten(prompts[index], room)
            if shorter is None:
                raise DataError(
                    f"{prompts[index].name}: without its {prompts[index].main_field} the prompt still has more than {room} "
                    f"tokens, all that prompt.max_length ({self.config.max_length}) leaves beside the output; raise it, or "
                    "shorten the row."
                )
            shortened[index], ids[index] = shorter, self.prompt_ids([shorter])[0]
        return Fitted(ids, shortened)

    def blocks(self, prompts: Sequence[Prompt]) -> Encoded:
        """Plain texts as blocks of max_length tokens; the last block of a document ends with EOS."""
        size = self.config.max_length - len(self.bos)
        result = Encoded()
        for prompt, ids in zip(prompts, self.ids([p.response for p in prompts]), strict=True):
            ids = ids + self.eos
            for i in range(0, len(ids), size):
                name = f"{prompt.example.id}.{i // size}"
                result.tokens.append(Tokens(name, self.bos + ids[i : i + size], len(self.bos)))
        return result

    def begins_right(self, item: Tokens) -> bool:
        """BOS at the start, where there is one, and nowhere else. A chat template may write it before every exchange (Llama
        2's does), but never in a response."""
        if not self.bos:
            return True
        elsewhere = [i for ids in item.responses for i in ids] if self.chat else item.input_ids[1:-1]
        return item.input_ids[:1] == self.bos and self.bos[0] not in elsewhere

    def pieces(self, prompt: Prompt) -> dict[str, list[Piece]]:
        """`{"prompt_pieces": ...}`, what a chat template makes of a prompt up to its first response, text and special ids
        apart; nothing without one."""
        return {"prompt_pieces": self.chat.segments(_messages(prompt), prompt.example.target)[0]} if self.chat else {}

    def _plain_pieces(self, prompt: Prompt) -> list[list[Piece]]:
        pieces: list[list[Piece]] = []
        for asked, answer in zip(prompt.segments[::2], prompt.segments[1::2], strict=True):
            begin = self.bos if not pieces else []
            pieces += [[*begin, asked], [answer, *self.eos]]
        return pieces

    def _join(self, segments: Sequence[Sequence[Piece]], follows: Sequence[bool]) -> list[list[int]]:
        """Ids of segments, all texts encoded in one go. follows: whether a segment is a response, whose text goes on
        where the prompt's text stops."""
        texts, skips = [], []
        for segment, is_response in zip(segments, follows, strict=True):
            for i, piece in enumerate(segment):
                if isinstance(piece, str):
                    text, skip = self._as_it_follows(piece, is_response and i == 0, after_special=i > 0)
                    texts.append(text)
                    skips.append(skip)
        encoded = iter([ids[skip:] for ids, skip in zip(self.ids(texts), skips, strict=True)])
        return [[i for piece in segment for i in (next(encoded) if isinstance(piece, str) else [piece])]
                for segment in segments]  # fmt: skip

    def _as_it_follows(self, text: str, is_response: bool, after_special: bool) -> tuple[str, int]:
        """What to encode for a text in the middle of others, and how many of its first ids to leave out.

        Only tokenizers that put a space before a text (Llama 2's) need care. A response with a space of its own is not
        given another one. A text that would not get the space where it stands is encoded behind a line's end, whose
        ids are then left out.
        """
        if is_response and self.puts_space and text.startswith(" "):
            return text[1:], 0
        if (is_response and self.chat and self.puts_space) or (after_special and self.puts_space_once):
            return f"\n{text}", len(self.ids(["\n"])[0])
        return text, 0

    def _check_boundaries(self, prompts: Sequence[Prompt], everything: Sequence[list[list[int]]]) -> None:
        """With a chat template: pieces encoded apart give the ids of the whole conversation, on a spread of the rows."""
        if self.chat is None:
            return
        step = max(1, len(prompts) // CHECKED)
        for prompt, segments in zip(prompts[::step], everything[::step], strict=True):
            before, target = _messages(prompt), prompt.example.target
            if self.chat.names_special([*(content for _, content in before), target]):
                continue  # the tokenizer would read the user's text as special; ours stays text
            apart, whole = list(itertools.chain.from_iterable(segments)), self.chat.whole(before, target)
            if apart != whole[: len(apart)]:
                at = next((i for i, (a, b) in enumerate(zip(apart, whole, strict=False)) if a != b), len(whole))
                shown = [self.tokenizer.convert_ids_to_tokens(ids[max(0, at - 2) : at + 3]) for ids in (apart, whole)]
                raise ModelError(
                    f"{prompt.name}: with the chat template, prompt and response encoded apart are other ids than the "
                    f"whole conversation, from token {at} on: {shown[0]} against {shown[1]}. The model would be asked otherwise "
                    "than it was made; use another template (prompt.template.chat), or the plain prompt."
                )

    def _shorten(self, prompt: Prompt, room: int) -> Prompt | None:
        """The prompt cut to at most `room` tokens: oldest exchanges of a dialogue go first, then the end of the main field,
        never the template or another field. None where those alone are longer."""
        excess = len(self.prompt_ids([prompt])[0]) - room
        while excess > 0 and prompt.example.turns:
            prompt = prompt.without_oldest()
            excess = len(self.prompt_ids([prompt])[0]) - room
        text = prompt.example.fields[prompt.main_field]
        while excess > 0:
            offsets = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False,
                                     return_offsets_mapping=True)["offset_mapping"]  # fmt: skip
            if excess >= len(offsets):
                return None
            text = text[: offsets[len(offsets) - excess][0]]
            excess = len(self.prompt_ids([prompt.with_main(text)])[0]) - room
        return prompt.with_main(text)


def loses_answer(prompt: Prompt, shorter: Prompt) -> bool:
    """Whether the shortened main field no longer holds what the answer takes out of it. Case, width, spaces and
    punctuation do not count; what did not stand in the whole text is not lost."""
    whole, left = (normalised(made.example.fields[prompt.main_field]) for made in (prompt, shorter))
    spans = [normalised(span) for span in prompt.example.spans]
    return any(span in whole and span not in left for span in spans)


def _messages(prompt: Prompt) -> Messages:
    """A conversation up to the answer: (role, content)."""
    messages = [("system", prompt.system)] if prompt.system else []
    for asked, answer in prompt.exchanges:
        messages += [("user", asked), ("assistant", answer)]
    return messages[:-1]


def _tokens(prompt: Prompt, segments: Sequence[list[int]]) -> Tokens:
    """An example's segments end to end, with what is asked after the first response left out of the loss."""
    ends = list(itertools.accumulate(map(len, segments)))
    ignored = tuple((ends[i - 1], ends[i]) for i in range(2, len(segments), 2))
    return Tokens(
        prompt.example.id, list(itertools.chain.from_iterable(segments)), ends[0], ignored, prompt.example.weight
    )


def _keep_no_texts(tokenizer: PreTrainedTokenizerBase) -> None:
    """Switch off the word cache of a tokenizer that takes whole texts for words (SentencePiece's, as in LLaMA 1 and 2): it
    would keep thousands of texts, 4 KB and more each, and hardly meet one again."""
    backend = tokenizer.backend_tokenizer
    cut = backend.pre_tokenizer
    takes_whole_texts = cut is None or getattr(cut, "split", True) is False  # Metaspace need not split
    if takes_whole_texts and hasattr(backend.model, "_resize_cache"):
        backend.model._resize_cache(0)


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's own convention starts a text with BOS (LLaMA's does, GPT-2-like ones do not)."""
    if tokenizer.bos_token_id is None:
        return False
    return bool(getattr(tokenizer, "add_bos_token", False)) or tokenizer("a")["input_ids"][:1] == [
        tokenizer.bos_token_id
    ]


def _too_long(too_long: list[tuple[Prompt, int]], total: int, limit: int) -> str:
    prompt, longest = max(too_long, key=lambda item: item[1])
    return (
        f"{len(too_long)} of {total} examples are longer than prompt.max_length allows ({limit} tokens); the longest is "
        f"{prompt.name} with {longest}. Raise prompt.max_length, or say prompt.on_too_long=truncate_prompt (shortens the "
        "text, never the answer) or prompt.on_too_long=drop."
    )
