"""Every metric as an `evaluate.Metric`, with the network shut."""

from __future__ import annotations

import math
import socket

import pytest

from llama_tasks import metrics

evaluate = pytest.importorskip("evaluate", reason="`evaluate` is an optional extra: pip install llama-tasks[evaluate]")

from llama_tasks.metrics import as_evaluate as module  # noqa: E402

ROWS = {"predictions": ["one two three four", "other"], "references": [["one two three four"], ["one two", "other"]]}
LABELLED = {"predictions": ["a", "b"], "references": [["a"], ["a"]]}
CHOICES = [{"a": math.log(0.7), "b": math.log(0.3)}, {"a": math.log(0.2), "b": math.log(0.8)}]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", [*metrics.names(), "rougeL:stem=yes"])
def test_equals_ours(name):
    metric = metrics.create(name, "en", ["a", "b"])
    labelled = metrics.compares_labels(name) or name == "calibration_error"
    rows = dict(LABELLED if labelled else ROWS)
    ours, theirs = dict(rows), dict(rows)
    if getattr(metric, "needs", None) == "sources":
        ours["sources"] = theirs["sources"] = ["one two three", "an other text"]
    if getattr(metric, "needs", None) == "choices":
        ours["choices"] = CHOICES
        theirs["choices"] = [{"label": list(row), "logprob": list(row.values())} for row in CHOICES]
    expected = metrics.score(metric, **ours, n_resamples=20, seed=3)
    found = module.as_evaluate(name, "en", ["a", "b"], n_resamples=20, seed=3).compute(**theirs)
    assert found[name] == pytest.approx(expected.value, abs=1e-12)
    assert (found["n"], found["signature"]) == (2, expected.signature)
    assert found["interval"] == pytest.approx(list(expected.interval))


def test_language_models():
    found = module.as_evaluate("bits_per_byte", "en").compute(nll=[math.log(2) * 8], tokens=[4], bytes=[8])
    assert found["bits_per_byte"] == pytest.approx(1)


def test_batches_and_languages():
    metric = module.as_evaluate("rouge1", "zh")
    metric.add_batch(predictions=["今天天气好"], references=[["今天天气不错"]])
    metric.add(prediction="你好", reference=["你好"])
    assert metric.compute()["rouge1"] == pytest.approx((800 / 11 + 100) / 2)


def test_evaluate_loads_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path))
    metric = evaluate.load(module.__file__, "exact_match", lang="zh")
    assert metric.compute(predictions=["北京。"], references=[["北京"]])["exact_match"] == 100
