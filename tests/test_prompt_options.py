"""What the recipe's prompt section does to a whole run: solved examples, chat templates, class weights, both directions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny import make_base, make_rows, recipe_text
from token_styles import LLAMA2_CHAT

from llama_tasks import adapters, cli, dataset, evaluation
from llama_tasks.errors import RecipeError
from llama_tasks.finetune import finetune
from llama_tasks.hub import card
from llama_tasks.recipe import load_recipe
from llama_tasks.rundir import RunDirectory


def prepared(root: Path, task: str, *overrides: str) -> dataset.Dataset:
    sizes = [
        "data.max_train_samples=60",
        "data.max_validation_samples=8",
        "data.max_test_samples=8",
        "prompt.max_length=512",
    ]
    recipe = load_recipe(root / f"recipes/{task}.yaml", [*sizes, *overrides])
    return dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))


def test_solved_examples_stand_before_every_prompt_of_their_language(root: Path) -> None:
    data = prepared(root, "classify", "prompt.num_fewshot=2")
    plain = prepared(root, "classify")
    headers = {lang: data.renderer.templates[f"fewshot.{lang}"] for lang in ("en", "zh")}
    for split, prompts in data.prompts.items():
        assert all(prompt.text.startswith(headers[prompt.example.lang]) for prompt in prompts), split
    assert [p.text for p in plain.prompts["test"]] == [
        p.text.removeprefix(headers[p.example.lang]) for p in data.prompts["test"]
    ]
    solved = [f"{p.text}{p.response}\n\n" for p in plain.prompts["train"]]
    for header in headers.values():
        assert sum(text in header for text in solved) == 2
    left = {p.example.id for p in data.prompts["train"]}
    assert len(plain.prompts["train"]) - len(left) == 4
    assert not any(
        f"{p.text}{p.response}\n\n" in "".join(headers.values()) for p in plain.prompts["train"] if p.example.id in left
    )


def test_solved_examples_are_the_same_every_time_and_recorded(root: Path, tmp_path: Path) -> None:
    first, second = (prepared(root, "classify", "prompt.num_fewshot=2").renderer.templates for _ in range(2))
    assert first == second
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({"task": "classify", "prompt": {"num_fewshot": 2, "template": first}}))
    again = dataset.prepare(
        load_recipe(path, ["data.max_train_samples=60"]), adapters.load_tokenizer(load_recipe(path).base)
    )
    assert again.renderer.templates == first  # a run's own recipe holds them: nothing is drawn again


def test_solved_examples_stay_out_of_the_training_of_a_runs_own_recipe(chat_base: Path, tmp_path: Path) -> None:
    """Resumed, evaluated or asked to predict by the recipe that a run wrote: the same prompts, and the same rows left out."""
    _, run = run_of(tmp_path, chat_base, "prompt.num_fewshot=2")
    recipe, tokenizer = (
        load_recipe(tmp_path / "recipe.yaml", ["prompt.num_fewshot=2"]),
        adapters.load_tokenizer(run.recipe().base),
    )
    first, again = (dataset.prepare(asked, tokenizer) for asked in (recipe, run.recipe()))
    assert len(first.prompts["train"]) == len(dataset.read(recipe)[2]["train"].rows) - 2
    for split, prompts in first.prompts.items():
        assert [(p.example.id, p.segments) for p in again.prompts[split]] == [
            (p.example.id, p.segments) for p in prompts
        ], split
    assert [item.input_ids for item in again.train.tokens] == [item.input_ids for item in first.train.tokens]
    row = {"document": "Ben has 3 pears.", "lang": "en"}
    _, asked = dataset.for_prediction(run.recipe(), make_rows(tmp_path / "ask.jsonl", [row]), tokenizer)
    assert (
        asked[0].text == first.renderer.templates["fewshot.en"] + "Summarize the text.\n\nBen has 3 pears.\n\nSummary:"
    )
    before = (run.adapter / "adapter_model.safetensors").read_bytes()
    finetune(replace(run.recipe(), output=str(run.path)), resume=True, console=Console(quiet=True))
    assert (run.adapter / "adapter_model.safetensors").read_bytes() == before


def test_solved_examples_of_the_users_own_take_no_row(chat_base: Path, tmp_path: Path) -> None:
    data = make_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "recipe.yaml").write_text(recipe_text("summarize", chat_base, data))
    written = ["prompt.num_fewshot=500", "prompt.template={default: '{document}', fewshot: 'So: a -> b'}"]
    recipe = load_recipe(tmp_path / "recipe.yaml", written)
    made = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    assert len(made.prompts["train"]) == len(dataset.read(recipe)[2]["train"].rows)
    assert made.prompts["test"][0].text.startswith("So: a -> bAnna")


def test_rows_that_repeat_a_solved_example_leave_the_training_too(chat_base: Path, tmp_path: Path) -> None:
    """`data.weights` repeats rows under new ids; an example is drawn once, and none of its copies is trained on."""
    files = [
        make_rows(tmp_path / f"{name}.jsonl", ROWS[a:b])
        for name, a, b in (("few", 0, 4), ("many", 4, 40), ("held", 40, 60))
    ]
    (tmp_path / "recipe.yaml").write_text(recipe_text("summarize", chat_base, files[0]))
    given = [
        f"data.train=[{files[0]},{files[1]}]",
        "data.weights=[1,1]",
        f"data.test={files[2]}",
        f"data.validation={files[2]}",
    ]
    recipe = load_recipe(
        tmp_path / "recipe.yaml", [*given, "prompt.num_fewshot=30", "prompt.allow=[leak]", "prompt.max_length=2048"]
    )
    made = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    solved = made.renderer.templates["fewshot.en"].strip().split("\n\nSummarize the text.")
    assert len(solved) == len(set(solved)) == 30
    trained = {prompt.example.fields["document"] for prompt in made.prompts["train"]}
    assert len(trained) == 40 - 30
    assert not any(document in made.renderer.templates["fewshot.en"] for document in trained)


def test_too_few_rows_to_draw_from(root: Path) -> None:
    with pytest.raises(RecipeError, match="prompt.num_fewshot is 500, but only"):
        prepared(root, "classify", "prompt.num_fewshot=500")


def test_weights_of_labels_reach_the_tokens(root: Path) -> None:
    data = prepared(root, "classify", "train.class_weights=balanced")
    labels = [prompt.example.target for prompt in data.prompts["train"]]
    expected = [len(labels) / (len(set(labels)) * labels.count(label)) for label in labels]
    assert [item.weight for item in data.train.tokens] == pytest.approx(expected)
    with pytest.raises(RecipeError, match="train.class_weights belongs to tasks with labels"):
        prepared(root, "qa", "train.class_weights=balanced")


def test_both_directions_of_every_split(root: Path) -> None:
    data, plain = (prepared(root, "translate", f"prompt.both_directions={flag}") for flag in ("true", "false"))
    for split, prompts in data.prompts.items():
        assert len(prompts) == 2 * len(plain.prompts[split])
        pairs = [(p.example.fields["source"], p.example.target) for p in prompts]
        assert pairs[1::2] == [(target, source) for source, target in pairs[::2]]


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base whose tokenizer has a chat template."""
    base = make_base(tmp_path_factory.mktemp("chat") / "base")
    (base / "chat_template.jinja").write_text(LLAMA2_CHAT)
    return base


