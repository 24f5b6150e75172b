"""`llama_tasks.model` costs nothing to import, and transformers' Auto classes know it all the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama_tasks.model.registration import NEWEST, warn_of_newer

ORDERS = {
    "ours first": "import llama_tasks.model; from transformers import LlamaModel, AutoModelForCausalLM, AutoModel",
    "ours last": "from transformers import AutoModelForCausalLM, AutoModel; import llama_tasks.model",
}


def run(code: str, root: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_neither_torch_nor_transformers(root: Path) -> None:
    code = "import sys, llama_tasks.model; print({'torch', 'transformers'} & set(sys.modules))"
    assert run(code, root) == "set()"


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_know_the_model_whoever_is_imported_first(
    pair: Any, tmp_path: Path, root: Path, order: str
) -> None:
    pair[1].save_pretrained(tmp_path)
    code = f"""{ORDERS[order]}
print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})).__name__)
print(type(AutoModel.from_pretrained({str(tmp_path)!r})).__name__)"""
    assert run(code, root).split() == ["NativeLlamaForCausalLM", "NativeLlamaModel"]


@pytest.mark.parametrize("order", ["import llama_tasks.model, peft", "import peft, llama_tasks.model"])
def test_peft_adapts_by_default_what_it_adapts_of_llama(root: Path, order: str) -> None:
    code = f"""{order}
from transformers import AutoModelForCausalLM, LlamaConfig
from peft import IA3Config, LNTuningConfig, LoraConfig, VeraConfig, get_peft_model
from llama_tasks.model import NativeLlamaConfig
small = dict(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=9, intermediate_size=8)
for config in (LoraConfig, IA3Config, LNTuningConfig, VeraConfig):
    both = [get_peft_model(AutoModelForCausalLM.from_config(kind(**small)), config()) for kind in (NativeLlamaConfig, LlamaConfig)]
    names = [[name for name, weight in model.named_parameters() if weight.requires_grad] for model in both]
    assert names[0] == names[1] and names[0]
    print(both[0].peft_config["default"].target_modules == both[1].peft_config["default"].target_modules)"""
    assert run(code, root).split() == ["True"] * 4


def test_registering_again_is_harmless_and_llama_stays_llama() -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from llama_tasks.model import register

    register()
    register()
    model = AutoModelForCausalLM.from_config(LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
    assert type(model) is LlamaForCausalLM


def test_unknown_name_is_an_attribute_error() -> None:
    import llama_tasks.model

    with pytest.raises(AttributeError, match="no attribute 'NativeLama'"):
        _ = llama_tasks.model.NativeLama  # type: ignore[attr-defined]


def test_a_transformers_newer_than_the_newest_tried_is_told(root: Path) -> None:
    (pinned,) = re.findall(r"^transformers==(\S+)$", (root / "constraints.txt").read_text(), re.M)
    assert tuple(map(int, pinned.split(".")[:2])) == NEWEST
    warn_of_newer(pinned)
    warn_of_newer("5.14.1")
    for version in ("5.99.0.dev0", "6.0.0"):
        with pytest.warns(UserWarning, match=f"this is {re.escape(version)}. `llama-tasks verify MODEL`"):
            warn_of_newer(version)
