"""Publishing an adapter on the Hugging Face Hub: one commit, only after the gate, only what the gate has seen.

A push works on a copy: staged, normalised, given its card, looked at, then sent. The run is never changed. Whatever the
network does, the push may be run again: files that arrived are recognised by their hashes, and a commit whose answer
was lost is not made twice.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_tasks.errors import HubError
from llama_tasks.hub.card import base_card, model_card, plain
from llama_tasks.hub.checks import (
    Check,
    GateReport,
    check_base_files,
    check_files,
    is_commit,
    repo_id_problem,
)
from llama_tasks.hub.client import Client, in_cache
from llama_tasks.hub.gate import NOT_RUN, check_logits
from llama_tasks.recipe import Recipe
from llama_tasks.rundir import RunDirectory

if TYPE_CHECKING:
    from rich.console import Console

NOT_YET = "0" * 40  # stands for the commit of a base that is uploaded by the same push
_BASE_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*",
               "special_tokens_map.json", "chat_template.jinja")  # fmt: skip


@dataclass(frozen=True)
class File:
    """A file as it is, or would be, published."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PushResult:
    """What a push did, or (dry run) would do."""

    repo_id: str
    base_model: str
    base_revision: str
    card: str
    files: tuple[File, ...]
    gate: GateReport
    url: str | None = None
    commit: str | None = None

    @property
    def refused(self) -> bool:
        """The gate says no."""
        return not self.gate.ok

    @property
    def snippet(self) -> str:
        """Two lines that load the published adapter."""
        return (
            f"base = AutoModelForCausalLM.from_pretrained({self.base_model!r}, revision={self.base_revision!r})\n"
            f"model = PeftModel.from_pretrained(base, {self.repo_id!r})"
        )


@dataclass(frozen=True)
class _Base:
    """The base by its public name, and the local folder that it was trained from (None: trained from the Hub)."""

    model: str
    revision: str
    folder: Path | None


def push(
    run_dir: Path,
    repo_id: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    base_model: str | None = None,
    base_revision: str | None = None,
    with_base: bool = False,
    license: str | None = None,
    base_path: Path | None = None,
    token: str | None = None,
    console: Console | None = None,
    timeout: float = 60.0,
) -> PushResult:
    """Publish the adapter of a run as `repo_id`.

    base_model, base_revision: Hub id and commit of the base, where the run was trained from a local folder.
    with_base: upload that local base as well, as `<repo_id>-base`, and pin the adapter to the commit it gets.
    base_path: where the local base lies now, if it moved since the run.
    dry_run: show card, files and checks, touch no network; the result says whether the push would be refused.
    timeout: seconds without an answer after which a request counts as failed.

    Raises:
        HubError: a wrong name, no token, an unknown base, a refusal of gate or Hub, a network that stays down.
    """
    from rich.console import Console

    run_dir, console = Path(run_dir), console or Console()
    again = _command(run_dir, repo_id, private, base_model, base_revision, with_base, license, base_path)
    _check_repo_id(repo_id)
    base = _base_of(run_dir, repo_id, base_model, base_revision, base_path, with_base)
    _as_recorded(run_dir, base.folder)
    client = None if dry_run else Client(token, timeout, again)
    with tempfile.TemporaryDirectory() as temporary:
        stage, base_stage = Path(temporary, "adapter"), None
        if with_base and base.folder:
            base_stage = _stage_base(base.folder, Path(temporary, "base"), repo_id, license)
        card = _stage(run_dir, stage, repo_id, base, license)
        private_text = _private_text(run_dir, base, token)
        report = _gate(stage, base_stage, base, private_text, client, RunDirectory(run_dir).recipe())
        result = PushResult(repo_id, base.model, base.revision, card, _files(stage), report)
        show(result, console, with_card=dry_run)
        if client is None:
            return result
        if result.refused:
            raise HubError(f"The gate refuses {repo_id}; nothing was sent. {_failures(report)}")
        if base_stage is not None:
            base = replace(base, revision=client.publish(base.model, base_stage, private, "Base model").commit)
            card = _stage(run_dir, stage, repo_id, base, license)
            pinned = check_files(stage, base_model=base.model, revision=base.revision, private=private_text)
            if not pinned.ok:
                raise HubError(f"The gate refuses {repo_id}; the base was sent, the adapter not. {_failures(pinned)}")
        sent = client.publish(repo_id, stage, private, "Adapter")
        result = PushResult(repo_id, base.model, base.revision, card, _files(stage), report, sent.url, sent.commit)
    console.print(f"\nPublished: {result.url}\n\n{result.snippet}", markup=False, highlight=False, soft_wrap=True)
    return result


