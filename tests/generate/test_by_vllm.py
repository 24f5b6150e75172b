"""vLLM gets the model as it is: its adapter, its numbers, its decoding; where it cannot, one sentence. Where vLLM is installed it
writes what we write."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from tiny import make_base, make_model

from llama_tasks.adapters import load_any
from llama_tasks.errors import ModelError
from llama_tasks.generate import generate
from llama_tasks.generate.by_vllm import _files, _llm, _save_adapter, vllm_settings
from llama_tasks.model import load_native
from llama_tasks.recipe import BaseConfig, PromptConfig, Suite
from llama_tasks.tokens import Encoder
from llama_tasks.tokens.tokenizer import EMBEDDED, load_tokenizer

TARGETS = ["q_proj", "v_proj", "down_proj"]
TEXTS = ["那天绿港镇的街上有很多人。", "The streets of Stonebridge were full of people that day. A nurse", "Tom"]
missing = importlib.util.find_spec("vllm") is None


def adapted(**fields: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM", **{"r": 6, **fields})
    return get_peft_model(load_native(EMBEDDED), config).eval()


def test_the_adapter_is_handed_on(tmp_path: Path) -> None:
    model = adapted(rank_pattern={"v_proj": 12})
    assert _save_adapter(model, tmp_path) == 12
    assert (tmp_path / "adapter_model.safetensors").is_file()
    with model.disable_adapter():
        assert _save_adapter(model, tmp_path) == 0
    assert _save_adapter(model.unload(), tmp_path) == 0


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_what_vllm_would_leave_out_is_refused(tmp_path: Path) -> None:
    for fields in ({"trainable_token_indices": [2]}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}):
        with pytest.raises(ModelError, match=f"plain LoRA alone.*{next(iter(fields))}"):
            _save_adapter(adapted(**fields), tmp_path)


def test_vllm_gets_the_settings_of_the_suite() -> None:
    greedy = vllm_settings(Suite(max_new_tokens=7, repetition_penalty=1.2), [2], "a")
    assert (greedy["temperature"], greedy["max_tokens"], greedy["repetition_penalty"]) == (0.0, 7, 1.2)
    suite = Suite(do_sample=True, top_p=0.9)
    drawn = [vllm_settings(suite, [2, 7], name) for name in ("a", "b", "a")]
    assert drawn[0] == drawn[2]
    assert drawn[0]["seed"] != drawn[1]["seed"]
    assert (drawn[0]["top_k"], drawn[0]["top_p"], drawn[0]["stop_token_ids"]) == (-1, 0.9, [2, 7])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_vllm_gets_the_commit_that_was_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Not the branch, which has moved on since."""
    cache, pinned, newest = tmp_path / "models--tester--tiny", "a" * 40, "b" * 40
    for commit in (pinned, newest):
        make_base(cache / "snapshots" / commit) if kind == "llama" else make_model(kind, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(newest)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = load_any(BaseConfig(model="tester/tiny", revision=pinned))
    assert _files(model) == ("tester/tiny", pinned)
    assert _files(load_native(EMBEDDED)) == (str(EMBEDDED), None)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=dict))
    given = _llm.__wrapped__(*_files(model), "float32", 8)
    assert (given["model"], given["revision"], given["tokenizer_revision"]) == ("tester/tiny", pinned, pinned)


@pytest.mark.skipif(not missing, reason="vLLM is installed")
def test_without_vllm() -> None:
    encoder = Encoder(load_tokenizer(BaseConfig()), PromptConfig())
    with pytest.raises(ModelError, match="not installed"):
        generate(load_native(EMBEDDED), encoder, [[5, 6]], Suite(engine="vllm"))


@pytest.mark.skipif(missing, reason="vLLM is not installed")
def test_vllm_writes_the_same() -> None:
    encoder = Encoder(load_tokenizer(BaseConfig()), PromptConfig())
    prompts, model = encoder.ids(TEXTS), adapted(r=8)
    there = generate(model, encoder, prompts, Suite(max_new_tokens=16, engine="vllm"))
    assert there == generate(model, encoder, prompts, Suite(max_new_tokens=16))
    with model.disable_adapter():
        assert there != generate(model, encoder, prompts, Suite(max_new_tokens=16, engine="vllm"))
