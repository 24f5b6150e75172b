"""The token cache: what it keeps is what was encoded; each part of the key misses when it changes; damage is made anew."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llama_tasks.dataset import token_cache
from llama_tasks.prompts import Prompt
from llama_tasks.recipe import PromptConfig
from llama_tasks.tasks.base import Example
from llama_tasks.tokens import Encoded, Encoder, Tokens


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA_TASKS_CACHE", str(tmp_path))
    monkeypatch.setattr(token_cache, "LEAST_PROMPTS", 3)
    return tmp_path / "tokens"


def encoder(root: Path, **prompt: object) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(root / "llama_tasks/embedded/base"), PromptConfig(**prompt))


def prompts(word: str = "Anna", template: str = "Say: {text}\n") -> list[Prompt]:
    return [
        Prompt(Example(f"train:{i}", {"text": f"{word} {i} " * i}, f"yes {i}", (), "en"), template, "text")
        for i in range(1, 9)
    ]


def test_what_comes_back_is_what_was_encoded(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder(root, max_length=24, on_too_long="truncate_prompt")
    first = token_cache.encode(made, prompts())
    monkeypatch.setattr(made, "encode", None)  # a second encoding would fail
    again = token_cache.encode(made, prompts())
    assert list(again.tokens) == first.tokens
    assert (again.dropped, again.truncated) == (first.dropped, first.truncated)
    assert first.truncated
    assert again.tokens[-2:] == first.tokens[-2:]
    assert again.tokens[-1] == first.tokens[-1]


def test_every_field_of_tokens_is_kept(cache: Path) -> None:
    tokens = [Tokens("a.1", [1, 5, 6, 7, 2], 2, ((3, 4),), 0.5), Tokens("é", [], 0), Tokens("c", [9] * 70_000, 1)]
    path = cache / "x.arrow"
    token_cache.write(path, Encoded(tokens, ["d"], ["e"]))
    found = token_cache.read(path)
    assert found is not None
    assert list(found.tokens) == tokens
    assert {f.name for f in dataclasses.fields(Tokens)} == {"id", "input_ids", "prompt_length", "ignored", "weight"}


def test_each_part_of_the_key_misses_when_it_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = encoder(root)
    base = token_cache.key(plain, prompts())
    assert token_cache.key(encoder(root), prompts()) == base
    other = encoder(root)
    other.tokenizer.add_tokens(["Oakfield"])
    ended = encoder(root)
    ended.tokenizer.eos_token = "<pad>"
    chat = encoder(root)
    chat.tokenizer.chat_template = "{{ messages }}"
    first, *rest = prompts()
    changed = [
        token_cache.key(plain, prompts(word="Berta")),
        token_cache.key(plain, prompts(template="Tell: {text}\n")),
        token_cache.key(plain, prompts()[:-1]),
        token_cache.key(plain, prompts()[::-1]),
        token_cache.key(plain, [replace(first, example=replace(first.example, target="no")), *rest]),
        token_cache.key(plain, [replace(first, example=replace(first.example, lang="zh")), *rest]),
        token_cache.key(encoder(root, max_length=100), prompts()),
        token_cache.key(encoder(root, on_too_long="drop"), prompts()),
        token_cache.key(other, prompts()),
        token_cache.key(ended, prompts()),
        token_cache.key(chat, prompts()),
    ]
    monkeypatch.setattr(token_cache, "_code", lambda: "the next version")
    changed.append(token_cache.key(plain, prompts()))
    assert len({base, *changed}) == 1 + len(changed)


def test_the_code_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = token_cache._code.__wrapped__()
    (tmp_path / "tokens.py").write_text("")
    monkeypatch.setattr(token_cache, "__file__", str(tmp_path / "dataset" / "token_cache.py"))
    empty = token_cache._code.__wrapped__()
    (tmp_path / "tokens.py").write_text("#")
    assert len({before, empty, token_cache._code.__wrapped__()}) == 3


def test_a_damaged_file_is_made_anew(root: Path, cache: Path) -> None:
    made = encoder(root)
    expected = token_cache.encode(made, prompts()).tokens
    (path,) = cache.glob("*.arrow")
    whole = path.read_bytes()
    flipped = whole[:900] + bytes([whole[900] ^ 1]) + whole[901:]
    for broken in (b"", whole[:-1], whole[: len(whole) // 2], flipped, b"\0" * len(whole)):
        path.write_bytes(broken)
        assert token_cache.read(path) is None
        assert list(token_cache.encode(made, prompts()).tokens) == expected
        assert path.read_bytes() == whole
    assert [p.name for p in cache.iterdir()] == [path.name]


def test_small_splits_and_a_folder_that_cannot_be_written(root: Path, cache: Path, tmp_path: Path) -> None:
    assert len(token_cache.encode(encoder(root), prompts()[:2]).tokens) == 2
    assert not cache.exists()
    cache.write_text("a file is in the way")
    assert len(token_cache.encode(encoder(root), prompts()).tokens) == 8


def test_the_folder_stays_within_its_limit(cache: Path) -> None:
    for i, name in enumerate("abc"):
        token_cache.write(cache / f"{name}.arrow", Encoded([Tokens(name, [1] * 1000, 1)]))
        os.utime(cache / f"{name}.arrow", (i, i))
    size = (cache / "a.arrow").stat().st_size
    assert token_cache.read(cache / "a.arrow") is not None  # used last
    token_cache.prune(cache, 2 * size)
    assert sorted(path.name for path in cache.iterdir()) == ["a.arrow", "c.arrow"]
