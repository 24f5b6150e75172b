"""The certificate: it holds on real checkpoints, and it fails where the native model is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_tasks import cli
from llama_tasks.model import load_native, modeling_native_llama
from llama_tasks.verify import certificate as verify

NAMES = [
    "logits against transformers",
    "loss against transformers",
    "gradients against transformers",
    "texts generated otherwise (greedy)",
    "texts decoded otherwise (by slots)",
    *verify._LAYOUTS,
    "training loss, packed",
    "training gradients, packed",
    "training loss, shared prefixes",
    "training gradients, shared prefixes",
]


def test_it_holds_on_the_embedded_base_in_every_precision() -> None:
    certificate = verify.verify("embedded")
    assert certificate.ok
    assert {line.precision for line in certificate.lines} == set(verify.PRECISIONS)
    assert [line.name for line in certificate.lines if line.precision == "float32"] == NAMES
    assert certificate.as_dict()["lines"][0]["ok"] is True


@pytest.mark.parametrize("model", ["stories260K", "babyllama-tok105-1M"])
def test_it_holds_on_real_checkpoints(shared: Callable[[str], Path], model: str) -> None:
    assert verify.verify(str(shared(f"models/{model}/hf"))).ok


def test_penalties_of_a_checkpoint_are_no_difference(shared: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(shared("models/stories260K/hf"), tmp_path / "model")
    path = folder / "generation_config.json"
    fields = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**fields, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "num_beams": 2}))
    assert verify.verify(str(folder), precisions=["float32"]).ok


def test_a_wrong_model_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One norm weight in 960 that is off by a thousandth."""

    def load(*args: Any, **kwargs: Any) -> Any:
        model = load_native(*args, **kwargs)
        with torch.no_grad():
            model.model.layers[3].input_layernorm.weight[7] *= 1.001
        return model

    monkeypatch.setattr(verify, "load_native", load)
    output = tmp_path / "certificate.json"
    assert cli.main(["verify", "embedded", "--output", str(output)]) == 1
    assert "differs" in capsys.readouterr().out
    written = json.loads(output.read_text())
    assert not written["ok"]
    wrong = {line["name"] for line in written["lines"] if not line["ok"]}
    assert {"logits against transformers", "gradients against transformers"} <= wrong
    assert not wrong & set(verify._LAYOUTS)  # it is at one with itself


def embedded_lines() -> dict[str, bool]:
    return {line.name: line.ok for line in verify.verify("embedded", precisions=["float32"]).lines}


def test_nan_at_the_end_of_a_packed_row_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = modeling_native_llama.packed_attention

    def broken(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = real(*args, **kwargs).clone()
        out[:, -5:] = float("nan")
        return out

    monkeypatch.setattr(modeling_native_llama, "packed_attention", broken)
    output = tmp_path / "certificate.json"
    assert cli.main(["verify", "embedded", "--output", str(output)]) == 1
    assert "nan" in capsys.readouterr().out
    packed = next(line for line in json.loads(output.read_text())["lines"] if line["name"] == "packed by boundaries")
    assert packed["difference"] is None and not packed["ok"]


def test_a_wrong_training_loss_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = modeling_native_llama.sum_of_losses
    monkeypatch.setattr(modeling_native_llama, "sum_of_losses", lambda *args: 1.01 * real(*args))
    found = embedded_lines()
    assert not found["training loss, packed"]
    assert not found["training gradients, shared prefixes"]
    assert found["logits against transformers"]


def test_a_number_that_is_none_is_no_success() -> None:
    assert not verify.Line("loss", "float32", float("nan"), 1e-5).ok


def test_options_of_the_other_kind_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "embedded", "--examples", "4"]) == 2
    assert "--examples is for a recipe" in capsys.readouterr().err
    assert cli.main(["verify", str(root / "recipes/qa.yaml"), "--revision", "main"]) == 2
    assert "base.revision=main" in capsys.readouterr().err


def test_what_is_no_llama_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "sliding-window attention" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "holds no model.safetensors" in capsys.readouterr().err
