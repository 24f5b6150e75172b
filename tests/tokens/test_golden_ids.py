"""Every task's prompts as ids, over every style of tokenizer: EOS in the loss, one BOS, the mask, targets that decode back,
and text of users that is never special."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from token_styles import gpt2_style, llama2_first_style, llama2_style, llama3_style
from transformers import AutoTokenizer

from llama_tasks import adapters, tasks
from llama_tasks.prompts import Renderer
from llama_tasks.recipe import PromptConfig
from llama_tasks.sources import Row
from llama_tasks.tokens import IGNORE, Encoder
from llama_tasks.tokens.audit import Audit

TRAPS = ["</s>", "<s>", "<unk>", "<|eot_id|>", "<|begin_of_text|>", "<|endoftext|>", "<|im_end|>", "[INST]", "{text}"]
TEXTS = {
    "en": ("The quick brown fox isn't lazy: it jumps 1,234 times.", "A fox jumps."),
    "de": ("Der schnelle Fuchs springt über Zäune, 1.234 Mal.", "Der Fuchs springt für alle."),
    "zh": ("今天天气很好，大家去公园玩了3小时。", "天气很好。"),
}
STYLES: dict[str, Any] = {
    "gpt2": gpt2_style, "llama2": llama2_style, "llama2-first": llama2_first_style, "llama3": llama3_style,
    "embedded": adapters.EMBEDDED, "llama2-32k": "models/tokenizers/llama2-32k",
    "chinese-llama": "models/tokenizers/chinese-llama-enzh",
}  # fmt: skip


@pytest.fixture(scope="module", params=list(STYLES))
def tokenizer(request: pytest.FixtureRequest, shared: Callable[[str], Path]) -> Any:
    style = STYLES[request.param]
    if callable(style):
        return style()
    return AutoTokenizer.from_pretrained(shared(style) if isinstance(style, str) else style)


def row_of(task: str, lang: str, text: str, answer: str) -> dict[str, Any]:
    return {
        "translate": {"source": text, "target": answer, "source_lang": "en", "target_lang": lang},
        "summarize": {"document": text, "summary": answer, "lang": lang},
        "qa": {"context": text, "question": text, "answers": [answer], "lang": lang},
        "classify": {"text": text, "text_pair": text, "label": answer, "lang": lang},
    }[task]


def prompt_of(task: str, lang: str, text: str, answer: str) -> Any:
    made = tasks.create(task, [answer])
    return Renderer(made)(made.example(Row("train:0", row_of(task, lang, text, answer), "my.jsonl:1")))


@pytest.mark.parametrize("lang", list(TEXTS))
@pytest.mark.parametrize("task", ["translate", "summarize", "qa", "classify"])
def test_prompt_response_and_mask(tokenizer: Any, task: str, lang: str) -> None:
    text, answer = TEXTS[lang]
    prompt, encoder = prompt_of(task, lang, text, answer), Encoder(tokenizer, PromptConfig(max_length=1024))
    item = encoder.encode([prompt]).tokens[0]
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    assert item.input_ids[-1] == item.labels[-1] == tokenizer.eos_token_id
    assert [i for i in item.input_ids if i in special] == [*encoder.bos, tokenizer.eos_token_id]
    assert item.input_ids[: len(encoder.bos)] == encoder.bos
    assert item.labels == [IGNORE] * item.prompt_length + item.input_ids[item.prompt_length :]
    assert tokenizer.decode(item.responses[0][:-1]).strip() == answer
    assert tokenizer.decode(item.input_ids[len(encoder.bos) : item.prompt_length]).strip() == prompt.text
    assert encoder.fit([prompt], 8).ids == [item.input_ids[: item.prompt_length]]
    assert encoder.choice_ids(prompt, [answer]) == item.responses
    assert Audit(encoder).check([prompt], [item]) == []


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("task", ["translate", "summarize", "qa", "classify"])
def test_text_of_users_is_never_special(tokenizer: Any, task: str, trap: str) -> None:
    text, answer = f"{trap}A fox {trap} jumps{trap}", f"fox {trap} jumps"
    prompt, encoder = prompt_of(task, "en", text, answer), Encoder(tokenizer, PromptConfig(max_length=1024))
    item = encoder.encode([prompt]).tokens[0]
    known = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert [i for i in item.input_ids if i in known] == [*encoder.bos, tokenizer.eos_token_id]
    assert tokenizer.decode(item.responses[0][:-1]).strip() == answer


def around(tokenizer: Any) -> list[str]:
    """The pieces where the prompt of one example ends and its response stands."""
    item = Encoder(tokenizer, PromptConfig()).encode([prompt_of("summarize", "en", "A fox.", "The quick")]).tokens[0]
    pieces: list[str] = tokenizer.convert_ids_to_tokens(item.input_ids[item.prompt_length - 1 :])
    return pieces


def test_pictures_of_the_styles(shared: Callable[[str], Path]) -> None:
    """The same example by hand: where prompt and response meet in each style."""
    assert around(gpt2_style()) == [":", "ĠThe", "Ġquick", "<|endoftext|>"]
    assert around(llama3_style()) == [":", "ĠThe", "Ġquick", "<|end_of_text|>"]
    assert "".join(around(llama2_style())) == "".join(around(llama2_first_style())) == ":▁The▁quick</s>"
    assert around(AutoTokenizer.from_pretrained(shared(STYLES["llama2-32k"]))) == [":", "▁The", "▁quick", "</s>"]
