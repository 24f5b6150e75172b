"""A run on a base from the Hub: pinned at its commit, resumable, and ready to be pushed; the Hub is the local stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml
from hub_server import HubServer
from tiny import ROOT, make_base, make_rows, recipe_text

ROWS = [{"document": f"Anna has {n} apples and lives here.", "summary": f"Anna has {n} apples."} for n in range(120)]


def command(folder: Path, environment: dict[str, str], *argv: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llama_tasks", *argv],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_a_run_on_a_hub_base(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "rows.jsonl", ROWS)
    recipe = recipe_text("summarize", Path("tester/tiny"), rows)
    (tmp_path / "mine.yaml").write_text(recipe, encoding="utf-8")
    with HubServer() as hub:
        commit = hub.add_repo("tester/tiny", make_base(tmp_path / "base"))
        offline = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment = {**offline, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command(tmp_path, environment, "finetune", "mine.yaml", "train.max_steps=3")
        resolved = yaml.safe_load((tmp_path / "runs/mine/recipe.yaml").read_text())
        assert resolved["base"]["revision"] == commit
        missing = command(
            tmp_path, environment, "finetune", "mine.yaml", "base.model=tester/none", "output=runs/x", code=2
        )
        assert "tester/none" in missing
        shown = command(tmp_path, environment, "push", "runs/mine", "tester/adapter", "--dry-run")
        assert "tester/tiny" in shown
    # The server is gone: the cached commit serves a resume.
    command(tmp_path, {**environment, "HF_HUB_OFFLINE": "1"}, "finetune", "mine.yaml", "train.max_steps=3", "--resume")
