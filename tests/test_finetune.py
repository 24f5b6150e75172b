"""The path as a whole: what it holds at which station."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
from faulty_runs import make_workplace

from llama_tasks import adapters, cli


@pytest.mark.parametrize(
    "argv", [["finetune"], ["crossval", "--folds", "2", "adapter=null", "train.learning_rate=0.001"]]
)
def test_the_trained_model_has_left_the_memory_when_its_copy_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    """Else a run that just fits runs out of memory after its last step; of folds, none is left beside a later one."""
    trained: list[weakref.ref[Any]] = []
    held: list[list[bool]] = []
    attach, load = adapters.attach, adapters.load_trained

    def attached(base: Any, *rest: Any) -> Any:
        model = attach(base, *rest)
        trained.extend(map(weakref.ref, (base, model)))
        return model

    def loaded(*arguments: Any) -> Any:
        held.append([ref() is not None for ref in trained])
        return load(*arguments)

    monkeypatch.setattr(adapters, "attach", attached)
    monkeypatch.setattr(adapters, "load_trained", loaded)
    mine = str(make_workplace(tmp_path / "place", max_steps=1, eval_times=1) / "mine.yaml")
    assert cli.main([argv[0], mine, f"output={tmp_path / 'run'}", "train.preflight=false", *argv[1:]]) == 0
    assert held and not any(map(any, held)), held
