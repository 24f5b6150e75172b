"""Publishing, against a stand-in Hub over real HTTP; the client runs in processes of its own, as a user's does.

huggingface_hub reads its address and its cache once, at import; so one process makes every push of this file, and
another one, which cannot import llama_tasks, loads what arrived.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from run_factory import DOCUMENT, HUB_BASE, make_base, make_run

from llama_tasks.adapters.config_file import normalise_adapter_config
from llama_tasks.hub.gate import native_logits

CANARY = "hf_" + "CanaryTokenOfThisTest" * 2

# The user's process: every line of stdin is a call, every line of --out its outcome.
CLIENT = """
import io, json, sys
from pathlib import Path
from rich.console import Console
from llama_tasks import hub
from llama_tasks.hub import client as hub_client
from llama_tasks.errors import LlamaTasksError

hub_client.WAITS = (0.05, 0.05, 0.05)
outcomes = {}
for name, call, given in json.load(open(sys.argv[1])):
    screen = io.StringIO()
    try:
        if call == "push":
            run, repo_id = given.pop("run"), given.pop("repo_id")
            given = {key: Path(value) if key == "base_path" else value for key, value in given.items()}
            result = hub.push(run, repo_id, console=Console(file=screen, width=300), **given)
            outcome = {"commit": result.commit, "refused": result.refused, "card": result.card, "url": result.url,
                       "files": {file.name: file.sha256 for file in result.files}, "snippet": result.snippet,
                       "revision": result.base_revision, "gate": [[c.name, c.ok, c.detail] for c in result.gate.checks]}
        else:
            client = hub_client.Client(given.get("token"), given.get("timeout", 20.0), "llama-tasks push AGAIN")
            sent = client.publish(given["repo_id"], Path(given["folder"]), given.get("private", True), "Adapter")
            outcome = {"commit": sent.commit}
    except LlamaTasksError as error:
        outcome = {"error": str(error)}
    outcomes[name] = outcome | {"screen": screen.getvalue()}
    print("done", name, flush=True)
    sys.stdin.readline()
json.dump(outcomes, open(sys.argv[2], "w"))
"""

# The reader's process: runs the code of the model card, then gives logits on the contract's sample.
READER = """
import json, sys
sys.modules["llama_tasks"] = None  # an import of it fails
code = open(sys.argv[1]).read()
scope = {}
exec(compile(code, "README.md", "exec"), scope)
torch = scope["torch"]
ids = torch.tensor([json.loads(sys.argv[2])])
with torch.inference_mode():
    logits = scope["model"](input_ids=ids).logits
torch.save(logits, sys.argv[3])
print("IDS", json.dumps(scope["ids"][0].tolist()))
"""


@dataclass
class Scene:
    """What is left after the user's process has ended."""

    hub: HubServer
    base: Path
    run: Path
    home: Path
    outcomes: dict[str, dict[str, Any]]
    requests: dict[str, list[str]]  # kinds of request that each call made
    output: str

    def error(self, name: str) -> str:
        return self.outcomes[name]["error"]


