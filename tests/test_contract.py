"""The prompt contract: whoever loads an adapter with another template, tokenizer or special token hears which, by line,
token and id; through the command, for every command that loads one."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import yaml
from run_factory import TEMPLATE, make_base, make_contract, make_run, make_tokenizer

from llama_tasks.cli import main
from llama_tasks.contract import PromptContract, trees_apart
from llama_tasks.errors import ModelError
from llama_tasks.recipe import BaseConfig, PromptConfig, Recipe
from llama_tasks.rundir import RunDirectory
from llama_tasks.tokens.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_run(folder / "run", make_base(folder / "base"))
    tiny.make_rows(folder / "rows.jsonl", [{"document": "A dog ran over the hill.", "lang": "en"}])
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, its base and rows to predict, to spoil; the recipe says what was trained."""
    folder = Path(shutil.copytree(made, tmp_path / "place"))
    path = folder / "run/recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["base"]["model"], recipe["prompt"] = str(folder / "base"), {"template": TEMPLATE}
    path.write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(folder)
    return folder


def fails(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """The one paragraph with which the command refuses."""
    capsys.readouterr()
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert shown.err.count("\n") == 1
    return shown.out + shown.err


def change(path: Path, edit: Callable[[dict], object]) -> None:
    tree = json.loads(path.read_text(encoding="utf-8"))
    edit(tree)
    path.write_text(json.dumps(tree), encoding="utf-8")


def swap(folder: Path, a: str = "a", b: str = "b") -> None:
    """Two tokens change places in a tokenizer."""

    def edit(tree: dict) -> None:
        vocab = tree["model"]["vocab"]
        vocab[a], vocab[b] = vocab[b], vocab[a]

    change(folder / "tokenizer.json", edit)


PREDICT = ("predict", "run", "--input", "rows.jsonl", "--output", "out.jsonl")


def test_another_template_names_the_line(place: Path, capsys: pytest.CaptureFixture) -> None:
    given = 'prompt.template={default: "Summarize the text.\\n\\n{document}\\n\\nAbstract:\\n"}'
    message = fails(capsys, *PREDICT, given)
    assert "template.default, line 5: was 'Summary:', is 'Abstract:'" in message
    assert "template.zh is gone" in message
    assert not (place / "out.jsonl").exists()


@pytest.mark.parametrize("command", [PREDICT, ("evaluate", "run")], ids=["predict", "evaluate"])
def test_the_contract_speaks_before_the_rows(
    place: Path, capsys: pytest.CaptureFixture, command: tuple[str, ...]
) -> None:
    """Rows that are not there, in a language for which there is no template now."""
    (place / "rows.jsonl").write_text("no JSON")
    message = fails(capsys, *command, "prompt.template={zh: '{document}', de: '{document}'}", "eval.metrics=[rougeL]")
    assert "what is loaded now is not what was trained" in message
    assert "template.default is gone" in message


def test_another_special_token_names_it_with_its_id(place: Path, capsys: pytest.CaptureFixture) -> None:
    change(place / "base/tokenizer_config.json", lambda tree: tree.update(eos_token="<pad>"))
    assert "the special token EOS was id 2 ('</s>') and is id 3 ('<pad>')" in fails(capsys, *PREDICT)


def test_another_tokenizer_names_token_and_ids(place: Path, capsys: pytest.CaptureFixture) -> None:
    ids = make_tokenizer().get_vocab()
    swap(place / "base")
    message = fails(capsys, *PREDICT)
    assert f"2 tokens differ, 'a' had id {ids['a']} and has id {ids['b']}, 'b' had id {ids['b']} and has" in message


def test_without_a_copy_of_the_old_tokenizer_the_sample_tells(place: Path, capsys: pytest.CaptureFixture) -> None:
    ids = make_tokenizer().get_vocab()
    for folder in ("base", "run/adapter"):
        swap(place / folder, "S", "t")
    assert f"at 't' (id {ids['S']}, was {ids['t']})" in fails(capsys, *PREDICT)


def check_with(place: Path, **options: object) -> None:
    """The run's contract against its recipe with other options."""
    recipe = RunDirectory(place / "run").recipe()
    asked = replace(recipe, prompt=replace(recipe.prompt, **options))
    adapter = place / "run/adapter"
    PromptContract.load(adapter).check(load_tokenizer(BaseConfig(str(adapter))), adapter, asked)


def test_another_option_of_the_task_is_named(place: Path, capsys: pytest.CaptureFixture) -> None:
    contract = place / "run/adapter/prompt_contract.json"
    change(contract, lambda tree: tree.update(options={"length": None, "length_unit": "auto"}))
    with pytest.raises(ModelError, match="prompt.length was null and is 40"):
        check_with(place, length=40)
    change(contract, lambda tree: tree.update(options={"length": 20, "length_unit": "auto"}))
    with pytest.raises(ModelError, match='prompt.length_unit was "auto" and is "sentences"') as caught:
        check_with(place, length=40, length_unit="sentences")
    assert "prompt.length was" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "trained", "asked", "names"),
    [
        ("classify", {"label_descriptions": {}}, {"label_descriptions": {"no": "blame"}}, ["label_descriptions"]),
        ("qa", {"all_answers": True, "extractive": True}, {}, ["all_answers"]),
        ("translate", {"both_directions": False}, {"both_directions": True}, ["both_directions"]),
        ("translate", {"both_directions": True}, {}, []),
        ("summarize", {"length": 20, "length_unit": "auto"}, {"length": 40}, []),
        ("classify", None, {"label_descriptions": {"no": "blame"}}, []),  # of a contract without the field
    ],
)
def test_options_that_change_prompts(task: str, trained: dict | None, asked: dict, names: list[str]) -> None:
    tokenizer = make_tokenizer()
    contract = replace(make_contract(tokenizer), task=task, options=trained)
    found = contract.differences(tokenizer, Recipe(task, prompt=PromptConfig(**asked)))
    assert [text.split()[0] for text in found] == [f"prompt.{name}" for name in names]


