"""Score any causal language model, with or without an adapter, on the sets of a suite file; no run is needed.

OUTPUT/SET/predictions.jsonl, scores.json         every row, and every number with all that made it
OUTPUT/table.md                                   the numbers at a glance
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llama_tasks import adapters, metrics, rundir, tasks
from llama_tasks.adapters import integrity
from llama_tasks.contract import CONTRACT_FILE, PromptContract
from llama_tasks.dataset import Dataset, for_scoring
from llama_tasks.errors import ModelError, RecipeError, within
from llama_tasks.evaluation import identity, prediction, scoring
from llama_tasks.evaluation.rehearsal import check_room, check_suite, rehearse
from llama_tasks.files import write_text
from llama_tasks.generate import check_engine
from llama_tasks.recipe import BaseConfig, Recipe
from llama_tasks.recipe.suites import ScoredSet
from llama_tasks.rundir import command_line, read_json, read_jsonl, write_json
from llama_tasks.rundir.journal import ALONE, Ranks, forget

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that is scored: loaded, with its tokenizer, where it came from, and what its weights hash to."""

    base: BaseConfig
    adapter: Path | None
    model: Any
    tokenizer: Any
    weights: Mapping[str, Any]
    contract: PromptContract | None

    @classmethod
    def load(cls, base: BaseConfig, adapter: Path | None = None) -> Candidate:
        """Load a model (a LLaMA as the native one) and the adapter of a folder.

        Raises:
            ModelError: either cannot be loaded, the adapter's contract is about another tokenizer, or the tokenizer is not the
                model's.
        """
        from llama_tasks.parallel import process

        base = adapters.pin(base)
        tokenizer = adapters.load_tokenizer(base)
        adapters.check_tokenizer(base, tokenizer)
        contract = None
        if adapter is not None:
            if not (adapter / "adapter_config.json").is_file():
                raise ModelError(
                    f"{adapter} holds no adapter (adapter_config.json); name the folder `adapter` of a run."
                )
            if (adapter / CONTRACT_FILE).is_file():
                contract = PromptContract.load(adapter)
                contract.check(tokenizer, adapter)
        model = adapters.load_any(base, process().device)
        weights: dict[str, Any] = {"base": integrity.check_base(base)}
        if adapter is not None:
            weights["adapter"] = integrity.check(adapter, {}, "copy the adapter again")
            model = adapters.put_on(model, base, adapter)
        return cls(base, adapter, model, tokenizer, weights, contract)

    def recipe(self, asked: ScoredSet) -> Recipe:
        """The set as this model is asked: by the adapter's contract where it is about the set's task."""
        recipe = asked.recipe(self.base)
        made_for = self.contract is not None and self.contract.task == tasks.create(asked.task).name
        if self.contract is None or not made_for:
            return recipe
        prompt = dataclasses.replace(
            recipe.prompt,
            template=self.contract.template,
            max_length=self.contract.max_length,
            num_fewshot=0,  # the solved examples that it was trained with stand in its template
            **(self.contract.options or {}),
        )
        labels = self.contract.labels or recipe.data.labels
        return dataclasses.replace(recipe, prompt=prompt, data=dataclasses.replace(recipe.data, labels=labels))


def run(
    sets: Mapping[str, ScoredSet], candidate: Candidate, output: Path, say: Say, ranks: Ranks = ALONE
) -> dict[str, dict[str, Any]]:
    """Score every set; returns what each scores.json holds. A set that is done already is not done again, a killed one goes on.

    Raises:
        RecipeError, DataError, MetricError, ModelError: a set that cannot be scored as it is asked; all are looked at before any
            is decoded.
    """
    prepared = {}
    for name, asked in sets.items():
        with within(f"sets.{name}"):
            prepared[name] = _prepare(candidate.recipe(asked), asked.split, candidate, partial(_tell, say, name))
    results = {}
    for name, (recipe, dataset, made_by) in prepared.items():
        results[name] = _score(name, recipe, dataset, made_by, candidate, output / name, say, ranks)
    if ranks.index == 0:
        write_text(output / "table.md", table(results))
    return results


