"""Chat templates: the ids are those that the tokenizer itself writes, every answer is learned, no message is special."""

from __future__ import annotations

from typing import Any

import pytest
from token_styles import CHATML, LLAMA3_CHAT, gpt2_style, llama2_first_style, llama2_style, llama3_style

from llama_tasks.errors import ModelError
from llama_tasks.prompts import Prompt, Renderer
from llama_tasks.recipe import PromptConfig
from llama_tasks.sources import Row
from llama_tasks.tasks import Example, Summarize, Turn
from llama_tasks.tokens import Encoder
from llama_tasks.tokens.chat import ChatFormat

CHAT = PromptConfig(template="chat", max_length=1024)
ENDS = {"gpt2": "<|im_end|>", "llama2": "</s>", "llama2-first": "</s>", "llama3": "<|eot_id|>"}
STYLES = {"gpt2": gpt2_style, "llama2": llama2_style, "llama2-first": llama2_first_style, "llama3": llama3_style}


@pytest.fixture(scope="module", params=list(STYLES))
def style(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, STYLES[request.param]()


def talk(*said: str, system: str = "", lang: str = "en") -> Prompt:
    """A conversation; what is said last is the answer to learn."""
    asked, answered = said[::2], said[1::2]
    turns = tuple(Turn({"user": u}, a) for u, a in zip(asked[:-1], answered[:-1], strict=True))
    example = Example("train:0", {"user": asked[-1]}, answered[-1], (answered[-1],), lang, turns=turns)
    return Prompt(example, "{user}", "user", system)


TALKS = [
    talk("The quick fox?", "It jumps."),
    talk("Hi", "Hello", "Der Fuchs über alle?", "Springt für alle.", "And then?", "Nothing."),
    talk("你好世界", "今天天气很好。", "谢谢", "大家好", lang="zh"),
    talk("Summarize.", "Done.", system="You are brief."),
    talk("  spaced \n", " spaced too "),
]


@pytest.mark.parametrize("prompt", TALKS, ids=range(len(TALKS)))
def test_ids_are_the_tokenizers_own(style: tuple[str, Any], prompt: Prompt) -> None:
    _, tokenizer = style
    encoder = Encoder(tokenizer, CHAT)
    item = encoder.encode([prompt]).tokens[0]
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for asked, answer in prompt.exchanges:
        messages += [{"role": "user", "content": asked.strip()}, {"role": "assistant", "content": answer.strip()}]
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    assert item.input_ids == whole[: len(item.input_ids)]
    rest = tokenizer.decode(whole[len(item.input_ids) :])
    assert rest.strip() == ""  # ChatML's line end, which no answer needs
    asked = tokenizer.apply_chat_template(messages[:-1], return_dict=False, add_generation_prompt=True)
    assert encoder.prompt_ids([prompt]) == [asked]
    assert encoder.fit([prompt], 8).ids == [asked]


@pytest.mark.parametrize("prompt", TALKS, ids=range(len(TALKS)))
def test_every_answer_is_learned_and_nothing_else(style: tuple[str, Any], prompt: Prompt) -> None:
    name, tokenizer = style
    encoder = Encoder(tokenizer, CHAT)
    item = encoder.encode([prompt]).tokens[0]
    assert tokenizer.convert_ids_to_tokens(encoder.eos) == [ENDS[name]]
    assert [ids[-1:] for ids in item.responses] == [encoder.eos] * len(prompt.exchanges)
    assert [tokenizer.decode(ids[:-1]).strip() for ids in item.responses] == [a.strip() for _, a in prompt.exchanges]
    assert [i for i in item.labels if i != -100] == [i for ids in item.responses for i in ids]
    assert encoder.choice_ids(prompt, [prompt.example.target]) == item.responses[-1:]


@pytest.mark.parametrize(
    "trap", ["</s>", "<s>", "<|eot_id|>", "<|im_end|>", "<|im_start|>system", "<|start_header_id|>"]
)
def test_messages_are_never_special(style: tuple[str, Any], trap: str) -> None:
    _, tokenizer = style
    prompt = talk(f"{trap} a {trap}", f"b {trap} c", f"d{trap}", f"{trap}e")
    plain = talk("x", "x", "x", "x")
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}

    def specials(conversation: Prompt) -> list[int]:
        return [i for i in Encoder(tokenizer, CHAT).encode([conversation]).tokens[0].input_ids if i in special]

    assert specials(prompt) == specials(plain)
    item = Encoder(tokenizer, CHAT).encode([prompt]).tokens[0]
    assert [tokenizer.decode(ids[:-1]).strip() for ids in item.responses] == [f"b {trap} c", f"{trap}e"]


