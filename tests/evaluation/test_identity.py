"""What makes rows be made anew: everything that decides them, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import ROOT, make_model, make_rows
from token_styles import LLAMA2_CHAT

from llama_tasks import adapters, tasks
from llama_tasks.dataset import Dataset
from llama_tasks.dataset.spool import Spool
from llama_tasks.evaluation import harness, identity
from llama_tasks.prompts import Prompt
from llama_tasks.recipe import BaseConfig, Recipe
from llama_tasks.recipe.suites import load_sets
from llama_tasks.rundir import read_jsonl
from llama_tasks.tasks import Example
from llama_tasks.tokens import Encoded, Encoder

TASK = """
from llama_tasks.tasks import Example, Task, text_of


class Shout(Task):
    name = "shout"
    columns = ("text", "loud")
    main_field = "text"
    target_column = "loud"
    templates = {"default": "Shout: {text}\\n"}

    def example(self, row):
        return Example(row.id, {"text": text_of(row, "text")}, row.values["loud"], (row.values["loud"],), "en")

    def parse(self, text, lang):
        return text
"""
SUITE = """
sets:
  own:
    task: shout.py
    data: {test: rows.jsonl}
    prompt: {template: chat}
    eval: {metrics: [chrf], max_new_tokens: 5, n_resamples: 100}
"""
ROWS = [{"text": f"It rained on day {n}.", "loud": "RAIN", "lang": "en", "group": "g1"} for n in range(3)]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chat model with an adapter, a task of the user's own, a suite."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    make_rows(Path("rows.jsonl"), ROWS)
    Path("shout.py").write_text(TASK, encoding="utf-8")
    Path("suite.yaml").write_text(SUITE, encoding="utf-8")
    make_model("qwen2", tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(LLAMA2_CHAT, encoding="utf-8")
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    plain = AutoModelForCausalLM.from_pretrained("model")
    get_peft_model(plain, config).save_pretrained("adapter")
    return tmp_path


def scored(output: str) -> tuple[str, list[dict[str, Any]]]:
    """The fingerprint of a set and its rows."""
    candidate = harness.Candidate.load(BaseConfig(model="model"), Path("adapter"))
    result = harness.run(load_sets("suite.yaml"), candidate, Path(output), lambda _: None)
    return result["own"]["fingerprint"], list(read_jsonl(Path(output) / "own/predictions.jsonl"))


def json_with(path: str, **values: Any) -> None:
    tree = json.loads(Path(path).read_text(encoding="utf-8"))
    Path(path).write_text(json.dumps({**tree, **values}), encoding="utf-8")


def text_with(path: str, old: str, new: str) -> None:
    text = Path(path).read_text(encoding="utf-8")
    assert old in text
    Path(path).write_text(text.replace(old, new), encoding="utf-8")


CHANGES: dict[str, Callable[[], None]] = {
    "the adapter's scale": lambda: json_with("adapter/adapter_config.json", lora_alpha=300),
    "a constant of the base": lambda: json_with("model/config.json", rms_norm_eps=5.0),
    "another end": lambda: json_with("model/generation_config.json", eos_token_id=[2, *range(100, 2500)]),
    "the tokenizer": lambda: text_with("model/tokenizer.json", '"merges":', '"merges": [], "unused":'),
    "the chat template": lambda: text_with("model/chat_template.jinja", "[INST]", "[ASK]"),
    "metadata": lambda: text_with("rows.jsonl", '"g1"', '"g2"'),
    "the user's task": lambda: text_with("shout.py", "return text\n", "return text.upper() + '!'\n"),
}


def test_what_decides_rows_makes_them_anew(there: Path) -> None:
    before, old = scored("kept")
    for number, (what, change) in enumerate(CHANGES.items()):
        change()
        after, new = scored("kept")
        assert new != old and after != before, what
        assert new == scored(f"fresh{number}")[1], what
        before, old = after, new


def test_the_same_evaluation_has_the_same_fingerprint(there: Path) -> None:
    """Also in another process, where sets have another order, and with smaller batches."""
    first, _ = scored("kept")
    text_with("suite.yaml", "n_resamples: 100", "n_resamples: 200, tokens_per_batch: 500")
    check = (
        "from pathlib import Path; from llama_tasks.evaluation import harness; from llama_tasks.recipe import BaseConfig\n"
        "from llama_tasks.recipe.suites import load_sets\n"
        "candidate = harness.Candidate.load(BaseConfig(model='model'), Path('adapter'))\n"
        "harness.run(load_sets('suite.yaml'), candidate, Path('again'), print)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", check], check=True, env=environment, capture_output=True)
    assert json.loads(Path("again/own/scores.json").read_text())["fingerprint"] == first


def test_many_prompts_are_hashed_one_by_one(tmp_path: Path) -> None:
    prompts = Spool(
        (
            Prompt(Example(f"test:{n}", {"text": f"{n} " * 400}, "-", ("a",), "en"), "Say: {text}\n", "text")
            for n in range(2000)
        ),
        tmp_path,
    )
    base = BaseConfig()
    encoder = Encoder(adapters.load_tokenizer(base), Recipe(task="summarize").prompt)
    data = Dataset(tasks.create("summarize"), [], None, encoder, {}, Encoded(), {})  # type: ignore[arg-type]
    model = adapters.load_base(base)
    tracemalloc.start()
    made = identity.fingerprint(Recipe(task="summarize", base=base), data, prompts, model, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert re.fullmatch("[0-9a-f]{64}", made)
    assert peak < 4e6  # the texts alone are as much