def show(result: PushResult, console: Console, *, with_card: bool) -> None:
    """Print card (if asked), files with sizes and hashes, and every check of the gate."""
    from rich.table import Table
    from rich.text import Text

    if with_card:
        console.rule("README.md")
        console.print(Text(result.card))
    files = Table("file", "bytes", "sha256", box=None)
    for file in result.files:
        files.add_row(Text(plain(file.name)), f"{file.size:,}", file.sha256[:16])
    console.print(files)
    for check in result.gate.checks:
        mark, style = ("✓", "green") if check.ok else ("✗", "red")
        console.print(Text.assemble((mark, style), f" {check.name}: {plain(check.detail)}"), soft_wrap=True)
    if with_card:
        verdict = "would be refused" if result.refused else "would be published"
        console.print(Text(f"Dry run: {result.repo_id} {verdict}; nothing was sent."))


def _gate(
    stage: Path, base_stage: Path | None, base: _Base, private: Sequence[str], client: Client | None, recipe: Recipe
) -> GateReport:
    """Names and bytes first; only when they are right is a base fetched and a model loaded.

    The stranger loads what the public name gives: the Hub's own copy of the base. Only a dry run, and a base that is
    not on the Hub yet, take the local folder instead.
    """
    checks = check_files(stage, base_model=base.model, revision=base.revision, private=private, recipe=recipe).checks
    if base_stage is not None:
        checks += check_base_files(base_stage, private=private).checks
    if not GateReport(checks).ok:
        return GateReport((*checks, NOT_RUN))
    if base_stage is not None or (client is None and base.folder is not None):
        published: Path | None = base_stage or base.folder
    elif client is not None:
        published = client.download(base.model, base.revision)
    else:
        published = in_cache(base.model, base.revision)
    if published is None:
        absent = f"{base.model} at {base.revision[:8]} is not in the cache, and a dry run downloads nothing"
        return GateReport((*checks, Check("same logits", False, absent)))
    if client is None and base_stage is None and base.folder is not None:
        checks += (Check("base on the Hub", True, f"{base.model} is not compared with the local base in a dry run"),)
    return GateReport((*checks, *check_logits(stage, base.folder or published, published)))


def _as_recorded(run_dir: Path, base: Path | None) -> None:
    """Raise ModelError where the adapter, or a local base, is not the one whose hashes the run wrote down: the scores on the card
    are about those."""
    from llama_tasks.adapters import integrity

    integrity.check_trained(run_dir, run_dir / "adapter")
    if base is not None:
        known = RunDirectory(run_dir).environment().get("base") or {}
        integrity.check(base, known, "name the base that the run was trained on (--base-path)")


def _stage(run_dir: Path, stage: Path, repo_id: str, base: _Base, license: str | None) -> str:
    """Copy the adapter (not hidden files), normalise its configuration, write its card; returns the card."""
    from llama_tasks.adapters.config_file import normalise_adapter_config

    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(run_dir / "adapter", stage, ignore=shutil.ignore_patterns(".*"))
    try:
        card = model_card(run_dir, repo_id, base.model, base.revision, license=license)
        normalise_adapter_config(stage, base.model, base.revision)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}".replace(str(stage), "adapter")
        raise HubError(f"{run_dir} is not a complete run ({reason}); nothing was sent.") from None
    (stage / "README.md").write_text(card, encoding="utf-8")
    return card