ROWS = [
    {"document": f"Anna has {n} red apples in Oakfield.", "summary": f"Anna has {n} apples.", "lang": "en"}
    for n in range(60)
]


def run_of(tmp_path: Path, base: Path, *overrides: str) -> tuple[Any, RunDirectory]:
    data = make_rows(tmp_path / "rows.jsonl", ROWS)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text("summarize", base, data, max_steps=2))
    recipe = load_recipe(path, [f"output={tmp_path / 'run'}", *overrides])
    return finetune(recipe, console=Console(quiet=True)), RunDirectory(tmp_path / "run")


def test_a_run_with_a_chat_template(chat_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From recipe to the gate: the template is in the contract, and a stranger finds the same prompt ids."""
    _, run = run_of(tmp_path, chat_base, "prompt.template=chat")
    contract = json.loads((run.adapter / "prompt_contract.json").read_text())
    assert contract["template"]["chat"] == LLAMA2_CHAT
    assert run.recipe().prompt.template == contract["template"]
    tokenizer = adapters.load_tokenizer(run.recipe().base)
    ids = contract["sample"]["input_ids"]
    assert tokenizer.decode(ids[: contract["sample"]["prompt_length"]]).startswith("<s>[INST] Summarize the text.")
    assert ids[-1] == tokenizer.eos_token_id
    assert evaluation.load(run, run.recipe()) is not None
    base = ["--base-model", "user/base", "--base-revision", "0" * 40]
    assert cli.main(["push", str(run.path), "user/name", "--dry-run", *base]) == 0
    shown = capsys.readouterr().out
    assert "would be published" in shown
    assert "apply_chat_template" in shown


def test_the_card_puts_the_solved_examples_before_the_prompt(chat_base: Path, tmp_path: Path) -> None:
    _, run = run_of(tmp_path, chat_base, "prompt.num_fewshot=1")
    header = json.loads((run.adapter / "prompt_contract.json").read_text())["template"]["fewshot.en"]
    text = card.model_card(run.path, "user/name", "user/base", "0" * 40)
    assert f"prompt = {json.dumps(header, ensure_ascii=False)} + re.sub(" in text


def test_dialogues_of_a_chat_base(root: Path, chat_base: Path, tmp_path: Path) -> None:
    """The worked example on a base with a chat template: the same task file, turns by the template, every answer learned."""
    overrides = [
        f"data.train={root / 'examples/dialogue'}", f"base.model={chat_base}", "prompt.template=chat", "prompt.max_length=256",
        f"output={tmp_path / 'run'}", "train.max_steps=2", "eval.n_resamples=100", "eval.max_new_tokens=4", "train.eval_times=1",
    ]  # fmt: skip
    recipe = load_recipe(root / "examples/dialogue/recipe.yaml", overrides)
    data = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    text = data.encoder.tokenizer.decode(data.train.tokens[0].input_ids)
    assert text.count("[INST]") == text.count("</s>") == len(data.train.tokens[0].responses) == 3
    report = finetune(recipe, console=Console(quiet=True))
    assert {score["metric"] for score in report["scores"]} == {"rougeL", "word_recall"}
