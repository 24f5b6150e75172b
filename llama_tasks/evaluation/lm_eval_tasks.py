"""Sets of a suite as task files of lm-evaluation-harness, with the metrics of llama-tasks.

    DIR/llama_tasks_qa.yaml      the task: generate_until, or multiple_choice where a set ranks choices
    DIR/llama_tasks_qa.jsonl     its rows, prompts rendered
    DIR/llama_tasks_qa.py        rows and metrics for the harness; they call this module

Texts and scores are ours where the definitions meet: the same prompt, greedy decoding to the end token or the same limit, the
same metric. The harness encodes prompt and continuation together, which some tokenizers join otherwise at the boundary, and
scores a choice without its end token unless `eos` writes it there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llama_tasks import files, metrics, tasks
from llama_tasks.contract import options_of
from llama_tasks.dataset import render_all, to_score
from llama_tasks.errors import RecipeError, within
from llama_tasks.evaluation.rehearsal import check_suite
from llama_tasks.prompts import Prompt
from llama_tasks.recipe import TASKS, BaseConfig, PromptConfig, Suite
from llama_tasks.recipe.decoding_fields import FIELDS, settings
from llama_tasks.recipe.suites import ScoredSet


def export(sets: Mapping[str, ScoredSet], folder: Path, eos: str = "") -> list[str]:
    """Write every set into a new folder, or none; returns the names of the tasks.

    Raises:
        RecipeError: the folder exists, two sets would be one task, or a set that the harness cannot hold.
        MetricError: a metric that a set's rows cannot be measured by.
    """
    if folder.exists():
        raise RecipeError(f"{folder} exists; name another folder.")
    owners: dict[str, str] = {}
    made: dict[str, str] = {}  # name of a file -> its text
    for name, asked in sets.items():
        with within(f"sets.{name}"):
            title = _title(name)
            if title in owners:
                raise RecipeError(f"its task would be called {title}, as that of sets.{owners[title]} is; rename one.")
            owners[title] = name
            made |= _files(title, asked, eos)
    with files.staged(folder) as staging:
        for name, text in made.items():
            (staging / name).write_text(text, encoding="utf-8")
    return list(owners)


def _title(name: str) -> str:
    title = f"llama_tasks_{name}".replace("-", "_")
    if not title.isidentifier():
        raise RecipeError("lm-evaluation-harness needs names of letters, digits and underscores.")
    return title


def _files(title: str, asked: ScoredSet, eos: str) -> dict[str, str]:
    """The three files of a set: name -> text."""
    suite, recipe = asked.eval, asked.recipe(BaseConfig())
    if asked.prompt.template == "chat":
        raise RecipeError(
            "the harness renders chat templates itself (--apply_chat_template); leave prompt.template out."
        )
    if asked.task == "text" or asked.task not in TASKS:
        raise RecipeError("only the four tasks, generated or ranked, become tasks of the harness.")
    check_suite(recipe)
    task, rows, renderer = to_score(recipe, asked.split)
    prompts = render_all(task, renderer, rows, training=False)
    lines = [json.dumps(_row(prompt, suite, eos), ensure_ascii=False) for prompt in prompts]
    languages = sorted({prompt.example.lang for prompt in prompts})
    names = {_identifier(metric, lang, languages): (metric, lang) for metric in suite.metrics for lang in languages}
    return {
        f"{title}.jsonl": "\n".join(lines) + "\n",
        f"{title}.py": _module(asked.task, names, list(task.labels), options_of(recipe)),
        f"{title}.yaml": _yaml(title, suite, names, list(task.labels)),
    }


def _row(prompt: Prompt, suite: Suite, eos: str) -> dict[str, Any]:
    example = prompt.example
    row: dict[str, Any] = {
        "id": example.id, "lang": example.lang, "prompt": prompt.text, "answer": prompt.response,
        "references": list(example.references), "input": {k: v for k, v in example.fields.items() if k != "labels"},
    }  # fmt: skip
    if suite.scoring == "likelihood":
        row |= {
            "choices": list(example.choices), "options": [prompt.follow(choice) + eos for choice in example.choices],
            "gold": example.choices.index(example.target),
        }  # fmt: skip
    return row


def _identifier(metric: str, lang: str, languages: Sequence[str]) -> str:
    """`f1`, or `f1_zh` where a set has several languages; options of a name become part of it."""
    plain = "".join(c if c.isalnum() else "_" for c in metric)
    return plain if len(languages) == 1 else f"{plain}_{lang}"


def _yaml(title: str, suite: Suite, names: Mapping[str, tuple[str, str]], labels: Sequence[str]) -> str:
    tree: dict[str, Any] = {"task": title, "test_split": "test", "doc_to_text": "{{prompt}}", "target_delimiter": ""}
    if suite.engine != "auto":
        raise RecipeError("the harness decodes by an engine of its own; leave eval.engine out.")
    if suite.scoring == "likelihood":
        tree |= {"output_type": "multiple_choice", "doc_to_choice": "options", "doc_to_target": "gold"}
    else:
        changed = {name: value for name, value in settings(suite).items() if name in FIELDS}
        limits = {"until": [], "max_gen_toks": changed.pop("max_new_tokens"), "do_sample": False, **changed}
        tree |= {"output_type": "generate_until", "doc_to_target": "answer", "generation_kwargs": limits}
    tree["metadata"] = {"version": 1}
    lines = [
        f"custom_dataset: !function {title}.dataset",
        f"process_results: !function {title}.process_results",
        "metric_list:",
    ]
    for name, (metric, lang) in names.items():
        better = getattr(metrics.create(metric, lang, list(labels) or None), "higher_is_better", True)
        lines += [
            f"  - metric: {name}",
            f"    aggregation: !function {title}.{name}",
            f"    higher_is_better: {str(better).lower()}",
        ]
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True) + "\n".join(lines) + "\n"


def _module(task: str, names: Mapping[str, tuple[str, str]], labels: Sequence[str], options: Mapping[str, Any]) -> str:
    shown = {name: lang for name, (_, lang) in names.items()}
    parts = [
        '"""Written by `llama-tasks export-lm-eval`. The metrics are those of llama-tasks, which must be installed."""',
        "from pathlib import Path\n\nfrom llama_tasks.evaluation import lm_eval_tasks\n\n"
        f"TASK, NAMES, LABELS = {task!r}, {shown!r}, {list(labels)!r}\nOPTIONS = {options!r}",
        "def dataset(**_):\n    return lm_eval_tasks.dataset(Path(__file__).with_suffix('.jsonl'))",
        "def process_results(doc, results):\n"
        "    return lm_eval_tasks.process_results(TASK, NAMES, LABELS, doc, results, OPTIONS)",
        *(
            f"def {name}(items):\n    return lm_eval_tasks.aggregate({metric!r}, {lang!r}, LABELS, items)"
            for name, (metric, lang) in names.items()
        ),
    ]  # fmt: skip
    return "\n\n\n".join(parts) + "\n"


# --- what the written modules call ----------------------------------------------------------------------------------


def dataset(path: Path) -> dict[str, Any]:
    """The rows of a written file as the harness wants them."""
    from datasets import Dataset

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return {"test": Dataset.from_list(rows)}


def process_results(
    task: str,
    names: Mapping[str, str],
    labels: Sequence[str],
    doc: Mapping[str, Any],
    results: Sequence[Any],
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the metrics of a row's language read of it: {metric: row}. `options` are those of the task (files written by older
    versions name none)."""
    made = tasks.create(task, labels, PromptConfig(**(options or {})))
    if "options" in doc:
        choices = {choice: value for choice, (value, _) in zip(doc["choices"], results, strict=True)}
        answer = {"prediction": made.choose(choices), "choices": choices}
    else:
        answer = {"prediction": made.parse(results[0], doc["lang"])}
    row = {"references": list(doc["references"]), "input": dict(doc["input"]), "lang": doc["lang"], **answer}
    return {name: row for name, lang in names.items() if lang == doc["lang"]}


def aggregate(metric: str, lang: str, labels: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> float:
    """The value of one of our metrics over rows."""
    made = metrics.create(metric, lang, list(labels) or None)
    return float(metrics.value_of(made, metrics.row_statistics(made, rows)))
