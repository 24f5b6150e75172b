"""The command as a user meets it: every mistake is one paragraph with exit code 2 and no traceback; runs end to end."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from faulty_runs import Zygote, result
from tiny import make_base, make_rows, recipe_text

from llama_tasks.cli import main
from llama_tasks.cli.common import COMPILES_EARLY, compile_when_called
from llama_tasks.model.on_import import around_import
from llama_tasks.rundir import read_jsonl

ROWS = [
    {"document": f"Anna has {n} apples and {n + 1} pears. She lives in Oakfield." if n % 2 else f"安娜有{n}个苹果，她住在这里。",
     "summary": f"Anna has {n} apples." if n % 2 else f"安娜有{n}个苹果。", "lang": "en" if n % 2 else "zh"}
    for n in range(150)
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def workplace(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows.jsonl and mine.yaml, which is the current one."""
    monkeypatch.chdir(tmp_path)
    rows = make_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "mine.yaml").write_text(recipe_text("summarize", base, rows), encoding="utf-8")
    return tmp_path


def fails(capsys: pytest.CaptureFixture, *argv: str, code: int = 2) -> str:
    """Run the command, which must end with the code and one paragraph on stderr (bad rows on a line each); returns it."""
    assert main(argv) == code
    error = capsys.readouterr().err
    assert error.startswith("llama-tasks: ")
    assert error.count("\n") == 1 or error.count("\n  ") >= error.count("\n") - 2
    assert "Traceback" not in error
    return error


def test_help_and_version_answer_without_torch() -> None:
    check = (
        "import sys\nfrom llama_tasks.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'transformers', 'rich', 'numpy', 'yaml'} & set(sys.modules), sorted(sys.modules)"
    )
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", check, option], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "llama-tasks" in done.stdout


def test_what_a_library_compiles_is_compiled_when_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compiles_early.py").write_text(
        "import torch\n@torch.compile(dynamic=False)\ndef twice(x):\n    return 2 * x\nhalf = torch.compile(lambda x: x / 2)\n"
    )
    compiled: list[dict] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(options) or function)
    compile_now = torch.compile
    monkeypatch.syspath_prepend(tmp_path)
    around_import("compiles_early", compile_when_called)
    library = importlib.import_module("compiles_early")

    assert torch.compile is compile_now
    assert compiled == []
    assert (library.twice(3), library.twice(4), library.half(3)) == (6, 8, 1.5)
    assert compiled == [{"dynamic": False}, {}]
    assert library.twice.__name__ == "twice"
    assert importlib.util.find_spec(COMPILES_EARLY) is not None