def _tell(say: Say, name: str, text: str) -> None:
    say(f"{name}: {text}")


def _prepare(recipe: Recipe, split: str, candidate: Candidate, say: Say) -> tuple[Recipe, Dataset, str]:
    """A set as it is asked, its rows, and the fingerprint of its evaluation, once all that can be looked at before is."""
    if recipe.eval.scoring == "perplexity":
        raise RecipeError("eval.scoring: perplexity is measured in runs of the task text alone; a set has answers.")
    check_suite(recipe)
    dataset = for_scoring(recipe, split, candidate.tokenizer)
    demand = rehearse(dataset, recipe.eval, ("test",))
    check_room(demand, candidate.model, candidate.tokenizer, say)
    if recipe.eval.scoring == "generate":
        check_engine(candidate.model, recipe.eval)
    made_by = identity.fingerprint(recipe, dataset, dataset.prompts["test"], candidate.model, candidate.weights)
    return recipe, dataset, made_by


def _score(
    name: str,
    recipe: Recipe,
    dataset: Dataset,
    made_by: str,
    candidate: Candidate,
    folder: Path,
    say: Say,
    ranks: Ranks,
) -> dict[str, Any]:
    """One set: its predictions, unless they are there, and its scores."""
    prompts, target, scores = dataset.prompts["test"], folder / "predictions.jsonl", folder / "scores.json"
    known = read_json(scores) if scores.is_file() and target.is_file() else {}
    ranks.wait()
    if known.get("fingerprint") != made_by:
        say(f"{name}: {len(prompts):,} rows")
        prediction.write(target, made_by, candidate.model, dataset, prompts, recipe.eval, ranks, scores)
        known = {}
    if ranks.index > 0:
        return {}
    decoding = known.get("decoding") or prediction.describe(candidate.model, dataset, prompts, recipe.eval, target)
    rows = list(read_jsonl(target))
    result = {
        "set": name, **about(recipe, dataset, candidate), "fingerprint": made_by, "decoding": decoding,
        "scores": scoring.score(rows, recipe.eval, dataset.task), "counts": metrics.count(rows, dataset.labels or None),
    }  # fmt: skip
    write_json(scores, result)
    forget(target)
    return result


def about(recipe: Recipe, dataset: Dataset, candidate: Candidate) -> dict[str, Any]:
    """Everything needed to make a set's numbers again."""
    return {
        "task": dataset.task.name, "command": command_line(), "model": candidate.base.model, "revision": candidate.base.revision,
        "adapter": str(candidate.adapter) if candidate.adapter else None, "weights": candidate.weights,
        "template": dict(dataset.renderer.templates), "suite": dataclasses.asdict(recipe.eval),
        "environment": rundir.environment({"test": dataset.fingerprints["test"]}, recipe.eval.seed),
    }  # fmt: skip


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The scores of all sets as a Markdown table, with their signatures below."""
    lines = ["| set | metric | language | value | 95% interval | n |", "|---|---|---|---|---|---|"]
    signatures: list[str] = []
    for name, result in results.items():
        for score in result.get("scores", ()):
            low, high = score["interval"]
            lines.append(
                f"| {name} | {score['metric']} | {score['lang']} | {score['value']:.2f} | {low:.2f} to {high:.2f} | {score['n']} |"
            )
            signatures.append(f"- `{score['metric']}` ({score['lang']}): `{score['signature']}`")
    return "\n".join([*lines, "", *dict.fromkeys(signatures)]) + "\n"


def place(suite: Path, model: str, adapter: Path | None) -> Path:
    """Where the results go unless told otherwise: `runs/eval-all-gpt2`."""
    parts: Sequence[str] = ["eval", suite.stem, Path(model).name, *([adapter.resolve().parent.name] if adapter else [])]
    return Path("runs") / "-".join(parts)