class Steps:
    """Calls of the user's process, each with what happens to the server just before it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.before: dict[str, list[tuple[str, int | str]]] = {}

    def push(self, name: str, run: Path, repo_id: str, **given: Any) -> None:
        self.calls.append((name, "push", {"run": str(run), "repo_id": repo_id, **given}))

    def publish(self, name: str, folder: Path, repo_id: str, *faults: tuple[str, int | str], **given: Any) -> None:
        self.calls.append((name, "publish", {"folder": str(folder), "repo_id": repo_id, **given}))
        self.before[name] = list(faults)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("hub")
    base = make_base(folder / "base")
    with HubServer(CANARY) as hub:
        commit = hub.add_repo(HUB_BASE, base)
        hub.add_repo("tester/open", private=False)
        hub.add_repo("tester/whole-model", base, private=True)
        hub.add_repo("tester/closed", private=True)
        run = make_run(folder / "runs" / "good", base, revision=commit)
        steps = _steps(folder, base, run)
        output, requests = _play(steps, hub, folder)
        outcomes = json.loads((folder / "outcomes.json").read_text())
        yield Scene(hub, base, run, folder / "home", outcomes, requests, output)


def _steps(folder: Path, base: Path, run: Path) -> Steps:
    local = make_run(folder / "runs" / "local", base)
    bad = make_run(folder / "runs" / "bad", base, revision="a" * 40)
    (bad / "adapter" / "training_args.bin").write_bytes(b"\x80")
    changed = make_run(folder / "runs" / "changed", base)
    (changed / "trained.json").write_text(json.dumps({"adapter_model.safetensors": "0" * 64}))
    moved = make_run(folder / "runs" / "moved", base)
    (moved / "environment.json").write_text(json.dumps({"base": {"model.safetensors": "0" * 64}}))
    ready = folder / "ready"  # a folder for the client alone, past the gate
    make_run(folder / "runs" / "ready", base)
    (folder / "runs" / "ready" / "adapter").rename(ready)
    normalise_adapter_config(ready, HUB_BASE, "a" * 40)
    (ready / "README.md").write_text("---\nlibrary_name: peft\n---\nhello\n")
    wrong_card = folder / "wrong-card"
    wrong_card.mkdir()
    (wrong_card / "README.md").write_text("---\nlicense: no-such-license\n---\n")

    steps = Steps()
    steps.push("dry refused", bad, "tester/bad", dry_run=True)
    steps.push("refused", bad, "tester/bad")
    steps.push("dry uncached", run, "tester/good", dry_run=True)
    steps.push("local base", local, "tester/local")
    steps.push("branch as base", local, "tester/local", base_model="tester/x", base_revision="main")
    steps.push("bad name", run, "no-owner")
    steps.push("good", run, "tester/good")
    steps.push("with base", local, "tester/local", with_base=True, license="mit")
    storm = [("create", 503), ("validate", 502), ("preupload", "drop"), ("batch", 503), ("put", "drop"),
             ("verify", 500), ("commit", "lost"), ("tree", 503)]  # fmt: skip
    steps.publish("storm", ready, "tester/storm", *storm)
    steps.publish("again", ready, "tester/storm")
    steps.publish("commit 503", ready, "tester/later", ("commit", 503), ("info", "drop"), ("create", "lost"))
    steps.publish("overtaken", ready, "tester/overtaken", ("commit", 412))
    steps.publish("down", ready, "tester/down", *[("create", 503)] * 4)
    steps.publish("hang", ready, "tester/hang", *[("create", "hang")] * 4, timeout=0.3)
    steps.publish("one hang", ready, "tester/one-hang", ("commit", "hang"), timeout=2.0)
    steps.publish("rate", ready, "tester/rate", *[("create", 429)] * 4)
    steps.publish("token", ready, "tester/token", token="hf_" + "wrong" * 8)
    steps.publish("other account", ready, "somebody/else")
    steps.publish("card", wrong_card, "tester/card")
    steps.publish("public", ready, "tester/open")
    steps.publish("public wanted", ready, "tester/open", private=False)
    steps.publish("opened", ready, "tester/closed", private=False)
    steps.push("changed adapter", changed, "tester/changed", with_base=True, dry_run=True)
    steps.push("another folder", moved, "tester/moved", with_base=True, base_path=str(base))
    steps.push("another base", run, "tester/another", base_model="tester/x", base_revision="b" * 40)
    steps.publish("not an adapter", ready, "tester/whole-model", private=False)
    return steps


def _play(steps: Steps, hub: HubServer, folder: Path) -> tuple[str, dict[str, list[str]]]:
    """Run the user's process, spoiling the server before each call; returns its output and each call's requests."""
    (folder / "calls.json").write_text(json.dumps(steps.calls))
    command = [sys.executable, "-c", CLIENT, str(folder / "calls.json"), str(folder / "outcomes.json")]
    requests = {}
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            command,
            env=_environment(hub, folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for i, (name, _, _) in enumerate(steps.calls):
            hub.requests.clear()
            for kind, how in steps.before.get(name, []):
                hub.fail(kind, how)
            if i:
                process.stdin.write("\n")
                process.stdin.flush()
            for line in process.stdout:
                if line.startswith("done "):
                    break
            requests[name] = [request.kind for request in hub.requests]
            hub.faults.clear()
        rest, _ = process.communicate("\n")
        output.seek(0)
        text = rest + output.read()
    assert process.returncode == 0, text
    return text, requests


def _environment(hub: HubServer, folder: Path) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return {**kept, **hub.environment(folder / "home"), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def test_a_refused_run_sends_nothing(scene: Scene) -> None:
    assert scene.outcomes["dry refused"]["refused"]
    assert "training_args.bin can run code" in scene.error("refused")
    assert scene.requests["dry refused"] == scene.requests["refused"] == []


def test_a_dry_run_downloads_no_base(scene: Scene) -> None:
    assert scene.outcomes["dry uncached"]["refused"]
    assert "a dry run downloads nothing" in scene.outcomes["dry uncached"]["screen"]
    assert scene.requests["dry uncached"] == []


def test_a_dry_run_shows_card_files_and_checks(scene: Scene) -> None:
    screen = scene.outcomes["dry refused"]["screen"]
    for part in ("library_name: peft", "adapter_model.safetensors", "✓ weights", "✗ no pickle", "would be refused"):
        assert part in screen


def test_what_the_user_must_name_is_said(scene: Scene) -> None:
    assert "--base-model ORG/NAME --base-revision COMMIT" in scene.error("local base")
    assert "--with-base" in scene.error("local base")
    assert "'main' is no commit" in scene.error("branch as base")
    assert "write USER/no-owner" in scene.error("bad name")
    assert not any(scene.requests[name] for name in ("local base", "branch as base", "bad name"))


def test_a_push_is_private_and_one_commit_with_exactly_these_bytes(scene: Scene) -> None:
    repo = scene.hub.repos["tester/good"]
    assert repo.private
    assert [commit.message for commit in repo.commits] == ["initial commit", "Adapter by llama-tasks"]
    assert scene.outcomes["good"]["commit"] == repo.commits[-1].oid
    sent = repo.commits[-1].files
    assert sorted(sent) == sorted([".gitattributes", *scene.outcomes["good"]["files"]])
    for name in ("adapter_model.safetensors", "prompt_contract.json", "tokenizer.json", "tokenizer_config.json"):
        assert sent[name] == (scene.run / "adapter" / name).read_bytes()
    assert sent["README.md"].decode() == scene.outcomes["good"]["card"]
    config = json.loads(sent["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == (
        HUB_BASE,
        scene.hub.repos[HUB_BASE].commits[-1].oid,
    )
    assert all(ok for _, ok, _ in scene.outcomes["good"]["gate"])
    assert scene.outcomes["good"]["snippet"] in scene.outcomes["good"]["screen"]
    assert not (scene.run / "adapter" / "README.md").exists()


def test_a_reader_with_plain_transformers_and_peft_gets_the_same_logits(scene: Scene, tmp_path: Path) -> None:
    import torch

    card = scene.outcomes["with base"]["card"]
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    sample = json.loads((scene.run / "adapter" / "prompt_contract.json").read_text(encoding="utf-8"))["sample"]
    (tmp_path / "card.py").write_text(code[1].replace("<document>", DOCUMENT), encoding="utf-8")
    arguments = [str(tmp_path / "card.py"), json.dumps(sample["input_ids"]), str(tmp_path / "logits.pt")]
    environment = {**_environment(scene.hub, tmp_path), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-c", READER, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = native_logits(scene.base, scene.run.parent / "local" / "adapter", sample["input_ids"])
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, atol=1e-4, rtol=0)
    ids = json.loads(done.stdout.split("IDS ")[1])
    assert ids == sample["input_ids"][: sample["prompt_length"]]


def test_a_local_base_travels_along_and_is_pinned(scene: Scene) -> None:
    base, adapter = scene.hub.repos["tester/local-base"], scene.hub.repos["tester/local"]
    assert (len(base.commits), len(adapter.commits)) == (2, 2)
    assert base.private
    assert json.loads(base.commits[-1].files["config.json"])["model_type"] == "llama"
    config = json.loads(adapter.commits[-1].files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("tester/local-base", base.commits[-1].oid)
    assert scene.outcomes["with base"]["revision"] == base.commits[-1].oid
    assert base.commits[-1].oid in adapter.commits[-1].files["README.md"].decode()


def test_a_storm_at_every_step_is_survived_with_one_commit(scene: Scene) -> None:
    assert "error" not in scene.outcomes["storm"]
    assert len(scene.hub.repos["tester/storm"].commits) == 2
    assert scene.requests["storm"].count("commit") == 1  # made, its answer lost, recognised afterwards
    assert scene.outcomes["again"]["commit"] == scene.outcomes["storm"]["commit"]
    assert "commit" not in scene.requests["again"]
    for name, repo in (
        ("commit 503", "tester/later"),
        ("overtaken", "tester/overtaken"),
        ("one hang", "tester/one-hang"),
    ):
        assert "error" not in scene.outcomes[name]
        assert len(scene.hub.repos[repo].commits) == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("down", "trouble of its own (503)"),
        ("hang", "no answer within 0.3 seconds"),
        ("rate", "slow down (429)"),
        ("token", "does not accept the token (401)"),
        ("other account", "may not write to somebody/else (403)"),
        ("card", '"license" must be one of'),
    ],
)
def test_each_failure_has_its_sentence_and_the_command_to_try_again(scene: Scene, name: str, says: str) -> None:
    assert says in scene.error(name)
    assert scene.error(name).endswith("Try again: llama-tasks push AGAIN")


def test_nothing_is_published_openly_or_over_something_else_by_accident(scene: Scene) -> None:
    assert "exists and is public" in scene.error("public")
    assert "error" not in scene.outcomes["public wanted"]
    assert len(scene.hub.repos["tester/open"].commits) == 2
    assert "already holds something else (config.json)" in scene.error("not an adapter")
    assert len(scene.hub.repos["tester/whole-model"].commits) == 1
    assert scene.hub.repos["tester/whole-model"].private


def test_public_opens_a_repository_that_was_private(scene: Scene) -> None:
    assert "error" not in scene.outcomes["opened"]
    assert not scene.hub.repos["tester/closed"].private


def test_what_is_not_what_was_scored_stays_here(scene: Scene) -> None:
    for name in ("changed adapter", "another folder"):
        assert "its SHA-256 is not the one it had before" in scene.error(name)
    assert f"this run was trained on {HUB_BASE}" in scene.error("another base")
    assert not any(scene.requests[name] for name in ("changed adapter", "another folder", "another base"))


def test_the_token_is_nowhere(scene: Scene) -> None:
    assert CANARY not in scene.output + json.dumps(scene.outcomes)
    for repo in scene.hub.repos.values():
        assert not any(CANARY.encode() in data for commit in repo.commits for data in commit.files.values())
    assert not any(CANARY.encode() in path.read_bytes() for path in scene.run.rglob("*") if path.is_file())


def test_without_a_token_the_way_to_one_is_shown(tmp_path: Path) -> None:
    code = "from llama_tasks.hub.client import Client; Client(None, 1.0, 'llama-tasks push AGAIN')"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    root = str(Path(__file__).resolve().parents[2])
    environment = {**kept, "HF_HOME": str(tmp_path), "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "hf auth login" in done.stderr
    assert "llama-tasks push AGAIN" in done.stderr
