"""What the gate sees in the names and bytes of a folder, without loading a model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from llama_tasks.contract import PromptContract
from llama_tasks.errors import LlamaTasksError
from llama_tasks.recipe import Recipe

REQUIRED = (
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "prompt_contract.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
OPTIONAL = ("added_tokens.json", "chat_template.jinja", "special_tokens_map.json", "tokenizer.model")
PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{20,}")
_LOCAL_PATH = re.compile(rb"(?:/home|/Users|/root|/tmp|/content/drive|[A-Za-z]:[\\/]+Users)[\\/]+[\w.@+-]+|file://")
_PASSWORD = re.compile(rb"[a-z][a-z0-9+.-]*://[^\s/@:]*:[^\s/@]+@")  # in a URL
_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$")


@dataclass(frozen=True)
class Check:
    """One thing the gate looked at; `detail` says what was found, never a secret itself."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class GateReport:
    """Every check, in the order made."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True when the folder may leave."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """What stands in the way."""
        return tuple(check for check in self.checks if not check.ok)


def is_commit(revision: object) -> bool:
    """True for a full commit sha (40 lower-case hexadecimal digits); branches and tags move, a commit does not."""
    return isinstance(revision, str) and _COMMIT.fullmatch(revision) is not None


def repo_id_problem(repo_id: str) -> str | None:
    """What is wrong with the name of a repository on the Hub, or None."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        return f"{repo_id!r} is no repository name; write USER/NAME with letters, digits, '-', '_' and '.'"
    return None if "/" in repo_id else f"{repo_id!r} does not say whose repository it is; write USER/{repo_id}"


def check_files(
    folder: Path, *, base_model: str, revision: str, private: Iterable[str] = (), recipe: Recipe | None = None
) -> GateReport:
    """The checks that need no model; `recipe` is the run's, which the prompt contract must fit."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    looks: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("files", lambda: _wrong_names(files)),
        ("no pickle", lambda: _pickles(files)),
        ("weights", lambda: _weights(folder)),
        ("base pinned", lambda: _base(folder, base_model, revision)),
        ("stable bytes", lambda: _stable(folder, base_model, revision)),
        ("prompt contract", lambda: _contract(folder, recipe)),
        ("no local path", lambda: _local_paths(files, private)),
        ("no secret", lambda: _secrets(files, private)),
    ]
    return GateReport(tuple(_look(name, look) for name, look in looks))


def check_base_files(folder: Path, *, private: Iterable[str] = ()) -> GateReport:
    """The same for the folder of a base that is published together with its adapter."""
    files = {path.name: path for path in sorted(folder.iterdir())}
    looks: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("base: plain llama", lambda: _not_plain_llama(folder)),
        ("base: no pickle", lambda: _pickles(files)),
        ("base: no local path", lambda: _local_paths(files, private)),
        ("base: no secret", lambda: _secrets(files, private)),
    ]
    return GateReport(tuple(_look(name, look) for name, look in looks))


def _look(name: str, look: Callable[[], Iterator[str]]) -> Check:
    """Run one look; a file that it cannot read is a finding, not a crash."""
    try:
        findings = list(look())
    except (OSError, ValueError, KeyError, TypeError, LlamaTasksError) as error:
        findings = [f"unreadable: {type(error).__name__}: {error}"[:200]]
    return Check(name, not findings, "; ".join(findings) or "ok")


def _wrong_names(files: dict[str, Path]) -> Iterator[str]:
    for name in REQUIRED:
        if name not in files:
            yield f"{name} is missing"
    for name, path in files.items():
        if name == "config.json":
            yield "config.json would make transformers take the adapter for a whole model"
        elif path.is_symlink():
            yield f"{name} is a link"
        elif name not in REQUIRED + OPTIONAL and not name.endswith(PICKLES):
            yield f"{name} does not belong to an adapter"


def _not_plain_llama(folder: Path) -> Iterator[str]:
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != "llama":
        yield f"model_type is {kind!r}, which transformers alone cannot load"
    if not any(folder.glob("*.safetensors")):
        yield "there are no weights in safetensors files"


def _pickles(files: dict[str, Path]) -> Iterator[str]:
    for name in files:
        if name.endswith(PICKLES):
            yield f"{name} can run code when it is opened"


def _weights(folder: Path) -> Iterator[str]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except SafetensorError as error:
        yield f"adapter_model.safetensors is broken ({error})"
        return
    if not tensors:
        yield "adapter_model.safetensors holds no tensor"
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        yield f"{len(broken)} of {len(tensors)} tensors hold NaN or infinity, first {broken[0]}"


def _base(folder: Path, base_model: str, revision: str) -> Iterator[str]:
    from llama_tasks.adapters.config_file import read_adapter_config

    config = read_adapter_config(folder)
    if problem := repo_id_problem(base_model):
        yield problem
    if not is_commit(revision):
        yield f"revision {revision!r} is no commit (40 hexadecimal digits)"
    if (config.get("base_model_name_or_path"), config.get("revision")) != (base_model, revision):
        yield "adapter_config.json names another base"


def _stable(folder: Path, base_model: str, revision: str) -> Iterator[str]:
    from llama_tasks.adapters.config_file import normal_form, read_adapter_config

    text = (folder / "adapter_config.json").read_text(encoding="utf-8")
    if text != normal_form(read_adapter_config(folder), base_model, revision):
        yield "adapter_config.json is not in its normal form"


def _contract(folder: Path, recipe: Recipe | None) -> Iterator[str]:
    from transformers import AutoTokenizer

    contract = PromptContract.load(folder)
    ids = contract.sample.get("input_ids")
    if not ids or not all(type(i) is int and i >= 0 for i in ids):
        yield "prompt_contract.json has no sample of token ids"
    if (folder / "tokenizer.json").is_file():
        yield from contract.differences(AutoTokenizer.from_pretrained(str(folder)), recipe)


def _local_paths(files: dict[str, Path], private: Iterable[str]) -> Iterator[str]:
    home = str(Path.home())
    known = [text for text in (home + os.sep, *private) if len(text) > 3 and _is_path(text)]
    for name, path in files.items():
        if name.endswith(".safetensors"):
            continue
        data = path.read_bytes()
        if any(text.encode() in data for text in known):
            yield f"{name} names a folder of this machine"
        elif name != "tokenizer.json" and (found := _LOCAL_PATH.search(_own_words(name, data))):
            yield f"{name} holds the local path {found.group().decode(errors='replace')!r}"
        elif name in ("adapter_config.json", "tokenizer_config.json"):
            yield from (f"{name} holds the local path {text!r}" for text in _absolute(json.loads(data)))


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text


def _own_words(name: str, data: bytes) -> bytes:
    """A file without the sample row: a user's text may speak of /home/anyone."""
    if name != "prompt_contract.json":
        return data
    contract = json.loads(data)
    contract.pop("sample", None)
    return json.dumps(contract, ensure_ascii=False).encode()


