"""Prompt -> Tokens: prompt and response are encoded apart and joined as ids, so the mask is right by construction.

            prompt                    response
    <s>  Sum  mar  ize …  :  \\n  |  A   dog  barks  </s>
    -100 -100 -100 -100  … -100   |  A   dog  barks  </s>     <- labels: EOS always carries loss

The same function serves training, evaluation and prediction. The audit below is a stop, not a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_tasks.errors import DataError, ModelError
from llama_tasks.prompts import Prompt
from llama_tasks.recipe import PromptConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100  # torch's and transformers' label for "no loss here"


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


@dataclass
class Encoded:
    """Tokens of a split, and what happened to examples that were too long."""

    tokens: list[Tokens] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)


class Encoder:
    """Owner of the special tokens: at most one BOS at the start, always one EOS at the end of a response."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "The tokenizer has no EOS token, so a model could never learn to stop; use the base's own tokenizer."
            )
        self.tokenizer = tokenizer
        self.config = config
        self.bos = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []
        self.eos = [tokenizer.eos_token_id]
        self.puts_space = tokenizer.convert_ids_to_tokens(self.ids(["a"])[0])[0].startswith("\u2581")

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Plain ids of texts; special tokens written in a text stay text."""
        if not texts:
            return []
        backend = (
            self.tokenizer.backend_tokenizer
        )  # without offsets and masks, which nobody reads, in a third less time
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

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Ids from BOS to the place where the response begins."""
        return [self.bos + ids for ids in self.ids([prompt.text for prompt in prompts])]

    def encode(self, prompts: Sequence[Prompt]) -> Encoded:
        """Prompts with their responses as Tokens; too long ones as `on_too_long` says, and dropped where shortening
        cannot help (response, template and the other fields alone are too long).

        Raises:
            DataError: an example is longer than `max_length` and the recipe does not say what to do.
        """
        result = Encoded()
        too_long = []
        pairs = zip(prompts, self.prompt_ids(prompts), self.response_ids([p.response for p in prompts]), strict=True)
        for prompt, head, tail in pairs:
            tokens = Tokens(prompt.example.id, head + tail + self.eos, len(head))
            if len(tokens.input_ids) > self.config.max_length:
                room = self.config.max_length - len(tail) - len(self.eos)
                shorter = self._shorten(prompt, room) if self.config.on_too_long == "truncate_prompt" else None
                if shorter is None:
                    too_long.append((tokens.id, len(tokens.input_ids)))
                    continue
                tokens = Tokens(tokens.id, shorter + tail + self.eos, len(shorter))
                result.truncated.append(tokens.id)
            result.tokens.append(tokens)
        if too_long and self.config.on_too_long == "error":
            raise DataError(_too_long(too_long, len(prompts), self.config.max_length))
        result.dropped = [name for name, _ in too_long]
        return result

    def fit(self, prompts: Sequence[Prompt], reserve: int) -> list[list[int]]:
        """Prompt ids for answering. Prompt and `reserve` new tokens (at most a quarter of max_length is kept free) must
        fit max_length; longer prompts are an error, or shortened in the main field where `on_too_long` is not `error`:
        an evaluation scores every row, so none is dropped.

        Raises:
            DataError: prompts are too long and the recipe does not say what to do.
        """
        room = self.config.max_length - min(reserve, self.config.max_length // 4)
        ids = self.prompt_ids(prompts)
        too_long = [(p.example.id, len(i)) for p, i in zip(prompts, ids, strict=True) if len(i) > room]
        if too_long and self.config.on_too_long == "error":
            raise DataError(_too_long(too_long, len(prompts), room))
        fitting = [i if len(i) <= room else self._shorten(p, room) for p, i in zip(prompts, ids, strict=True)]
        for prompt, found in zip(prompts, fitting, strict=True):
            if found is None:
                raise DataError(
                    f"{prompt.example.id}: without its {prompt.main_field} the prompt still has more than {room} tokens, all that "
                    f"prompt.max_length ({self.config.max_length}) leaves beside the output; raise it, or shorten the row."
                )
        return [found for found in fitting if found is not None]

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

    def _shorten(self, prompt: Prompt, room: int) -> list[int] | None:
        """Prompt ids of at most `room` tokens: the end of the main field goes, never the template or another field. None
        where those alone are longer."""
        text = prompt.example.fields[prompt.main_field]
        excess = len(self.prompt_ids([prompt])[0]) - room
        while excess > 0:
            offsets = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False,
                                     return_offsets_mapping=True)["offset_mapping"]  # fmt: skip
            if excess >= len(offsets):
                return None
            text = text[: offsets[len(offsets) - excess][0]]
            excess = len(self.prompt_ids([prompt.with_main(text)])[0]) - room
        return self.prompt_ids([prompt.with_main(text)])[0]


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's own convention starts a text with BOS (LLaMA's does, GPT-2-like ones do not)."""
    if tokenizer.bos_token_id is None:
        return False
    return bool(getattr(tokenizer, "add_bos_token", False)) or tokenizer("a")["input_ids"][:1] == [
        tokenizer.bos_token_id
    ]


def _too_long(too_long: list[tuple[str, int]], total: int, limit: int) -> str:
    name, longest = max(too_long, key=lambda item: item[1])
    return (
        f"{len(too_long)} of {total} examples are longer than prompt.max_length allows ({limit} tokens); the longest is {name} "
        f"with {longest}. Raise prompt.max_length, or say prompt.on_too_long=truncate_prompt (shortens the text, never "
        "the answer) or prompt.on_too_long=drop."
    )


# --- the audit ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Something wrong with training data: which rule, how many rows, which ones, and the switch that allows it."""

    rule: str
    rows: list[str]
    total: int
    explanation: str
    switch: str | None = None

    def __str__(self) -> str:
        allow = f" To go on all the same: prompt.allow=[{self.switch}]." if self.switch else ""
        return f"{self.explanation}: {self.total} rows, first {', '.join(self.rows)}.{allow}"


