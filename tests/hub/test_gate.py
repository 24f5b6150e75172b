"""The gate: what a stranger could not use, or should not see, does not leave."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_factory import HUB_BASE, make_base, make_run
from safetensors.torch import load_file, save_file

from llama_tasks.adapters.config_file import normalise_adapter_config
from llama_tasks.contract import PromptContract
from llama_tasks.hub.checks import (
    Check,
    check_base_files,
    check_files,
    is_commit,
    repo_id_problem,
)
from llama_tasks.hub.gate import check_logits, compare, native_logits
from llama_tasks.hub.probe import Without

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CANARY = "hf_" + "CanaryCanaryCanaryCanary"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def good(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder that may leave."""
    folder = make_run(tmp_path_factory.mktemp("good") / "run", base, revision=COMMIT) / "adapter"
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    normalise_adapter_config(folder, HUB_BASE, COMMIT)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(good, tmp_path / "adapter"))


def failures(folder: Path, revision: str = COMMIT, private: tuple[str, ...] = ()) -> dict[str, str]:
    report = check_files(folder, base_model=HUB_BASE, revision=revision, private=private)
    return {check.name: check.detail for check in report.failures}


def test_a_stranger_gets_the_same_logits(good: Path, base: Path, tmp_path: Path) -> None:
    checks = check_logits(good, base, base)
    assert all(check.ok for check in checks), checks
    assert [check.name for check in checks] == ["same prompt ids", "same logits", "adapter is live"]
    assert "float32" in checks[1].detail


def test_a_wrong_base_a_dead_adapter_and_another_tokenizer_are_noticed(good: Path, base: Path, tmp_path: Path) -> None:
    sample = PromptContract.load(good).sample
    ids = sample["input_ids"]
    native = native_logits(base, good, ids)
    other = native_logits(make_base(tmp_path / "other", seed=5), good, ids)
    found = {"adapter": native, "base": other, "prompt_ids": torch.tensor(ids[: sample["prompt_length"]])}
    assert failed(compare(sample, native, found)) == set()
    assert failed(compare(sample, other, found)) == {"same logits"}
    assert failed(compare(sample, native + float("nan"), found)) == {"same logits"}
    assert failed(compare(sample, native, found | {"base": native})) == {"adapter is live"}
    assert failed(compare(sample, native, found | {"prompt_ids": torch.tensor([1, 2])})) == {"same prompt ids"}
    assert failed(compare(sample, native[:, 1:], found)) == {"same logits"}


def failed(checks: tuple[Check, ...]) -> set[str]:
    return {check.name for check in checks if not check.ok}


def test_native_logits_are_those_of_the_sample(good: Path, base: Path) -> None:
    logits = native_logits(base, good, [1, 70, 71])
    assert logits.shape == (1, 3, 300)
    assert logits.dtype == torch.float32


def test_llama_tasks_cannot_be_imported_by_the_stranger() -> None:
    blocker = Without("llama_tasks")
    sys.meta_path.insert(0, blocker)
    try:
        with pytest.raises(ModuleNotFoundError, match="not here"):
            importlib.import_module("llama_tasks.not_loaded_yet")
    finally:
        sys.meta_path.remove(blocker)


def test_the_normal_form_does_not_depend_on_what_peft_wrote(folder: Path) -> None:
    path = folder / "adapter_config.json"
    expected = path.read_bytes()
    config = json.loads(expected)
    config |= {"base_model_name_or_path": "/home/me/base", "revision": None}
    config["target_modules"] = config["target_modules"][::-1]
    path.write_text(json.dumps(dict(reversed(config.items()))))
    assert {"base pinned", "stable bytes"} <= failures(folder).keys()
    normalise_adapter_config(folder, HUB_BASE, COMMIT)
    assert path.read_bytes() == expected
    assert failures(folder) == {}


