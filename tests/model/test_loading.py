"""Checkpoints come in without a converter and without a murmur, or are refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaForCausalLM

from llama_tasks.errors import ModelError
from llama_tasks.model import NativeLlamaConfig, NativeLlamaForCausalLM, NativeLlamaModel, load_native

IDS = torch.tensor([[1, 5, 9, 4, 33, 96, 7]])


@pytest.fixture
def checkpoint(pair: Any, tmp_path: Path) -> Path:
    """A folder that transformers' LLaMA was saved to."""
    pair[0].save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    weights: dict[str, Any] = load_file(path) | changes
    save_file({key: value for key, value in weights.items() if value is not None}, path, metadata={"format": "pt"})


def test_a_llama_checkpoint_loads_silently(
    pair: Any, checkpoint: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    native = load_native(checkpoint)
    assert torch.equal(native(IDS).logits, pair[0](IDS).logits)
    assert native.config.model_type == "native_llama"
    assert native.config._attn_implementation == "sdpa"
    assert not native.training
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_saved_and_loaded_through_the_auto_classes(pair: Any, tmp_path: Path) -> None:
    native = pair[1]
    native.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "native_llama"
    assert type(AutoConfig.from_pretrained(tmp_path)) is NativeLlamaConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is NativeLlamaModel
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is NativeLlamaForCausalLM
    assert torch.equal(again(IDS).logits, native(IDS).logits)
    assert torch.equal(load_native(tmp_path)(IDS).logits, native(IDS).logits)


@pytest.mark.parametrize("rope_type", ["default", "yarn", "llama3"])
def test_rotary_buffers_are_filled_after_loading(make_pair: Any, tmp_path: Path, rope_type: str) -> None:
    """They are not saved, and transformers builds the model without memory first."""
    rope: dict[str, Any] = {"rope_type": rope_type, "rope_theta": 3000.0}
    if rope_type != "default":
        rope |= {"factor": 4.0, "original_max_position_embeddings": 16}
    if rope_type == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    _, native = make_pair(rope_parameters=rope)
    native.save_pretrained(tmp_path)
    rotary = load_native(tmp_path).model.rotary_emb
    assert torch.equal(rotary.inv_freq, native.model.rotary_emb.inv_freq)
    assert rotary.attention_scaling == native.model.rotary_emb.attention_scaling


def test_tied_weights_stay_tied(make_pair: Any, tmp_path: Path) -> None:
    reference, _ = make_pair(tie_word_embeddings=True)
    reference.save_pretrained(tmp_path)
    native = load_native(tmp_path)
    assert native.lm_head.weight is native.model.embed_tokens.weight
    assert torch.equal(native(IDS).logits, reference(IDS).logits)


def test_shards_and_old_rotary_keys(pair: Any, checkpoint: Path, tmp_path: Path) -> None:
    edit_weights(checkpoint, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    assert torch.equal(load_native(checkpoint)(IDS).logits, pair[0](IDS).logits)
    pair[0].save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert torch.equal(load_native(tmp_path / "shards")(IDS).logits, pair[0](IDS).logits)


def test_dtype_and_attention_are_those_asked_for(checkpoint: Path) -> None:
    native = load_native(checkpoint, dtype=torch.bfloat16, attn_implementation="eager")
    assert native.dtype == torch.bfloat16
    assert native.config._attn_implementation == "eager"
    assert native.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("mistral", "is a model of type 'mistral', which differs from LLaMA by sliding-window attention; only LLaMA"),
        ("bert", "is a model of type 'bert'; only LLaMA checkpoints"),
        (None, "is a configuration without model_type; only LLaMA checkpoints"),
    ],
)
def test_another_architecture_is_refused(checkpoint: Path, model_type: str | None, message: str) -> None:
    edit_config(checkpoint, model_type=model_type)
    with pytest.raises(ModelError, match=message):
        load_native(checkpoint)


def test_weights_that_do_not_fit_are_refused(checkpoint: Path) -> None:
    norm = "model.norm.weight"
    for change, message in (
        ({norm: None}, "missing model.norm.weight"),
        ({norm: torch.ones(32), "model.extra.weight": torch.ones(1)}, "unexpected model.extra.weight"),
        (
            {"model.extra.weight": None, norm: torch.full((32,), torch.nan)},
            "norm.weight holds values that are not finite",
        ),
        ({norm: torch.ones(31)}, "cannot be read"),
    ):
        edit_weights(checkpoint, **change)
        with pytest.raises(ModelError, match=message):
            load_native(checkpoint)


def test_pickled_weights_are_refused(pair: Any, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    torch.save(pair[0].state_dict(), checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no model\.safetensors; pickled weights are not read"):
        load_native(checkpoint)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"not weights", "cannot be read"),
        ("config.json", b"{", "cannot be read"),
    ],
)
def test_damaged_files_are_refused(checkpoint: Path, file: str, content: bytes, message: str) -> None:
    (checkpoint / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_native(checkpoint)


def test_a_bad_configuration_names_the_field(checkpoint: Path) -> None:
    edit_config(checkpoint, hidden_size="32")
    with pytest.raises(ModelError, match=r"not a valid LLaMA configuration: .*hidden_size"):
        load_native(checkpoint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "There is no folder ./nowhere, and it is not a Hub id"),
        ("a/b/c", "There is no folder a/b/c, and it is not a Hub id"),
        ("llama-tasks-tests/not-cached", "is not in the local cache and the Hub cannot be reached"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_native(name)


def test_weights_that_were_never_downloaded_are_not_called_pickled(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration alone is in the cache, as after `llama-tasks plan`, and the Hub cannot be asked."""
    snapshot = tmp_path / "cache/models--tester--planned/snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "cache/models--tester--planned/refs").mkdir()
    (tmp_path / "cache/models--tester--planned/refs/main").write_text("a" * 40)
    (snapshot / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="not in the local cache and the Hub cannot be reached"):
        load_native("tester/planned")


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load_native(tmp_path)


def test_native_weights_load_into_plain_llama(pair: Any, tmp_path: Path) -> None:
    reference, native = pair
    native.save_pretrained(tmp_path)
    edit_config(tmp_path, model_type="llama", architectures=["LlamaForCausalLM"])
    assert torch.equal(LlamaForCausalLM.from_pretrained(tmp_path)(IDS).logits, reference(IDS).logits)