def test_an_unknown_recipe_is_said_at_once(tmp_path: Path) -> None:
    """Before torch or transformers are imported, which takes seconds."""
    check = (
        "import sys\nfrom llama_tasks.cli import main\ncode = main(['finetune', 'nosuch.yaml'])\n"
        "assert not {'torch', 'transformers', 'peft', 'datasets', 'rich'} & set(sys.modules), sorted(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "There is no recipe 'nosuch.yaml'" in done.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["finetune", "mina.yaml"], "There is no recipe 'mina.yaml'. Did you mean 'mine'?"),
        (["finetune", "mine.yaml", "train.learning_rte=1"], "Did you mean 'learning_rate'?"),
        (["finetune", "mine.yaml", "base.model=nosuchfolder"], "nosuchfolder"),
        (["finetune", "mine.yaml", "base.model=nobody/nothing"], "nobody/nothing"),
        (["finetune", "mine.yaml", "data.train=nosuch.jsonl"], "There is no file or folder 'nosuch.jsonl'"),
        (["finetune", "mine.yaml", "--resume"], "There is nothing to resume in runs/mine"),
        (
            ["finetune", "mine.yaml", "prompt.max_length=20"],
            "examples are longer than prompt.max_length allows (20 tokens)",
        ),
        (["finetune", "mine.yaml", "prompt.max_length=2000"], "was made for 256 tokens"),
        (["finetune", "mine.yaml", "adapter.lora_alfa=3"], "Did you mean 'lora_alpha'?"),
        (["finetune", "mine.yaml", "eval.metrics=[rougeX]"], "rougeL"),
        (["finetune", "mine.yaml", "eval.metrics=[accuracy]"], "compares labels"),
        (
            ["finetune", "mine.yaml", "eval.scoring=likelihood"],
            "ranks choices, which the task 'summarize' does not have",
        ),
        (
            ["finetune", "mine.yaml", "train.report_to=[tensorbord]"],
            "no tracker 'tensorbord'. Did you mean 'tensorboard'",
        ),
        (["finetune", "mine.yaml", "train.metric_for_best_model=rouge_l"], "rougeL"),
        (
            ["finetune", "mine.yaml", "adapter=null", "train.learning_rate=1e-3", "base.quantization=nf4"],
            "quantised base cannot be trained whole",
        ),
        (["finetune", "mine.yaml", "task=translate"], "needs the column 'source'"),
        (
            [
                "finetune",
                "mine.yaml",
                "task=classify",
                "data.columns={text: document, label: summary}",
                "data.labels=[a, b]",
            ],
            "is not in the label set",
        ),
        (["evaluate", "runs/nosuch"], "is no run directory"),
        (["predict", "runs/nosuch", "--input", "rows.jsonl", "--output", "o.jsonl"], "is no run directory"),
        (["report", "runs/nosuch"], "is no run directory"),
    ],
)
def test_mistakes(workplace: Path, capsys: pytest.CaptureFixture, argv: list[str], message: str) -> None:
    assert message in fails(capsys, *argv)
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"document": "a", "summary": "b"}\n{"document": \n', "bad.jsonl:2: broken JSON"),
        (b"", "bad.jsonl has no rows"),
        ('{"document": "你好", "summary": "好"}\n'.encode("gb18030"), "bad.jsonl:1: not UTF-8"),
        (
            "".join(f'{{"body": "a{i}", "summary": "b"}}\n' for i in range(60)).encode(),
            "needs the column 'document'; found: body, summary",
        ),
        (
            "".join(f'{{"document": "a{i}", "summary": null}}\n' for i in range(60)).encode(),
            "the field 'summary' is null",
        ),
    ],
)
def test_bad_files(workplace: Path, capsys: pytest.CaptureFixture, content: bytes, message: str) -> None:
    (workplace / "bad.jsonl").write_bytes(content)
    assert message in fails(capsys, "finetune", "mine.yaml", "data.train=bad.jsonl")
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("task", "suite", "message"),
    [
        ("summarize\neval: {metrics: [rougeL]}", "eval.temperature=0.5", "eval.temperature would have no effect"),
        ("summarize\neval: {metrics: [rougeL]}", "eval.scoring=likelihood", "the task 'summarize' does not have"),
        ("text", "eval.scoring=perplexity", "there is nothing to predict"),
    ],
)
def test_predict_looks_at_its_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture, task: str, suite: str, message: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(f"task: {task}\n")
    output = tmp_path / "out/answers.jsonl"
    assert message in fails(capsys, "predict", str(tmp_path), "--input", "no.jsonl", "--output", str(output), suite)
    assert not output.parent.exists()


