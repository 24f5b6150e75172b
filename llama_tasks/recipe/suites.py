"""Suite files with several sets: which rows, asked how, decoded how, measured by what; each set in the words of a recipe.

sets:
  summarize:
    task: summarize
    split: test                     train, validation or test
    data: {test: [my.jsonl], revision: ..., max_test_samples: 200}
    prompt: {num_fewshot: 2, template: chat}
    eval: summarize.yaml            or what a recipe's `eval` may hold
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from llama_tasks.errors import RecipeError
from llama_tasks.recipe.decoding_fields import check_decoding
from llama_tasks.recipe.fields import LEAST, BaseConfig, DataConfig, PromptConfig, Recipe, Suite
from llama_tasks.recipe.loading import find_task, resolve_suite
from llama_tasks.recipe.typed_yaml import Converter, override, read_yaml


@dataclass(frozen=True)
class ScoredSet:
    """One set of a suite file: a recipe without training."""

    task: str
    """As in a recipe."""
    split: Literal["train", "validation", "test"] = "test"
    """Which rows are scored."""
    data: DataConfig = field(default_factory=DataConfig)
    """As in a recipe; `test` alone names the rows, `train` is read for solved examples only."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """As in a recipe; `template: chat` is a model's own chat template, where it has one."""
    eval: Suite = field(default_factory=Suite)
    """As in a recipe, but that no general text is measured."""

    def recipe(self, base: BaseConfig) -> Recipe:
        """The set as a recipe over a base, with nothing trained."""
        return Recipe(task=self.task, base=base, data=self.data, prompt=self.prompt, adapter=None, eval=self.eval)


def load_sets(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, ScoredSet]:
    """Read a suite file with `sets`, and change every set by `key.sub=value`.

    Raises:
        RecipeError: no such file, no sets, a name that is no folder's, an unknown key, a wrong type, decoding that has no effect.
    """
    path = Path(path)
    tree = read_yaml(path, "suite")
    if set(tree) != {"sets"} or not isinstance(tree["sets"], dict) or not tree["sets"]:
        raise RecipeError(
            f"{path} must hold `sets:` and under it one entry a set, such as `qa: {{task: qa, eval: qa.yaml}}`."
        )
    if wrong := [name for name in map(str, tree["sets"]) if {"/", "\0"} & set(name) or name in ("", ".", "..")]:
        raise RecipeError(f"{path}: a set is a folder of the results, so it cannot be called {wrong[0]!r}.")
    return {str(name): _load(path, str(name), given, overrides) for name, given in tree["sets"].items()}


def _load(path: Path, name: str, given: object, overrides: Sequence[str]) -> ScoredSet:
    if not isinstance(given, dict):
        raise RecipeError(f"{path}: sets.{name} must hold `key: value` lines, not {given!r}.")
    tree = copy.deepcopy(given)
    for text in overrides:
        override(tree, text)
    resolve_suite(tree, path)
    data = tree.setdefault("data", {})
    if isinstance(data, dict) and "test" in data:
        data.setdefault("train", data["test"])  # rows to score alone; nothing is trained
    made: ScoredSet = Converter(f"{path}: sets.{name}", LEAST).convert(tree, ScoredSet)
    check_decoding(made.eval)
    if made.eval.general_text not in (None, Suite().general_text):
        raise RecipeError(
            f"{path}: sets.{name}: eval.general_text is measured before and after a training, and a set has none; leave it out, "
            "or say null."
        )
    return replace(made, task=find_task(made.task, path), eval=replace(made.eval, general_text=None))
