"""The README's commands, as they stand there, run for real; only ids from the Hub and output folders are put in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_base, make_rows

from llama_tasks.rundir import read_jsonl

TASKS = ("summarize", "translate", "qa", "classify")
# Enough to reach the goal; the other commands run as they stand.
LESS = {
    "translate": "train.num_train_epochs=1 train.eval_times=1 data.max_validation_samples=20 data.max_test_samples=150",
    "qa": "train.num_train_epochs=2 train.eval_times=1 data.max_validation_samples=20 data.max_test_samples=150",
}
GOALS = {"summarize": ("rougeL", 40), "translate": ("bleu", 25), "qa": ("f1", 50), "classify": ("accuracy", 80)}


@pytest.fixture(scope="module", autouse=True)
def _made_by_make() -> None:
    if not (Path(sys.prefix) / "ready").exists():
        pytest.skip("runs in the environment that `make test` makes, because the commands are make's")


def commands(root: Path, name: str) -> list[str]:
    """Every `make` command of a README: lines of bash blocks, and code in the first column of tables."""
    text = (root / name).read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S))
    return re.findall(r"^make .*$", blocks, re.M) + re.findall(r"^\| `(make [^`]*)`", text, re.M)


def run(root: Path, command: str, code: int = 0, **changes: str) -> str:
    """Run a make command of the README with some variables changed; returns what it printed."""
    arguments = dict(part.split("=", 1) for part in command.split()[2:])
    arguments.update(changes, VENV=sys.prefix)
    argv = ["make", "--no-print-directory", command.split()[1], *(f"{key}={value}" for key, value in arguments.items())]
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VENV", "ARGS")
    }
    done = subprocess.run(
        argv, cwd=root, env={**environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the finished run of the README's first command."""
    folder = tmp_path_factory.mktemp("runs")
    first = commands(root, "README.md")[0]
    assert first == "make finetune TASK=summarize"
    output = run(root, first, OUT=str(folder / "summarize"))
    assert "ROUGE-L" in output
    assert "next, on your own model and data" in output
    return folder


def test_both_readmes_name_the_same_commands(root: Path) -> None:
    assert commands(root, "README.md") == commands(root, "README.zh-CN.md")


@pytest.mark.parametrize("task", TASKS)
def test_the_main_job_learns(root: Path, runs: Path, task: str) -> None:
    """`make finetune TASK=...` reaches its goal on the test split, and beats the base in each language."""
    if task != "summarize":
        run(root, f"make finetune TASK={task}", OUT=str(runs / task), ARGS=LESS.get(task, ""))
    report = json.loads((runs / task / "report.json").read_text(encoding="utf-8"))
    metric, goal = GOALS[task]
    scores = [score for score in report["scores"] if score["metric"] == metric and score["lang"] != "all"]
    assert {score["lang"] for score in scores} == {"en", "zh"}
    rows = sum(score["n"] for score in scores)
    assert sum(score["n"] * score["adapter"]["value"] for score in scores) / rows >= goal
    for score in scores:
        assert score["difference"] > 0
        assert score["p_value"] < 0.01


def test_your_model_your_data(root: Path, runs: Path, tmp_path: Path) -> None:
    mine, nf4 = commands(root, "README.md")[1:3]
    assert "MODEL=" in mine
    assert "QUANT=nf4" in nf4
    base = make_base(tmp_path / "base")
    rows = [
        {"document": f"Anna has {n} red apples. She lives in Oakfield.", "summary": f"Anna has {n} apples."}
        for n in range(90)
    ]
    data = make_rows(tmp_path / "my.jsonl", rows)
    short = "train.max_steps=3 eval.max_new_tokens=4 prompt.max_length=256"
    run(root, mine, MODEL=str(base), DATA=str(data), OUT=str(tmp_path / "mine"), ARGS=short)
    folder = tmp_path / "folder"
    folder.mkdir()
    for split, start in (("train", 0), ("validation", 40), ("test", 60)):
        rows = [
            {"context": f"Anna has {n} apples.", "question": "How many?", "answers": [str(n)]}
            for n in range(start, start + 20)
        ]
        make_rows(folder / f"{split}.jsonl", rows)
    run(root, nf4, MODEL=str(base), DATA=str(folder), OUT=str(tmp_path / "nf4"), ARGS=short)
    assert "nf4" in (tmp_path / "nf4/recipe.yaml").read_text()


def test_what_you_do_next(root: Path, runs: Path, tmp_path: Path) -> None:
    table = {command.split()[1]: command for command in commands(root, "README.md")[3:]}
    assert set(table) == {"inspect", "evaluate", "predict", "push", "export", "test"}
    assert "carry loss" in run(root, table["inspect"])
    summarize = str(runs / "summarize")
    run(root, table["evaluate"], RUN=summarize, ARGS="data.max_test_samples=60")
    rows = make_rows(
        tmp_path / "rows.jsonl", [{"document": "It was a warm day. Anna sang for ten children in the park."}]
    )
    run(root, table["predict"], RUN=summarize, INPUT=str(rows), OUTPUT=str(tmp_path / "out.jsonl"))
    assert next(read_jsonl(tmp_path / "out.jsonl"))["prediction"]
    card = run(root, table["push"], RUN=summarize)
    assert "library_name: peft" in card
    run(root, table["export"], RUN=summarize, OUT=str(tmp_path / "merged"))
    assert json.loads((tmp_path / "merged/config.json").read_text())["model_type"] == "llama"


def planned_setup(root: Path, target: str, *variables: str, **changes: str) -> str:
    """The commands that `make setup` or `make setup-dev` would run."""
    left = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if key not in left}
    argv = ["make", "-n", target, *variables]
    done = subprocess.run(argv, cwd=root, env={**environment, **changes}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_second_setup_does_nothing(root: Path) -> None:
    assert "install" not in planned_setup(root, "setup-dev", f"VENV={sys.prefix}")


def test_setup_compiles_where_imports_keep_nothing(root: Path, tmp_path: Path) -> None:
    """Without compiled modules each command of such an environment would take twice as long to start."""
    fresh = f"VENV={tmp_path / 'none'}"
    where_kept = planned_setup(root, "setup", fresh)
    kept_nowhere = planned_setup(root, "setup", fresh, PYTHONDONTWRITEBYTECODE="1")
    for way in ("compileall", "--compile-bytecode"):  # pip's environment, uv's
        assert way not in where_kept
        assert way in kept_nowhere
