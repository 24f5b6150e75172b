"""The tokenizer of the embedded base: every text comes back, ids stand where the project expects them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "llama_tasks" / "embedded" / "base"
SAMPLES = ROOT / "llama_tasks" / "embedded" / "samples"
RECIPES = ROOT / "recipes" / "embedded"
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(BASE)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def test_ids_and_settings(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(list(range(4))) == SPECIALS
    assert tokenizer.convert_ids_to_tokens([4, 14, 259]) == ["<0x00>", "<0x0A>", "<0xFF>"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token) == (
        "<s>",
        "</s>",
        "<unk>",
        "<pad>",
    )
    assert len(tokenizer) == tokenizer.vocab_size == 4608
    assert sorted(tokenizer.get_added_vocab()) == sorted(SPECIALS)
    assert (tokenizer.model_max_length, tokenizer.padding_side) == (512, "left")
    assert (BASE / "tokenizer.json").stat().st_size <= 350_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Hello, world! It's 10:45.",
        "Grüße aus Köln, Straße 12 – schön.",
        "你好，世界！安娜住在橡树镇。",
        "mixed 中文 and English，一起",
        "👩‍👩‍👧 🎉 é",
        "a\nb\n\nc\r\n\td",
        "  two  spaces   end  ",
        " leading",
        "龘𠮷 rare",
        "<0x0A> stays text",
        "</s> <s> <unk> <pad>",
        "▁ lower bar ▁▁",
        "\x00\u200b\ufeff",
        "한국어 العربية ひらがな々〇",
    ],
)
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = encode(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert all(index >= 4 for index in ids), "text never becomes a special token"


def test_random_unicode_comes_back(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    ranges = (
        (0x20, 0x7F),
        (0x4E00, 0xA000),
        (0, 0xD800),
        (0xE000, 0x110000),
        (0x20, 0x21),
        (0x2581, 0x2582),
        (0x0A, 0x0B),
    )
    for _ in range(2000):
        text = "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(12)))
        assert tokenizer.decode(encode(tokenizer, text)) == text


def test_plain_encoding_puts_bos_before_and_nothing_after(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = tokenizer("Anna sings.", add_special_tokens=False)["input_ids"]
    assert tokenizer("Anna sings.")["input_ids"] == [tokenizer.bos_token_id, *plain]
    assert tokenizer.bos_token_id not in plain


def test_digits_punctuation_and_han_characters_stand_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("公园里2024，at...") == ["公", "园", "里", "2", "0", "2", "4", "，", "at", ".", ".", "."]
    alone = re.compile(r"[\d\u4e00-\u9fff.,!?，。]")
    ordinary = tokenizer.convert_ids_to_tokens(list(range(260, 4608)))
    assert not [token for token in ordinary if len(token) > 1 and alone.search(token)]


def test_words_of_the_samples_are_short(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(SAMPLES.glob("*/train.jsonl")))
    words = sorted(set(re.findall(r" [a-z]+", text)))
    lengths = [len(tokenizer.tokenize(word)) for word in words]
    assert len(words) > 300
    assert sum(length <= 2 for length in lengths) / len(words) > 0.98
    characters = sorted(set(re.findall(r"[\u4e00-\u9fff]", text)))
    assert all(len(tokenizer.tokenize(character)) == 1 for character in characters)


def test_labels_are_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = (SAMPLES / "classify" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert {len(tokenizer.tokenize(json.loads(row)["label"])) for row in rows} == {1}


@pytest.mark.parametrize("model_type", ["llama", "native_llama"])
def test_auto_tokenizer_gives_the_same_ids_beside_a_llama_config(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, model_type: str
) -> None:
    """A LLaMA config must not lead transformers to rebuild it as a LlamaTokenizer."""
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 4608}))
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Anna 住在 Oakfield.\n", "<0x0A>  ▁ 👩"):
        assert encode(again, text) == encode(tokenizer, text)
    assert again.padding_side == "left"


def test_training_is_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))
    from make_tokenizer import build  # type: ignore[import-not-found]

    rng = random.Random(1)
    words = ["".join(rng.choice("abcdefghijklmnop") for _ in range(rng.randrange(2, 9))) for _ in range(20_000)]
    text = " ".join(words) + "".join(map(chr, range(0x4E00, 0x4E00 + 2400)))
    one, two = (build([(text, 1)], "\u9fa5\u4e00") for _ in range(2))
    assert one.to_str() == two.to_str()
    assert one.get_vocab_size() == 4608
