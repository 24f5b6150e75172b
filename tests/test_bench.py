"""The benchmarks run, on a tiny shape, and compute on both sides the same; the tables of the docs are those of their results."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import ablation
import choices
import decode
import generate
import gpu
import imports
import loop
import results
import roofline
import same
import speed
import streaming
import tables
import train_native
import train_peer
from workloads import SHAPES, save_model

from llama_tasks.packing import collate
from llama_tasks.tokens import Tokens

TINY = SHAPES["tiny"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    save_model("tiny", folder)
    return str(folder)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 0.001)
    monkeypatch.setattr(roofline, "ROWS", 64)
    monkeypatch.setattr(gpu, "STEPS", 1)
    monkeypatch.setattr(gpu, "WARMUP", 1)
    monkeypatch.setattr(gpu, "NEW_TOKENS", 4)


@pytest.mark.parametrize("workload", ["22+22", "5q"])
def test_the_first_step_is_the_same_on_both_sides(model: str, workload: str) -> None:
    found = same.check(model, "tiny", workload, 256, 1500)
    assert found["loss"] <= 1e-6
    assert 0 < found["gradients"] <= 1e-5
    assert found["tokens"] > 100


def test_another_first_step_is_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same, "draw_alike", lambda native, peer: None)
    with pytest.raises(SystemExit, match="do not compute the same"):
        same.check(model, "tiny", "22+22", 256, 1500)


def test_the_loop_beside_a_bare_one(model: str) -> None:
    """Both train the same weights by the same batches; what is measured are shares."""
    found = loop.measure(model, "tiny", rounds=2, batch_tokens=256)
    assert 0.5 < found["loop_over_bare"] < 3  # a model this small is mostly overhead, and two steps say little
    assert 0 < found["checkpoint_share"] < 1
    assert min(found["seconds_per_step"].values()) > 0


def test_native_nf4_has_smaller_weights(model: str) -> None:
    runs = {dtype: train_native.run(model, "tiny", "22+22", dtype, 256, 1500) for dtype in ("nf4", "bf16")}
    peaks = {"nf4": {"peak_mib": 1.0}, "bf16": {"peak_mib": 4.0}}  # each of a process of its own, which a test has not
    nf4, bf16 = ({**runs[dtype], **peaks[dtype]} for dtype in runs)
    row = speed.compared(["bf16"], "native 256", {"native 256": [nf4], "bf16 256": [bf16]})
    assert (row["bf16"]["best"], row["bf16"]["memory_at_equal_batch"]) == ("bf16 256", 0.25)
    assert row["bf16"]["weights"] < 0.6
    assert row["bf16"]["speed"] > 0


def test_trainer_runs_the_workload(model: str) -> None:
    found = train_peer.run(model, "tiny", "22+22", "fp32", 256, 1500)
    assert found["tokens"] > 500
    assert found["tokens_per_cpu_second"] > 0


def test_ablation_row(model: str) -> None:
    row = ablation.measure("tiny", "5q", "fp32", 3000, 256, steps=1, rounds=1)
    names = {name for name in ablation.PLAIN if ablation.applies(name, "5q", "fp32")}
    assert set(row["gains"]) == names >= {"shared prefixes", "documents apart in attention", "logits at targets only"}
    assert all({"last", "alone"} == set(gain) for name, gain in row["gains"].items() if name not in ablation.NOT_ALONE)
    assert 0 < row["roofline"]["share_square"] < 1
    assert tables.ablation([{**row, "measured": "now", "with": {}}]).count("\n| ") == len(names) + 2


@pytest.mark.parametrize("name", [name for name in ablation.PLAIN if ablation.PLAIN[name]])
def test_what_is_switched_off_is_there(name: str) -> None:
    for owner, attribute, plain in ablation.PLAIN[name]:
        before = getattr(owner, attribute)
        with ablation.without(frozenset([name])):
            assert getattr(owner, attribute) is plain
        assert getattr(owner, attribute) is before


def test_operations_are_those_that_torch_counts(model: str) -> None:
    """Against torch's own counter, which counts no attention here, on the plain way with a whole last layer."""
    from torch.utils.flop_counter import FlopCounterMode

    adapted = train_native.load(model, "fp32").train()
    batch = collate([Tokens("a", list(range(3, 43)), 1)])
    off = frozenset(ablation.PLAIN) - {"logits at targets only"}
    with ablation.without(off), FlopCounterMode(display=False) as counter:
        adapted(**batch.inputs(), labels=batch.labels, num_items_in_batch=39, skip_logits=True).loss.backward()
    layers = sum(roofline.layer_flops(TINY, 40, 40, 0, 0, layer) for layer in range(TINY["num_hidden_layers"]))
    head = 2 * 2 * 39 * TINY["vocab_size"] * TINY["hidden_size"]
    assert counter.get_total_flops() == layers + head
    # The last token predicts nothing, so the last layer needs 39 of 40; tokens see 1 + ... + 40 others.
    attention = 3 * 4 * TINY["hidden_size"] * (40 * 41 // 2 + 39 * 40 // 2)
    assert (
        0 < layers + head + attention - roofline.batch_flops(TINY, batch) < layers / TINY["num_hidden_layers"] / 40 + 1
    )


@pytest.mark.parametrize(
    ("adapter", "cache"), [*(("none", cache) for cache in decode.CACHES), ("lora", "dynamic"), ("lora", "slots")]
)
def test_decoding_row(adapter: str, cache: str) -> None:
    row = decode.measure("tiny", "fp32", adapter, cache, 4, 1)
    assert row["adapter"] == adapter
    assert row["same_tokens"] == 1
    assert row["speed"] > 0
    assert len(row["tokens_per_second"]["native"]) == 1


def test_generation_row() -> None:
    row = generate.measure("tiny", "fp32", 12, 8, [1, 5], 200, 1)
    assert set(row["rows_per_second"]) == {"ours", "1", "5"}
    assert row["other_text_than_alone"]["ours"] == 0
    assert row["output_tokens"]["max"] <= 8
    assert row["speed"] > 0


@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_choices_row() -> None:
    pytest.importorskip("lm_eval")
    row = choices.measure("tiny", "fp32", 4, [2, 8], 900, 1)
    assert 0 < row["largest_difference"] <= 1e-4
    assert row["speed"] > 0


def test_gpu_parts_without_a_gpu(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of `make bench-gpu` but the card: a row for each part, with numbers or a reason; the same first losses."""
    rows: list[dict[str, Any]] = []
    parts = [part for part in gpu.plan(["tiny"]) if part.attention == "sdpa" and part.rows in ("packed", "dynamic")]
    parts.append(gpu.Part("lora", "tiny", "native", "no_such_attention", "packed", 20))
    gpu.measure(parts, torch.device("cpu"), time.monotonic() + 300, rows.append)
    assert len(rows) == len(parts)
    ran = {(row["what"], row["engine"], row["rows"]): row for row in rows if "skipped" not in row}
    assert {what for what, _, _ in ran} == {"lora", "qlora", "decode"}
    for what in ("lora", "qlora"):
        ours, theirs = ran[what, "native", "packed"], ran[what, "transformers", "packed"]
        assert ours["first_loss"] == pytest.approx(theirs["first_loss"], rel=2e-3)
        assert ours["tokens_per_second"] > 0
    assert "no_such_attention" in rows[-1]["skipped"]
    gpu.measure(parts[:1], torch.device("cpu"), time.monotonic(), rows.append)
    assert rows[-1]["skipped"] == "the time was out"
    if not torch.cuda.is_available():
        monkeypatch.setattr(sys, "argv", ["gpu.py"])
        assert gpu.main() == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_imports_are_counted_by_package(tmp_path: Path) -> None:
    found = imports.measure(["--help"], tmp_path)
    row = imports.row("--help", [found, found])
    assert row["loads"] == []
    assert found["argparse"] > 0
    assert imports.package("torch._dynamo.utils") == "torch._dynamo"
    assert imports.package("torch.nn") == "torch"


def test_a_stream_flows(tmp_path: Path) -> None:
    streaming.write_rows(tmp_path, 1_000)
    found = streaming.flow(tmp_path, 1_000, 0)
    assert found["rows"] == 1_000
    assert found["tokens"] > 5_000
    assert found["fill"] > 0.9
    assert [mark["share"] for mark in found["marks"]][::3] == [0, 1]


def test_rows_join_their_file_or_replace_their_like(tmp_path: Path) -> None:
    path = tmp_path / "made/rows.json"
    for shape, value in (("a", 1), ("b", 2), ("a", 3)):
        results.save(path, {"shape": shape, "value": value}, "shape")
    rows = results.load(path)
    assert [(row["shape"], row["value"]) for row in rows] == [("b", 2), ("a", 3)]
    assert rows[0]["with"]["torch"] == version("torch")
    assert [file.name for file in path.parent.iterdir()] == ["rows.json"]


def test_docs_show_the_results(root: Path) -> None:
    page = (root / "docs/performance.md").read_text(encoding="utf-8")
    assert tables.render(page, root / "bench/results") == page, "run `make bench-tables`"


def test_every_table_renders(tmp_path: Path) -> None:
    """Each table from a row of its kind, and one sentence where there is none."""
    about = {"measured": "2026-01-02", "with": {"processor": "P (avx2)", "torch": "2"}}
    peer = {"speed": 2.0, "memory_at_equal_batch": 0.5, "weights": 0.4}
    setting = {"shape": "15M", "dtype": "bf16", "workload": "5q", **about}
    shares = {"reached": 20.5, "limit_square": 100, "limit_shapes": 80, "share_square": 0.2, "share_shapes": 0.26}
    files = {
        "speed.json": [{**setting, "trainer": {**peer, "best": "trainer 512", "native": "native 1024"},
                        "peak_mib": {"native 1024": 250, "trainer 512": 200, "trainer 1024": 500},
                        "check_fp32": {"loss": 1e-7, "gradients": 2e-6}},
                       {**setting, "trl": {"speed": 3.5}}, {**setting, "bf16": peer}],
        "ablation.json": [{**setting, "gains": {"x": {"last": 1.2, "alone": 1.3}}, "together": 1.5, "roofline": shares}],
        "decode.json": [{**setting, "adapter": "lora", "cache": "static", "speed": 1.31,
                         "tokens_per_second": {"native": [131], "transformers": [100]}}],
        "generate.json": [{**setting, "rows": 9, "tokens_per_batch": 100, "speed": 2.7,
                           "best_batch": 8, "rows_per_second": {"ours": 27, "8": 10},
                           "output_tokens": {"median": 4, "mean": 5, "max": 9}, "other_text_than_alone": {"ours": 0, "8": 0.01}}],
        "choices.json": [{**setting, "rows": 24, "prompt_tokens": 400, "choices": 4, "speed": 4.1,
                          "rows_per_second": {"ours": 41, "4": 10}, "largest_difference": 2e-6}],
        "imports.json": [{"command": "report", "seconds": 0.4, "packages": {"numpy": 0.1}, **about}],
        "gpu.json": [{"gpu": "G", "shape": "8B", "what": "lora", "engine": "native", "attention": "sdpa", "rows": "packed",
                      "skipped": "the time was out", **about}],
        "loop.json": [{"shape": "15M", "batch_tokens": 2048, "loop_over_bare": 1.012, "checkpoint_share": 0.0031, **about}],
        "plan.json": [{"recipe": "r.yaml", "with_settings": ["x=1"], "said": 2**20, "taken": 2**21, "ratio": 0.5, **about}],
    }  # fmt: skip
    empty = "".join(f"<!-- table {name} -->\n<!-- end {name} -->\n" for name in tables.TABLES)
    assert tables.render(empty, tmp_path).count("Not measured yet.") == len(tables.TABLES)
    for name, rows in files.items():
        (tmp_path / name).write_text(json.dumps({"rows": rows}), encoding="utf-8")
    page = tables.render(empty, tmp_path)
    for shown in ("| 5q | 2.00x | 3.50x | 0.50x | 1.25x | 1e-07, 2e-06 |", "| 0.40x |", "| x | 1.20x (1.30x) |",
                  "| 20% |", "| 1.31x |",
                  "| 4, 5, 9 | 27 | 10 (8) | 2.70x | 0.0%, 1.0% |", "| 41 | 10 (4) | 4.10x | 2e-06 |",
                  "| `llama-tasks report` | 0.4 |", "none: the time was out",
                  "| +1.2% | 0.31% of the time |", "| `r.yaml x=1` | 1 MiB | 2 MiB | 0.50 |"):  # fmt: skip
        assert shown in page
    assert "Measured 2026-01-02 on P (avx2) with torch 2." in page
    assert tables.render(page, tmp_path) == page
