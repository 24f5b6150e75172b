"""A run on a base from the Hub: pinned at its commit, resumable, and ready to be pushed; the Hub is the local stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml
from faulty_runs import Run, Zygote
from hub_server import HubServer
from tiny import ROOT, make_base, make_rows, recipe_text

ROWS = [{"document": f"Anna has {n} apples and lives here.", "summary": f"Anna has {n} apples."} for n in range(120)]


def told(run: Run, code: int = 0) -> str:
    """What a run printed that ended with the code."""
    assert run.wait() == code, run.error[-3000:]
    assert "Traceback" not in run.error
    return run.output + run.error


def test_a_run_on_a_hub_base(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "rows.jsonl", ROWS)
    recipe = recipe_text("summarize", Path("tester/tiny"), rows)
    (tmp_path / "mine.yaml").write_text(recipe, encoding="utf-8")
    (tmp_path / "jobs").mkdir()
    with HubServer() as hub:
        commit = hub.add_repo("tester/tiny", make_base(tmp_path / "base"))
        elsewhere = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment = {**elsewhere, **hub.environment(tmp_path / "home")}
        # The Hub's address is read when its library is imported: a zygote of this test's own.
        zygote = Zygote(tmp_path / "jobs", environment)
        told(zygote.run("finetune", "mine.yaml", "train.max_steps=3", cwd=tmp_path))
        resolved = yaml.safe_load((tmp_path / "runs/mine/recipe.yaml").read_text())
        assert resolved["base"]["revision"] == commit
        missing = zygote.run("finetune", "mine.yaml", "base.model=tester/none", "output=runs/x", cwd=tmp_path)
        assert "tester/none" in told(missing, code=2)
        shown = told(zygote.run("push", "runs/mine", "tester/adapter", "--dry-run", cwd=tmp_path))
        assert "tester/tiny" in shown
        zygote.close()
    # The server is gone: the cached commit serves a resume.
    offline = {**environment, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    again = [sys.executable, "-m", "llama_tasks", "finetune", "mine.yaml", "train.max_steps=3", "--resume"]
    done = subprocess.run(again, cwd=tmp_path, env=offline, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