def spoil_json(name: str, **changes: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def spoil_weights(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("inf")
    save_file(weights, folder / "adapter_model.safetensors")


def token_in_header(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path), path, metadata={"note": CANARY})


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("files", lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        ("files", lambda f: (f / "config.json").write_text("{}"), "whole model"),
        ("files", lambda f: (f / "notes.txt").write_text("x"), "notes.txt does not belong"),
        ("files", lambda f: shutil.copytree(f, f / "checkpoints"), "checkpoints/README.md"),
        ("files", lambda f: (f / "tokenizer.model").symlink_to(f / "README.md"), "is a link"),
        ("no pickle", lambda f: (f / "adapter_model.bin").write_bytes(b"\x80"), "adapter_model.bin can run code"),
        ("no pickle", lambda f: (f / "training_args.pt").write_bytes(b"\x80"), "training_args.pt"),
        ("weights", spoil_weights, "NaN or infinity"),
        ("weights", cut, "broken"),
        ("prompt contract", lambda f: (f / "prompt_contract.json").write_text("{"), "broken"),
        ("prompt contract", spoil_json("prompt_contract.json", template={"en": "{text}"}), "template was changed"),
        ("prompt contract", spoil_json("prompt_contract.json", sample={}), "no sample"),
        ("no local path", lambda f: (f / "README.md").write_text("see /home/ana/data"), "'/home/ana'"),
        ("no local path", lambda f: (f / "README.md").write_text(r"C:\Users\ana\data"), "Users"),
        ("no local path", spoil_json("tokenizer_config.json", name_or_path="/srv/models/x"), "'/srv/models/x'"),
        ("no local path", lambda f: (f / "README.md").write_text(f"{Path.home()}/x y"), "README.md"),
        ("no secret", lambda f: (f / "README.md").write_text(f"token {CANARY}"), "README.md holds"),
        ("no secret", lambda f: (f / "README.md").write_text("https://ana:open@host.org/x.jsonl"), "README.md holds"),
        ("no secret", token_in_header, "adapter_model.safetensors holds"),
        ("base pinned", lambda f: (f / "adapter_config.json").write_text("[]"), "unreadable"),
    ],
)
def test_each_fault_is_found_and_named(folder: Path, name: str, spoil: Callable[[Path], object], says: str) -> None:
    spoil(folder)
    found = failures(folder)
    assert says in found[name]
    assert CANARY not in str(found)


def test_the_users_own_secrets_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "README.md").write_text("a-very-odd-token and another-secret-of-mine and given-as-argument")
    assert "no secret" not in failures(folder)
    monkeypatch.setenv("HF_TOKEN", "a-very-odd-token")
    assert "no secret" in failures(folder)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("OTHER_API_KEY", "another-secret-of-mine")
    assert "no secret" in failures(folder)
    monkeypatch.delenv("OTHER_API_KEY")
    assert "no secret" in failures(folder, private=("given-as-argument",))
    (folder / "README.md").write_text("wJal/rXUt+nFEMI/K7MDENG")
    assert "no secret" not in failures(folder)
    monkeypatch.setenv("LONG_TOKEN", "a/" + "b" * 400)  # no name that a file could have
    assert "no secret" not in failures(folder)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJal/rXUt+nFEMI/K7MDENG")
    assert "no secret" in failures(folder)


def test_text_of_the_users_rows_may_speak_of_folders(folder: Path) -> None:
    path = folder / "prompt_contract.json"
    contract = json.loads(path.read_text(encoding="utf-8"))
    contract["sample"]["prompt"] = "What is in /home/ana/data?"
    path.write_text(json.dumps(contract), encoding="utf-8")
    assert failures(folder) == {}
    contract["task"] = "/home/ana/data"
    path.write_text(json.dumps(contract), encoding="utf-8")
    assert "no local path" in failures(folder)


def test_a_base_is_pinned_by_commit_only(folder: Path) -> None:
    assert "is no commit" in failures(folder, revision="main")["base pinned"]
    assert is_commit(COMMIT)
    assert not any(is_commit(text) for text in ("main", COMMIT[:7], COMMIT.upper(), COMMIT + "\n", None))
    assert repo_id_problem("org/name") is None
    assert all(repo_id_problem(text) for text in ("name", "../x", "a/b/c", "org/na me", "/tmp/base", "org/x.git"))


def test_a_base_that_only_we_can_load_stays_here(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    assert check_base_files(folder).ok
    (folder / "config.json").write_text('{"model_type": "native_llama", "_name_or_path": "/home/ana/base"}')
    assert {check.name for check in check_base_files(folder).failures} == {"base: plain llama", "base: no local path"}