def _absolute(value: Any) -> Iterator[str]:
    """Strings in a JSON tree that are absolute paths."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _absolute(item)
    elif isinstance(value, str) and "\n" not in value:
        deep = PurePosixPath(value).is_absolute() and len(PurePosixPath(value).parts) > 2
        if deep or (PureWindowsPath(value).is_absolute() and len(value) > 3):
            yield value


def _secrets(files: dict[str, Path], private: Iterable[str]) -> Iterator[str]:
    strings = [text for text in private if not _is_path(text)]
    known = [secret.encode() for secret in (*user_secrets(), *strings) if len(secret) >= 8]
    for name, path in files.items():
        data = _scannable(path)
        if _TOKEN.search(data) or any(secret in data for secret in known) or _PASSWORD.search(_own_words(name, data)):
            yield f"{name} holds an access token or another secret of yours"


def _scannable(path: Path) -> bytes:
    """A file's bytes; of safetensors only the header, where text can stand."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with path.open("rb") as file:
        return file.read(8 + int.from_bytes(file.read(8), "little"))


def _names_a_file(value: str) -> bool:
    try:
        return _is_path(value) and Path(value).expanduser().exists()
    except (OSError, RuntimeError):  # too long to be a name, or of an unknown user
        return False


def names_a_secret(variable: str) -> bool:
    """Whether an environment variable is named like a secret."""
    return _SECRET_NAME.search(variable) is not None


def user_secrets() -> list[str]:
    """The user's Hub token, and the values of environment variables that are named like secrets (but names of files with keys)."""
    from huggingface_hub import get_token

    values = [value for key, value in os.environ.items() if names_a_secret(key) and len(value) >= 16]
    named = [value for value in values if not _names_a_file(value)]
    token = get_token()
    return [*named, token] if token else named