def audit(encoder: Encoder, prompts: Sequence[Prompt], tokens: Sequence[Tokens]) -> list[Finding]:
    """Check what the model will learn from: a target in every example, EOS inside the loss, at most one BOS at the
    start, targets that decode back to their text."""
    texts = {prompt.example.id: prompt.response for prompt in prompts}
    problems: dict[str, list[str]] = {}
    for item in tokens:
        for rule in _problems(encoder, item, texts.get(item.id)):
            problems.setdefault(rule, []).append(item.id)
    return [_finding(rule, rows) for rule, rows in problems.items()]


def audit_leaks(train: Sequence[Prompt], test: Sequence[Prompt], split: str) -> list[Finding]:
    """Rows of the test (or validation) split whose prompt stands in the training split."""
    seen = {prompt.text for prompt in train}
    rows = [prompt.example.id for prompt in test if prompt.text in seen]
    return (
        [Finding("leak", rows[:5], len(rows), f"rows of the {split} split are in the training split", "leak")]
        if rows
        else []
    )


def stop_on(findings: Sequence[Finding], allow: Sequence[str]) -> None:
    """Raise DataError with every finding that the recipe does not allow."""
    stops = [str(finding) for finding in findings if finding.switch not in allow]
    if stops:
        raise DataError("The audit of the training data stops this run. " + " ".join(stops))


def _problems(encoder: Encoder, item: Tokens, text: str | None) -> Iterator[str]:
    targets = item.input_ids[item.prompt_length :]
    if len(targets) < 2:
        yield "no_target"
    if text is not None and targets[-1:] != encoder.eos:
        yield "no_eos"
    if encoder.bos and (item.input_ids[:1] != encoder.bos or encoder.bos[0] in item.input_ids[1:-1]):
        yield "bos"
    if (
        text is not None
        and encoder.tokenizer.decode(targets[:-1], clean_up_tokenization_spaces=False).strip() != text.strip()
    ):
        yield "target_roundtrip"


def _finding(rule: str, rows: list[str]) -> Finding:
    explanation, switch = {
        "no_target": ("examples without a token to learn", None),
        "no_eos": ("examples whose loss does not end with EOS", None),
        "bos": ("examples without exactly one BOS at the start", None),
        "target_roundtrip": ("targets that the tokenizer cannot write (unknown characters, or its normalisation changes them)",
                             "target_roundtrip"),
    }[rule]  # fmt: skip
    return Finding(rule, rows[:5], len(rows), explanation, switch)
