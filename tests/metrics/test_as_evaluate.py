"""Every metric as an `evaluate.Metric`, with the network shut."""

from __future__ import annotations

import math
import socket

import numpy as np
import pytest

from llama_tasks import metrics
from llama_tasks.errors import MetricError

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


def test_rows_of_losses():
    metric = module.as_evaluate("loss", "en")
    metric.add(nll=1.0, tokens=3, bytes=5)
    metric.add(nll=2.0, tokens=3, bytes=5)
    assert metric.compute()["loss"] == pytest.approx(0.5)


def test_combined_metrics_take_rows_and_columns():
    """evaluate.combine gives each metric the columns that it has, one row under the names of a batch."""
    names = ("rouge1", "novelty")
    sources = ["one two three", "an other text"]
    expected = module.as_evaluate("rouge1", "en").compute(**ROWS)["rouge1"]
    both = evaluate.combine([module.as_evaluate(name, "en") for name in names])
    for prediction, reference, source in zip(*ROWS.values(), sources, strict=True):
        both.add(prediction=prediction, reference=reference, sources=source)
    by_rows = both.compute()
    both.add_batch(**ROWS, sources=sources)
    assert by_rows == both.compute()
    assert by_rows["rouge1"] == expected and "novelty" in by_rows


def test_evaluate_loads_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path))
    metric = evaluate.load(module.__file__, "exact_match", lang="zh")
    assert metric.compute(predictions=["北京。"], references=[["北京"]])["exact_match"] == 100


TEXT = "hello world again"


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([TEXT], [[[TEXT]]], "a reference of row 0 must be a text, not list"),
        ([TEXT, TEXT], [["the cat sat"], TEXT], "the references of row 1 must be a list, not str"),
        ([TEXT, ["b"]], [[TEXT], ["b"]], "the prediction of row 1 must be a text, not list"),
        ([TEXT, 5], [[TEXT], ["5"]], "the prediction of row 1 must be a text, not int"),
        ([TEXT, "5"], [[TEXT], [5]], "a reference of row 1 must be a text, not int"),
        ([TEXT], [TEXT], "the references of row 0 must be a list, not str"),
        (TEXT, [[TEXT]], "predictions must be a list, not str"),
        ([TEXT], None, "references must be a list, not None"),
        ([TEXT], [[TEXT], [TEXT]], "1 predictions but references for 2 rows"),
        (["\ud83d"], [[TEXT]], "predictions: row 0 holds half a surrogate pair"),
        ([TEXT], [[TEXT, "a\ude00"]], "references: row 0 holds half a surrogate pair"),
    ],
)
def test_wrong_nesting_is_an_error_before_arrow_hides_it(predictions, references, message):
    metric = module.as_evaluate("chrf", "en")
    for call in (metric.compute, metric.add_batch):
        with pytest.raises(MetricError, match=message):
            call(predictions=predictions, references=references)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prediction": TEXT, "reference": [[TEXT]]}, "a reference of row 0 must be a text"),
        ({"prediction": TEXT, "reference": TEXT}, "the references of row 0 must be a list"),
        ({"prediction": 5, "reference": ["5"]}, "the prediction of row 0 must be a text"),
    ],
)
def test_wrong_nesting_of_one_row(row, message):
    with pytest.raises(MetricError, match=message):
        module.as_evaluate("chrf", "en").add(**row)


def test_other_columns_have_their_form_too():
    with pytest.raises(MetricError, match="sources: row 1 must be a text, not 7"):
        module.as_evaluate("novelty", "en").compute(**ROWS, sources=["one", 7])
    with pytest.raises(MetricError, match="nll: row 0 must be a number, not '5'"):
        module.as_evaluate("loss", "en").compute(nll=["5"], tokens=[4], bytes=[8])


def test_arrays_and_no_reference_are_rows():
    metric = module.as_evaluate("exact_match", "en")
    metric.add_batch(predictions=np.array(["a", "b"]), references=[np.array(["a"], dtype=object), ("c", "b")])
    metric.add_batch(predictions=[], references=[])
    metric.add(prediction="", reference=[])
    assert metric.compute()["exact_match"] == 100
    losses = module.as_evaluate("loss", "en").compute(nll=np.array([4.0]), tokens=np.array([4]), bytes=[8])
    assert losses["loss"] == 1