@pytest.mark.parametrize("argv", [("export", "run", "merged"), ("push", "run", "me/mine", "--dry-run",
                                   "--base-model", "me/base", "--base-revision", "0" * 39 + "1")], ids=lambda a: a[0])  # fmt: skip
def test_export_and_push_look_at_tokenizer_special_tokens_and_template(
    place: Path, capsys: pytest.CaptureFixture, argv: tuple[str, ...]
) -> None:
    swap(place / "run/adapter")
    assert "another tokenizer: " in fails(capsys, *argv)
    swap(place / "run/adapter")
    change(place / "run/adapter/tokenizer_config.json", lambda tree: tree.update(bos_token="<unk>"))
    assert "the special token BOS was id 1 ('<s>') and is id 0 ('<unk>')" in fails(capsys, *argv)
    change(place / "run/adapter/tokenizer_config.json", lambda tree: tree.update(bos_token="<s>"))
    contract = place / "run/adapter/prompt_contract.json"
    change(contract, lambda tree: tree["template"].update(default="Shorten.\n\n{document}\n\nSummary:\n"))
    message = fails(capsys, *argv)
    assert "the template was changed after training" in message
    assert "line 1: was 'Summarize the text.', is 'Shorten.'" in message
    assert not (place / "merged").exists()


def test_a_run_is_not_resumed_with_another_tokenizer_or_template(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tiny.make_base(tmp_path / "base")
    rows = [
        {"document": f"Anna has {n} apples. She sings.", "summary": f"Anna has {n}.", "lang": "en"} for n in range(60)
    ]
    data = tiny.make_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "mine.yaml").write_text(tiny.recipe_text("summarize", base, data, max_steps=2), encoding="utf-8")
    assert main(["finetune", "mine.yaml"]) == 0
    message = fails(
        capsys, "finetune", "mine.yaml", "--resume", "prompt.template.default=Say it.\n{document}\nSummary:"
    )
    assert "template.default, line 1: was 'Summarize the text.\\n', is 'Say it.'" in message
    data.rename(tmp_path / "elsewhere.jsonl")  # the contract speaks before the rows
    message = fails(capsys, "finetune", "mine.yaml", "--resume", "prompt.template={zh: '{document}', de: '{document}'}")
    assert "template.default is gone" in message
    (tmp_path / "elsewhere.jsonl").rename(data)
    swap(base, " the", " Anna")
    message = fails(capsys, "finetune", "mine.yaml", "--resume")
    assert "another tokenizer: it begins to write the sample otherwise at ' the' (id " in message


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda t: t["added_tokens"].append({"content": "<new>", "id": 400}), "1 tokens differ, '<new>' had no id and has id 400"),
        (lambda t: t["model"]["merges"].pop(), "was 'a + b' and is 'nothing'"),
        (lambda t: t.update(normalizer={"type": "NFC"}), 'its normalizer was null and is {"type": "NFC"}'),
    ],
)  # fmt: skip
def test_how_tokenizers_differ(edit: Callable[[dict], object], expected: str) -> None:
    tree = json.loads(make_tokenizer().backend_tokenizer.to_str())
    tree["model"]["merges"][-1] = ["a", "b"]
    other = copy.deepcopy(tree)
    edit(other)
    assert expected in trees_apart(tree, other)
