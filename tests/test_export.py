"""Merging: the written folder is a plain LLaMA that answers as the adapter model does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from run_factory import make_base, make_run
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from llama_tasks.adapters.integrity import check
from llama_tasks.errors import ModelError, RunError
from llama_tasks.export import merge


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "plain", base)


def logits(model: torch.nn.Module, run: Path) -> torch.Tensor:
    ids = json.loads((run / "adapter" / "prompt_contract.json").read_text(encoding="utf-8"))["sample"]["input_ids"]
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([ids])).logits


def test_float32_equals_the_adapter_model(base: Path, run: Path, tmp_path: Path) -> None:
    made = merge(run, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(plain) is LlamaForCausalLM
    expected = logits(PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), run / "adapter"), run)
    torch.testing.assert_close(logits(plain, run), expected, atol=1e-4, rtol=0)
    assert (logits(LlamaForCausalLM.from_pretrained(base), run) - expected).abs().max() > 0.1
    assert (made.policy, made.dtype) == ("original", "float32")
    assert made.written.largest < 1e-4
    assert plain.generation_config.eos_token_id == 2
    assert plain.generation_config.max_new_tokens == 8
    assert len(AutoTokenizer.from_pretrained(tmp_path / "merged")) == plain.config.vocab_size
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    assert str(tmp_path) not in (tmp_path / "merged" / "export.json").read_text()


def test_bfloat16_is_written_and_its_cost_measured(run: Path, tmp_path: Path) -> None:
    made = merge(run, tmp_path / "merged", dtype="bfloat16")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert {weight.dtype for weight in plain.parameters()} == {torch.bfloat16}
    assert made.policies["original"].largest < 1e-4 < made.written.largest < 1.0


def test_nf4_merges_into_the_base_as_trained(base: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", base, quantization="nf4")
    made = merge(run, tmp_path / "merged")
    assert made.policy == "dequantized"
    assert made.policies["dequantized"].largest < 1e-3 < 0.05 < made.policies["original"].largest
    assert made.written.largest < 1e-3
    written = json.loads((tmp_path / "merged" / "export.json").read_text())
    assert written["policies"].keys() == {"dequantized", "original"}
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_int8_merges_into_whichever_is_nearer(base: Path, tmp_path: Path) -> None:
    """LLM.int8() rounds inputs too, which no merged model does: what that costs is measured and written."""
    made = merge(make_run(tmp_path / "run", base, quantization="int8"), tmp_path / "merged")
    means = {name: difference.mean for name, difference in made.policies.items()}
    assert means.keys() == {"dequantized", "original"}
    assert made.policy == min(means, key=lambda name: means[name])
    assert 0 < means[made.policy] < 0.1
    assert made.written.largest == pytest.approx(made.policies[made.policy].largest, abs=1e-4)
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_an_existing_folder_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match="exists"):
        merge(run, tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_failure_leaves_nothing(base: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", base)
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, run / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="NaN"):
        merge(run, tmp_path / "merged")
    (run / "adapter" / "prompt_contract.json").write_text("{}")
    with pytest.raises(ModelError, match="broken"):
        merge(run, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(ModelError, match="dtype"):
        merge(run, tmp_path / "merged", dtype="int3")


def test_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", base)
    (run / "environment.json").write_text(json.dumps({"base": check(base, {}, "")}))
    merge(run, tmp_path / "merged")
    with pytest.raises(ModelError, match="its SHA-256 is not the one it had before"):
        merge(run, tmp_path / "other", base_path=make_base(tmp_path / "other-base", seed=5))
    with pytest.raises(ModelError, match="say where it is"):
        merge(run, tmp_path / "other", base_path=tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore")  # peft's, about just this
def test_an_adapter_on_a_tied_head_is_not_merged(base: Path, tmp_path: Path) -> None:
    """peft would change the embedding with it."""
    tied = shutil.copytree(base, tmp_path / "tied")
    weights = {name: w for name, w in load_file(tied / "model.safetensors").items() if name != "lm_head.weight"}
    save_file(weights, tied / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    run = make_run(tmp_path / "run", tied)
    torch.manual_seed(1)
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(tied), LoraConfig(r=4, target_modules=["q_proj", "lm_head"])
    )
    torch.nn.init.normal_(model.base_model.model.lm_head.lora_B["default"].weight, std=0.1)
    model.save_pretrained(run / "adapter")
    with pytest.raises(ModelError, match="cannot be merged"):
        merge(run, tmp_path / "merged", dtype="bfloat16")
    assert not (tmp_path / "merged").exists()


def test_a_run_without_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no adapter"):
        merge(tmp_path, tmp_path / "merged")
