"""Both ways with lm-evaluation-harness: our sets as its tasks give our scores, and its own tasks run on our adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import make_rows
from transformers import AutoTokenizer

from llama_tasks.adapters import EMBEDDED
from llama_tasks.errors import RecipeError
from llama_tasks.evaluation import harness, lm_eval_tasks
from llama_tasks.recipe import BaseConfig
from llama_tasks.recipe.suites import load_sets

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.usefixtures("no_traces"), pytest.mark.filterwarnings("ignore")]  # the package's own
CHANGES = ["data.max_test_samples=6", "eval.n_resamples=100", "eval.max_new_tokens=12"]


@pytest.fixture(scope="module")
def candidate() -> harness.Candidate:
    return harness.Candidate.load(BaseConfig())


def evaluate(model: Any, tasks: list[Any], **more: Any) -> dict[str, dict[str, Any]]:
    """What the real package says, without its warnings and bootstrap."""
    from lm_eval import evaluator

    results = evaluator.simple_evaluate(model=model, tasks=tasks, bootstrap_iters=0, log_samples=False, **more)
    return results["results"]


def test_exported_tasks_give_our_scores(root: Path, tmp_path: Path, candidate: harness.Candidate) -> None:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    sets = load_sets(root / "eval/suites/all.yaml", CHANGES)
    ours = harness.run(sets, candidate, tmp_path / "ours", lambda _: None)
    names = lm_eval_tasks.export(sets, tmp_path / "tasks", eos="</s>")
    assert names == [f"llama_tasks_{name}" for name in sets]
    model = HFLM(pretrained=candidate.model, tokenizer=AutoTokenizer.from_pretrained(EMBEDDED), batch_size=3, device="cpu",
                 add_bos_token=True)  # fmt: skip
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    theirs = evaluate(model, names, task_manager=manager)
    compared = 0
    for name, result in ours.items():
        found = {key.split(",")[0]: value for key, value in theirs[f"llama_tasks_{name}"].items()}
        for score in result["scores"]:
            if score["lang"] == "all":
                continue
            languages = {other["lang"] for other in result["scores"]} - {"all"}
            key = score["metric"] if len(languages) == 1 else f"{score['metric']}_{score['lang']}"
            assert found[key] == pytest.approx(score["value"], abs=1e-6), (name, key)
            compared += 1
    assert compared > 12


def test_options_of_a_task_travel_with_its_set(tmp_path: Path) -> None:
    """The order of the parts of an answer does not count in the harness either, where prompt.all_answers says so."""
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Backwards(LM):
        """Answers with the parts of the right answer, the last one first."""

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return ["; ".join(reversed(request.doc["answer"].strip().split("; "))) for request in requests]

        loglikelihood = loglikelihood_rolling = generate_until

    rows = [{"context": f"Of {a} and {b}.", "question": "Of whom?", "answers": [a, b], "lang": "en"}
            for a, b in (("Anna", "Bert"), ("Zoe", "Carl"))]  # fmt: skip
    data = make_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "suite.yaml").write_text(
        f"sets: {{parts: {{task: qa, prompt: {{all_answers: true}}, data: {{test: {data}}}, eval: {{metrics: [exact_match]}}}}}}"
    )
    names = lm_eval_tasks.export(load_sets(tmp_path / "suite.yaml"), tmp_path / "tasks")
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    found = evaluate(Backwards(), names, task_manager=manager)
    assert found["llama_tasks_parts"]["exact_match,none"] == 100


def test_their_tasks_run_on_an_adapter(tmp_path: Path, candidate: harness.Candidate) -> None:
    """`lm_eval --model hf --model_args pretrained=...,peft=...` with a task of its own form over a local file."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(LlamaForCausalLM.from_pretrained(EMBEDDED), config).save_pretrained(tmp_path / "adapter")
    rows = [
        {"q": "The train is", "options": ["late", "green cheese"], "gold": 0},
        {"q": "从前有", "options": ["一个", "七"], "gold": 0},
    ]
    make_rows(tmp_path / "rows.jsonl", rows)
    task = {"task": "two_rows", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "options",
            "doc_to_target": "gold", "metadata": {"version": 1}}  # fmt: skip
    arguments = {"pretrained": str(EMBEDDED), "peft": str(tmp_path / "adapter"), "dtype": "float32"}
    found = evaluate("hf", [task], model_args=arguments, device="cpu", batch_size=2)
    assert 0 <= found["two_rows"]["acc,none"] <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [(["prompt.template=chat"], "chat templates itself"), (["eval.engine=transformers"], "engine of its own")],
)
def test_what_the_harness_cannot_hold_is_refused(tmp_path: Path, changes: list[str], said: str) -> None:
    (tmp_path / "suite.yaml").write_text("sets: {short: {task: qa, eval: {metrics: [f1]}}}")
    with pytest.raises(RecipeError, match=said):
        lm_eval_tasks.export(load_sets(tmp_path / "suite.yaml", changes), tmp_path / "tasks")
    with pytest.raises(RecipeError, match="exists"):
        lm_eval_tasks.export({}, tmp_path)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("a-b: {task: qa, eval: {metrics: [f1]}}, a_b: {task: qa, eval: {metrics: [f1]}}", "llama_tasks_a_b, as that of sets.a-b"),
        ("a: {task: qa, eval: {metrics: [f1]}}, b: {task: qa, eval: {metrics: []}}", "sets.b: eval.metrics is empty"),
        ("a: {task: qa, eval: {metrics: [f1]}}, b: {task: qa, eval: {metrics: [f1], engine: vllm}}", "sets.b: the harness decodes"),
    ],
)  # fmt: skip
def test_all_sets_are_written_or_none(tmp_path: Path, sets: str, said: str) -> None:
    (tmp_path / "suite.yaml").write_text(f"sets: {{{sets}}}")
    with pytest.raises(RecipeError, match=said):
        lm_eval_tasks.export(load_sets(tmp_path / "suite.yaml"), tmp_path / "tasks")
    assert [path.name for path in tmp_path.iterdir()] == ["suite.yaml"]