def _stage_base(folder: Path, stage: Path, repo_id: str, license: str | None) -> Path:
    """Copy a local base as a plain `llama` checkpoint, which transformers loads without llama-tasks."""
    stage.mkdir(parents=True)
    for pattern in _BASE_FILES:
        for path in folder.glob(pattern):
            shutil.copy(path, stage / path.name)
    config = json.loads((stage / "config.json").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if key not in ("_name_or_path", "auto_map")}
    if config.get("model_type") == "native_llama":  # the same weights by the same names
        config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (stage / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (stage / "README.md").write_text(base_card(f"{repo_id}-base", repo_id, license), encoding="utf-8")
    return stage


def _base_of(
    run_dir: Path, repo_id: str, model: str | None, revision: str | None, path: Path | None, with_base: bool
) -> _Base:
    """The base's public name. Raises HubError, with what to say, where the run alone does not give it."""
    from llama_tasks.adapters import where_is

    if not (run_dir / "adapter").is_dir():
        raise HubError(f"{run_dir} has no adapter/ folder, so there is nothing to publish (were all weights trained?).")
    recorded = RunDirectory(run_dir).recipe().base
    local = not is_commit(recorded.revision)  # a Hub base is recorded with its commit
    folder = Path(path or where_is(recorded.model)) if local or path else None
    if folder is not None and not (folder / "config.json").is_file():
        raise HubError(f"The base of this run is not in {folder}; say where it is (--base-path).")
    if with_base and folder is None:
        raise HubError(f"--with-base is for local bases; this run was trained on {recorded.model} from the Hub.")
    if with_base:
        return _Base(f"{repo_id}-base", NOT_YET, folder)
    if not local and (model or recorded.model, revision or recorded.revision) != (recorded.model, recorded.revision):
        raise HubError(
            f"--base-model and --base-revision name a base that was a local folder; this run was trained on {recorded.model} at "
            f"{recorded.revision} from the Hub."
        )
    if local and not (model and revision):
        raise HubError(
            f"This run was trained on a local base ({recorded.model}), so nobody else could load its adapter. Name the "
            "same model on the Hub with --base-model ORG/NAME --base-revision COMMIT, or upload the base too with "
            "--with-base."
        )
    model, revision = model or recorded.model, revision or recorded.revision
    _check_repo_id(model)
    if not is_commit(revision):
        raise HubError(f"The base revision {revision!r} is no commit; branches move. Give the 40 hexadecimal digits.")
    return _Base(model, str(revision), folder)


def _check_repo_id(repo_id: str) -> None:
    if problem := repo_id_problem(repo_id):
        raise HubError(f"{plain(problem)}.")


def _private_text(run_dir: Path, base: _Base, token: str | None) -> list[str]:
    """What must not leave: the token, and the folders of this machine."""
    folders = [run_dir.resolve(), Path.cwd(), *([base.folder.resolve()] if base.folder else [])]
    return [str(folder) for folder in folders if len(folder.parts) > 2] + ([token] if token else [])


def _files(folder: Path) -> tuple[File, ...]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        File(path.relative_to(folder).as_posix(), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in paths
    )


def _failures(report: GateReport) -> str:
    return "; ".join(f"{check.name}: {plain(check.detail)}" for check in report.failures)


def _command(
    run_dir: Path,
    repo_id: str,
    private: bool,
    model: str | None,
    revision: str | None,
    with_base: bool,
    license: str | None,
    base_path: Path | None,
) -> str:
    """The command line of this push."""
    words = ["llama-tasks", "push", str(run_dir), repo_id]
    words += [] if private else ["--public"]
    words += ["--base-model", model] if model else []
    words += ["--base-revision", revision] if revision else []
    words += ["--with-base"] if with_base else []
    words += ["--base-path", str(base_path)] if base_path else []
    words += ["--license", license] if license else []
    return shlex.join(words)