def test_a_leak_stops_the_run(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    make_rows(workplace / "test.jsonl", ROWS[:3])
    message = fails(capsys, "finetune", "mine.yaml", "data.test=test.jsonl")
    assert "rows of the test split are in the training split" in message
    assert "prompt.allow=[leak]" in message


def test_a_pickled_base_is_refused(workplace: Path, base: Path, capsys: pytest.CaptureFixture) -> None:
    import shutil

    import torch

    shutil.copytree(base, workplace / "pickled")
    (workplace / "pickled/model.safetensors").unlink()
    torch.save({}, workplace / "pickled/pytorch_model.bin")
    assert "safetensors" in fails(capsys, "finetune", "mine.yaml", "base.model=pickled")


def test_a_whole_run_and_what_follows(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    """finetune, refuse to overwrite, evaluate, report, predict, inspect."""
    assert main(["finetune", "mine.yaml", "train.report_to=[tensorboard]"]) == 0
    assert list((workplace / "runs/mine/trackers").glob("**/events.out.tfevents.*"))
    shown = capsys.readouterr().out
    assert "ROUGE-L" in shown
    assert "⟦what carries loss⟧" in shown and "</s>⟧" in shown.split("step 1/")[0]  # the first batch, before step 1
    assert re.search(r"tokens/s +[\d.]+ [MG]i?B", " ".join(shown.split()))
    run = workplace / "runs/mine"
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files >= {
        "recipe.yaml", "environment.json", "log.jsonl", "report.json", "report.md", "report.html",
        "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/tokenizer.json",
        "adapter/prompt_contract.json",
        "eval/base/predictions.jsonl", "eval/base/scores.json", "eval/adapter/predictions.jsonl", "eval/adapter/scores.json",
    }  # fmt: skip
    report = json.loads((run / "report.json").read_text())
    assert {(score["metric"], score["lang"]) for score in report["scores"]} == {("rougeL", "en"), ("rougeL", "zh")}
    assert report["provenance"]["data"]["train"]["rows"] > 30
    assert "exists. Continue it with --resume" in fails(capsys, "finetune", "mine.yaml")

    before = (run / "eval/adapter/predictions.jsonl").read_bytes()
    assert main(["evaluate", str(run)]) == 0
    assert (run / "eval/adapter/predictions.jsonl").read_bytes() == before
    assert main(["report", str(run)]) == 0
    check = (
        "import sys\nfrom llama_tasks.cli import main\nmain(sys.argv[1:])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check, "report", str(run)], check=True, stdout=subprocess.DEVNULL)

    make_rows(
        workplace / "new.jsonl", [{"document": "Anna has 3 apples and 4 pears. She lives in Oakfield.", "lang": "en"}]
    )
    capsys.readouterr()
    assert main(["predict", str(run), "--input", "new.jsonl", "--output", "out.jsonl"]) == 0
    row = next(read_jsonl(workplace / "out.jsonl"))
    assert row["id"] == "predict:0"
    assert "out.jsonl exists" in fails(capsys, "predict", str(run), "--input", "new.jsonl", "--output", "out.jsonl")

    assert main(["inspect", "mine.yaml"]) == 0
    assert "carry loss" in capsys.readouterr().out

    contract = json.loads((run / "adapter/prompt_contract.json").read_text())
    contract["template"]["default"] = "Changed: {document}\n"
    (run / "adapter/prompt_contract.json").write_text(json.dumps(contract))
    assert "the template was changed after training" in fails(capsys, "evaluate", str(run))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_resumes(workplace: Path, zygote: Zygote, number: signal.Signals) -> None:
    """Stop after a few steps, resume, and get the adapter of an undisturbed run byte for byte."""
    arguments = ["finetune", "mine.yaml", "train.num_train_epochs=6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_tasks", *arguments, "output=runs/broken"],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    log = workplace / "runs/broken/log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 3):
        time.sleep(0.02)
    process.send_signal(number)
    error = process.communicate()[1]
    assert process.returncode == 128 + number, error
    assert "saved. Go on with --resume" in error
    assert "Traceback" not in error
    assert not (workplace / "runs/broken/adapter").exists()
    if number == signal.SIGTERM:
        return  # what was saved is the same; resuming it is shown once
    for output in (["output=runs/broken", "--resume"], ["output=runs/whole"]):
        run = zygote.run(*arguments, *output, cwd=workplace)
        assert run.wait() == 0, run.error
    assert result(workplace / "runs/broken") == result(workplace / "runs/whole")
    steps = [entry["step"] for entry in read_jsonl(log) if entry["event"] == "step"]
    assert steps == sorted(set(steps))


def test_resume_refuses_another_recipe(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["finetune", "mine.yaml", "train.max_steps=5"]) == 0
    capsys.readouterr()
    message = fails(capsys, "finetune", "mine.yaml", "--resume", "train.max_steps=5", "train.learning_rate=1e-4")
    assert "was made with another recipe: train.learning_rate was " in message
    assert " and is now 0.0001" in message
