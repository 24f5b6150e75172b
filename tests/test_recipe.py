"""Strict loading: types, unknown keys, overrides."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llama_tasks.errors import RecipeError
from llama_tasks.recipe import dump, load_recipe, load_suite
from llama_tasks.recipe.suites import load_sets


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_shipped_recipe_and_suite_loads(root: Path) -> None:
    recipes = sorted((root / "recipes").glob("*.yaml"))
    suites = sorted((root / "eval/suites").glob("*.yaml"))
    assert {path.stem for path in recipes} >= {"translate", "summarize", "qa", "classify", "pretrain"}
    assert {path.stem for path in suites} >= {"translate", "summarize", "qa", "classify"}
    for path in recipes:
        load_recipe(path)
    for path in suites:
        load_sets(path) if path.stem == "all" else load_suite(path)


def test_types_are_converted(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, "task: qa\ntrain: {learning_rate: 1e-5, num_train_epochs: 2}\ndata: {train: my.jsonl}\n")
    )
    assert recipe.train.learning_rate == 1e-5
    assert recipe.train.num_train_epochs == 2.0
    assert recipe.data.train == ["my.jsonl"]
    assert recipe.output == "runs/mine"


def test_overrides_reach_nested_keys_and_the_suite(tmp_path: Path) -> None:
    write(tmp_path, "metrics: [f1]\nmax_new_tokens: 5\n").rename(tmp_path / "suite.yaml")
    path = write(tmp_path, "task: qa\neval: suite.yaml\n")
    recipe = load_recipe(
        path, ["train.learning_rate=1e-4", "adapter.r=4", "eval.max_new_tokens=9", "base.quantization=nf4"]
    )
    assert recipe.train.learning_rate == 1e-4
    assert recipe.adapter == {"r": 4}
    assert (recipe.eval.metrics, recipe.eval.max_new_tokens) == (["f1"], 9)
    assert recipe.base.quantization == "nf4"


def test_a_dumped_recipe_loads_to_itself(root: Path, tmp_path: Path) -> None:
    recipe = load_recipe(root / "recipes/qa.yaml")
    assert load_recipe(write(tmp_path, dump(recipe))) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: qa\ntrain: {learning_rte: 1}\n", "unknown key 'train.learning_rte'. Did you mean 'learning_rate'?"),
        ("task: sumarize\n", "Did you mean 'summarize'?"),
        ("data: {train: x}\n", "the key 'task' is missing"),
        ("task: qa\ntrain: {seed: many}\n", "train.seed must be a whole number, not 'many'"),
        ("task: qa\ntrain: {seed: 1.5}\n", "train.seed must be a whole number, not 1.5"),
        ("task: qa\ndata: {constants: {lang: no}}\n", "data.constants.lang must be text, not False"),
        (
            "task: translate\nprompt: {template: {no: '{source}', default: '{source}'}}\n",
            "prompt.template has the key False (YAML reads bare yes/no/on/off as true/false: put the word in quotes)",
        ),
        (
            "task: classify\ndata: {labels: [2024-01-01, x]}\n",
            "(YAML reads it as a date: put it in quotes)",
        ),
        ("task: qa\ntask: qa\n", "mine.yaml:2: this is not valid YAML: the key 'task' stands twice"),
        ("task: [qa\n", "this is not valid YAML"),
        ("- a\n", "it holds list"),
        ("", "it holds nothing"),
        ("task: qa\ntrain: 3\n", "train must hold `key: value` lines"),
        ("task: qa\nbase: {quantization: nf5}\n", "Did you mean 'nf4'?"),
        ("task: qa\ntrain: {share_prefixes: atuo}\n", "or one of these words: auto. Did you mean 'auto'?"),
        (
            "task: classify\ntrain: {class_weights: balance}\n",
            "or one of these words: balanced. Did you mean 'balanced'?",
        ),
        (
            "task: qa\neval: nosuch.yaml\n",
            "mine.yaml: eval is 'nosuch.yaml', a path from the recipe's own folder. There is no suite",
        ),
        (
            "task: qa\neval: nosuch.yaml\ntrain: {learning_rte: 1}\n",
            "unknown key 'train.learning_rte'",
        ),  # what is wrong in the recipe itself, before a path in it
        ("task: qa\neval: {n_resamples: 20}\n", "eval.n_resamples must be at least 100, not 20"),
        ("task: qa\ntrain: {max_steps: 0}\n", "train.max_steps must be at least 1, or -1 for none, not 0"),
        ("task: text\nbase: {config: {}}\n", "which an adapter would not keep; write `adapter: null`"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert message in str(caught.value)


def test_the_output_is_a_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    recipe = write(tmp_path, "task: qa\n")
    assert load_recipe(recipe, ["output=~/runs/x"]).output == "/home/anna/runs/x"
    assert load_recipe(recipe, ["output=null"]).output == "runs/mine"


def test_unknown_recipe_names_the_likely_one(root: Path) -> None:
    with pytest.raises(RecipeError, match="Did you mean 'summarize'"):
        load_recipe(root / "recipes/summarise.yaml")


@pytest.mark.parametrize("override", ["train.seed", "=3", "task.x=1"])
def test_bad_overrides(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, "task: qa\n"), [override])


def test_every_option_says_what_it_does(root: Path) -> None:
    """Every field of the recipe is described in docs/recipes.md with its default."""
    text = (root / "docs/recipes.md").read_text(encoding="utf-8")
    tree = yaml.safe_load(dump(load_recipe(root / "recipes/qa.yaml")))
    missing = [
        f"{part}.{key}"
        for part, keys in tree.items()
        if isinstance(keys, dict) and part != "adapter"
        for key in keys
        if f"`{key}`" not in text
    ]
    assert missing == []