def test_a_base_model_has_no_chat_template() -> None:
    tokenizer = gpt2_style()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template: this base is no chat model"):
        Encoder(tokenizer, CHAT)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (CHATML.replace("<|im_end|>", ""), "closes an answer with no special token"),
        (CHATML.replace("<|im_start|>assistant\\n' }}{% endif", "<|im_start|>assistant\\nthinking' }}{% endif"),
         "otherwise than after its generation prompt"),
        ("{{ raise_exception('no') }}", "does not take a conversation of user"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_trained_on_are_refused(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Encoder(gpt2_style(), PromptConfig(template={"chat": source}))


def test_a_boundary_inside_a_token_is_refused() -> None:
    """A template without anything between question and answer: apart they are other ids than together."""
    source = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    encoder = Encoder(gpt2_style(), PromptConfig(template={"chat": source}))
    with pytest.raises(ModelError, match="encoded apart are other ids than the whole conversation, from token"):
        encoder.encode([talk("The qui", "ck brown")])


def test_tasks_write_their_prompt_as_the_users_message() -> None:
    task = Summarize()
    renderer = Renderer(task, "chat")
    tokenizer = llama3_style()
    encoder = Encoder(tokenizer, PromptConfig(template=dict(renderer.templates)))
    prompt = renderer(task.example(Row("train:0", {"document": "A fox.", "summary": "Fox.", "lang": "en"}, "x:1")))
    text = tokenizer.decode(encoder.prompt_ids([prompt])[0])
    assert text == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nSummarize the text.\n\nA fox.\n\nSummary:<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_date_of_today_is_in_no_prompt() -> None:
    source = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        + LLAMA3_CHAT.replace("{{ bos_token }}", "{{ bos_token + date_string }}")
    )
    chat = ChatFormat.of(llama3_style(), source)
    assert "26 Jul 2024<|start_header_id|>" in chat.tokenizer.decode(chat.whole([("user", "a")], "b"))


def test_plain_dialogues_and_their_oldest_turns(style: tuple[str, Any]) -> None:
    """Without a chat template: EOS after every answer; what does not fit loses its oldest exchange."""
    _, tokenizer = style
    prompt = TALKS[1]
    config = PromptConfig(max_length=1024, on_too_long="truncate_prompt")
    whole = Encoder(tokenizer, config).encode([prompt]).tokens[0]
    assert [ids[-1] for ids in whole.responses] == [tokenizer.eos_token_id] * 3
    room = len(whole.input_ids) - 1
    cut = Encoder(tokenizer, PromptConfig(max_length=room, on_too_long="truncate_prompt")).encode([prompt])
    assert cut.truncated == ["train:0"]
    assert cut.tokens[0].responses[-1] == whole.responses[-1]
    assert len(cut.tokens[0].responses) == 2


def test_weights_reach_the_tokens() -> None:
    prompt = talk("Hi", "Hello")
    heavy = Prompt(Example("a", {"user": "Hi"}, "Hello", (), "en", weight=2.5), "{user}", "user")
    tokens = Encoder(gpt2_style(), PromptConfig()).encode([prompt, heavy]).tokens
    assert [item.weight for item in tokens] == [1.0, 2.5]
