"""Recipes and suites from their files, and as YAML again.

A file is read strictly (`typed_yaml.py`) into the types of `fields.py`, after `key.sub=value` overrides from the command line;
what it names is looked for beside it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from llama_tasks.errors import RecipeError, did_you_mean
from llama_tasks.recipe.fields import LEAST, TASKS, Recipe, Suite
from llama_tasks.recipe.typed_yaml import Converter, override, read_yaml


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply `key.sub=value` overrides, check every key and type.

    Raises:
        RecipeError: no such file, broken YAML, unknown key, wrong type.
    """
    path = Path(path)
    tree = read_yaml(path, "recipe")
    for text in overrides:
        override(tree, text)
    converter = Converter(str(path), LEAST)
    try:
        resolve_suite(tree, path)
    except RecipeError:
        converter.convert({**tree, "eval": {}}, Recipe)  # a misspelt key is sooner found here than in the suite's path
        raise
    if tree.get("output") is None:
        tree["output"] = f"runs/{path.stem}"
    recipe: Recipe = converter.convert(tree, Recipe)
    _check_together(recipe, path)
    clean = dataclasses.replace(recipe.clean, hook=_hook(recipe.clean.hook, path))
    output = os.path.expanduser(recipe.output or "")  # no shell reads `~` behind the `=` of output=~/runs/x
    return dataclasses.replace(recipe, task=find_task(recipe.task, path), clean=clean, output=output)


def _check_together(recipe: Recipe, path: Path) -> None:
    """What no type says: values that mean nothing, and keys that exclude each other. Raises RecipeError."""
    shares = {"train.label_smoothing_factor": recipe.train.label_smoothing_factor}
    if recipe.distill is not None:
        shares["distill.alpha"] = recipe.distill.alpha
    if recipe.base.config is not None and recipe.adapter is not None:
        raise RecipeError(
            f"{path}: base.config makes a new model of random weights, which an adapter would not keep; write `adapter: null`."
        )
    if recipe.train.max_steps < 1 and recipe.train.max_steps != -1:
        raise RecipeError(f"{path}: train.max_steps must be at least 1, or -1 for none, not {recipe.train.max_steps}.")
    for key, share in shares.items():
        if share > 1:
            raise RecipeError(f"{path}: {key} is a share of the loss and must be at most 1, not {share}.")


def resolve_suite(tree: dict[str, Any], recipe: Path) -> None:
    """Put the content of a suite file where `eval` names one, with the changes that stand beside it ({suite: FILE, ...}). A file
    is looked for beside the recipe, which a sentence on its absence names."""
    given = tree.get("eval")
    changes = {"suite": given} if isinstance(given, str) else dict(given) if isinstance(given, dict) else {}
    if "suite" not in changes:
        return
    name = str(changes.pop("suite"))
    try:
        tree["eval"] = {**read_yaml(recipe.parent / name, "suite"), **changes}
    except RecipeError as error:
        if (recipe.parent / name).is_file():
            raise
        raise RecipeError(
            f"{recipe}: eval is {name!r}, a path from the recipe's own folder. {error} Give the path from there, or write the "
            "suite's keys under eval."
        ) from None


def find_task(name: str, recipe: Path) -> str:
    """A built-in name, or the path of a task's file: beside the recipe, else from where the command runs."""
    if name in TASKS:
        return name
    if not name.endswith(".py"):
        raise RecipeError(f"{recipe}: task is {name!r}.{did_you_mean(name, TASKS)} A task of your own is a .py file.")
    places = (recipe.parent / name, Path(name))
    for place in places:
        if place.is_file():
            return str(place)
    raise RecipeError(f"{recipe}: there is no task file {name!r} (looked for {' and '.join(map(str, places))}).")


def _hook(spec: str | None, recipe: Path) -> str | None:
    """`FILE.py:FUNCTION` with the file beside the recipe, where it is there. Whether it is anywhere is seen when it is used."""
    beside = str(recipe.parent / (spec or ""))
    return beside if Path(beside.rpartition(":")[0]).is_file() else spec


def load_suite(path: str | Path) -> Suite:
    """Read a suite file. Raises RecipeError as `load_recipe` does."""
    least = {key.removeprefix("eval."): value for key, value in LEAST.items() if key.startswith("eval.")}
    suite: Suite = Converter(str(path), least).convert(read_yaml(Path(path), "suite"), Suite)
    return suite


def dump(config: Any) -> str:
    """A recipe or suite as YAML, every field written out."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True, width=120)


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested mappings; an empty one is a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
