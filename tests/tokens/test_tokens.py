"""Prompt and response as ids, golden pictures of the mask. Tokenizers are trained in the test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from token_styles import gpt2_style, llama2_first_style, llama2_style, llama3_style
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llama_tasks import tasks
from llama_tasks.contract import tokenizer_sha256
from llama_tasks.errors import DataError, ModelError, RecipeError
from llama_tasks.prompts import Prompt, Renderer, render
from llama_tasks.recipe import PromptConfig
from llama_tasks.sources import Row
from llama_tasks.tokens import IGNORE, Encoder, loses_answer

STYLES = {style.__name__: style for style in (gpt2_style, llama2_style, llama2_first_style, llama3_style)}


@pytest.fixture(scope="module", params=STYLES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return STYLES[request.param]()


def prompt(document: str, summary: str, lang: str = "en", name: str = "train:0") -> Prompt:
    task = tasks.create("summarize")
    return Renderer(task)(
        task.example(Row(name, {"document": document, "summary": summary, "lang": lang}, "my.jsonl:1"))
    )


SAMPLES = [
    ("The quick brown fox jumps.", "A fox jumps.", "en"),
    ("Der schnelle Fuchs springt über Zäune.", "Fuchs springt für alle.", "de"),
    ("今天天气很好，大家去公园。", "天气很好。", "zh"),
    ("A trap: </s> and <|endoftext|> and <s>.", "It says </s> and <|endoftext|>.", "en"),
    ("{document} {braces}", "{document} 100%", "en"),
]


@pytest.mark.parametrize(("document", "summary", "lang"), SAMPLES)
def test_mask_eos_and_round_trip(tokenizer: PreTrainedTokenizerFast, document: str, summary: str, lang: str) -> None:
    encoder = Encoder(tokenizer, PromptConfig())
    item = encoder.encode([prompt(document, summary, lang)]).tokens[0]
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    assert item.input_ids.count(eos) == 1
    assert item.input_ids[-1] == item.labels[-1] == eos
    assert item.labels[: item.prompt_length] == [IGNORE] * item.prompt_length
    assert item.labels[item.prompt_length :] == item.input_ids[item.prompt_length :]
    assert tokenizer.decode(item.input_ids[item.prompt_length : -1]).strip() == summary
    assert document in tokenizer.decode(item.input_ids[: item.prompt_length])
    if bos is not None:
        assert item.input_ids[0] == bos
        assert item.input_ids.count(bos) == 1


def test_training_and_prediction_prompts_are_the_same_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer, PromptConfig())
    prompts = [prompt(*sample) for sample in SAMPLES]
    trained = [item.input_ids[: item.prompt_length] for item in encoder.encode(prompts).tokens]
    assert encoder.fit(prompts, 20).ids == trained


def test_golden_ids() -> None:
    """One picture by hand: the ids of the embedded tokenizer on a tiny example."""
    tokenizer = AutoTokenizer.from_pretrained("llama_tasks/embedded/base")
    item = Encoder(tokenizer, PromptConfig()).encode([prompt("Anna sings.", "Anna sings.")]).tokens[0]
    assert tokenizer.convert_ids_to_tokens(item.input_ids)[0] == "<s>"
    assert tokenizer.convert_ids_to_tokens(item.input_ids[item.prompt_length - 1 :]) == [
        ":",
        " Anna",
        " sings",
        ".",
        "</s>",
    ]
    chinese = Encoder(tokenizer, PromptConfig()).encode([prompt("安娜唱歌。", "安娜唱歌。", "zh")]).tokens[0]
    pieces = tokenizer.convert_ids_to_tokens(chinese.input_ids[chinese.prompt_length - 1 :])
    assert pieces == ["：", "安", "娜", "唱", "歌", "。", "</s>"]


def test_too_long_is_an_error_unless_the_recipe_says_what_to_do(tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = [prompt("The quick brown fox jumps. " * n, "A fox.", name=f"train:{n}") for n in (1, 60)]
    with pytest.raises(
        DataError,
        match=r"1 of 2 examples are longer than prompt.max_length allows \(100 tokens\); the longest is train:60",
    ):
        Encoder(tokenizer, PromptConfig(max_length=100)).encode(prompts)
    dropped = Encoder(tokenizer, PromptConfig(max_length=100, on_too_long="drop")).encode(prompts)
    assert ([t.id for t in dropped.tokens], dropped.dropped) == (["train:1"], ["train:60"])
    cut = Encoder(tokenizer, PromptConfig(max_length=100, on_too_long="truncate_prompt")).encode(prompts)
    assert cut.truncated == ["train:60"]
    shortened = cut.tokens[1]
    assert 90 < len(shortened.input_ids) <= 100
    assert tokenizer.decode(shortened.input_ids[shortened.prompt_length : -1]).strip() == "A fox."
    assert tokenizer.decode(shortened.input_ids[: shortened.prompt_length]).endswith("Summary:")


def test_an_answer_that_alone_is_too_long_is_dropped_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer, PromptConfig(max_length=60, on_too_long="truncate_prompt"))
    made = encoder.encode(
        [prompt("Short.", "The quick brown fox jumps. " * 40), prompt("A dog.", "A dog.", name="train:1")]
    )
    assert [item.id for item in made.tokens] == ["train:1"]
    assert made.dropped == ["train:0"]
    assert made.truncated == []


def asked(context: str, *answers: str, name: str = "train:0", **options: bool) -> Prompt:
    task = tasks.create("qa", config=PromptConfig(**options))
    row = Row(name, {"context": context, "question": "Who?", "answers": list(answers), "lang": "en"}, "my.jsonl:1")
    return Renderer(task)(task.example(row), row.where)


def test_an_example_whose_answer_would_be_cut_out_of_its_text_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    filler = "The quick brown fox jumps. " * 60
    encoder = Encoder(tokenizer, PromptConfig(max_length=100, on_too_long="truncate_prompt"))
    prompts = [
        asked(f"A dog. {filler}", "A dog", name="train:0"),
        asked(f"{filler} A dog.", "A dog", name="train:1"),
        asked(f"A DOG, {filler}", "a dog.", name="train:2"),  # annotators' case and punctuation
        asked(filler, "a cat", name="train:3"),  # free text: never stood there
        asked(filler, name="train:4"),  # unanswerable
        asked(f"A dog. {filler} A cat.", "A dog", "A cat", name="train:5", all_answers=True),
        asked(f"A dog. {filler} A cat.", "A dog", "A cat", name="train:6"),
    ]
    made = encoder.encode(prompts)
    assert made.truncated == ["train:0", "train:2", "train:3", "train:4", "train:6"]
    assert made.dropped == made.answer_cut == ["train:1", "train:5"]
    fitted = encoder.fit(prompts[:2], reserve=20)  # every row is scored, and such rows are counted
    lost = [loses_answer(prompt, fitted.shortened[i]) for i, prompt in enumerate(prompts[:2])]
    assert lost == [False, True]
    with pytest.raises(DataError, match=r"the longest is train:0 \(my.jsonl:1\) with"):
        Encoder(tokenizer, PromptConfig(max_length=100)).encode(prompts[:1])


def test_a_prompt_that_cannot_be_shortened_for_answering_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer, PromptConfig(max_length=8, on_too_long="truncate_prompt"))
    with pytest.raises(DataError, match="train:0: without its document the prompt still has more than 6 tokens"):
        encoder.fit([prompt("The quick brown fox jumps.", "A fox.")], reserve=20)


def test_generation_prompts_leave_room_for_the_output(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer, PromptConfig(max_length=100, on_too_long="drop"))
    ids = encoder.fit([prompt("The quick brown fox jumps. " * 60, "A fox.")], reserve=20).ids[0]
    assert 70 <= len(ids) <= 80


def test_blocks_cut_long_text_and_lose_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    task = tasks.create("text")
    text = "The quick brown fox jumps. " * 30
    item = Renderer(task)(task.example(Row("train:0", {"text": text}, "x")))
    encoder = Encoder(tokenizer, PromptConfig(max_length=50))
    blocks = encoder.blocks([item]).tokens
    joined = [i for block in blocks for i in block.input_ids[len(encoder.bos) :]]
    assert joined == encoder.ids([text])[0] + encoder.eos
    assert all(len(block.input_ids) <= 50 for block in blocks)


def test_tokenizer_without_eos_is_refused() -> None:
    tokenizer = gpt2_style()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no EOS"):
        Encoder(tokenizer, PromptConfig())


def test_templates() -> None:
    assert render("{a} {b} {{a}}", {"a": "{b}"}) == "{b} {b} {{b}}"
    task = tasks.create("summarize")
    example = task.example(Row("train:0", {"document": "d", "summary": "s", "lang": "fr"}, "x"))
    assert Renderer(task)(example).text.startswith("Summarize")
    assert Renderer(task, {"fr": "Résume : {document}\n"})(example).text == "Résume : d\n"
    with pytest.raises(RecipeError, match="Did you mean 'document'"):
        Renderer(task, {"default": "{documents}"})(example)
    with pytest.raises(RecipeError, match="must name {document}"):
        Renderer(task, {"default": "Summarize."})(example)


def test_tokenizer_hash_survives_saving(tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    tokenizer(["a", "b c d"], padding=tokenizer.pad_token is not None)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_sha256(AutoTokenizer.from_pretrained(tmp_path)) == tokenizer_sha256(tokenizer)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux' /proc")
@pytest.mark.parametrize("style", [llama2_style, llama2_first_style])
def test_texts_do_not_stay_in_memory(style: Callable[[], PreTrainedTokenizerFast]) -> None:
    encoder = Encoder(style(), PromptConfig())
    encode = [
        [f"{start + i} " + "quick brown foxes of 17 towns " * 4 for i in range(1000)] for start in range(0, 6000, 1000)
    ]
    encoder.ids(encode[0])
    before = kilobytes()
    for texts in encode[1:]:
        encoder.ids(texts)
    assert kilobytes() - before < 8_000  # 5,000 texts; each kept would be 4 KB and more


def kilobytes() -> int:
    """Memory of this process that no file stands behind."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1])
