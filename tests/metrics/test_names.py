"""Names with options: what they mean, and what is said of a wrong one."""

from __future__ import annotations

import pytest
import yaml

from llama_tasks import metrics
from llama_tasks.errors import MetricError
from llama_tasks.metrics.names import OPTIONS, parse


def test_options_are_read():
    assert parse("f1:norm=squad2:rows=hasans") == ("f1", {"norm": "squad2", "rows": "hasans"})
    assert parse("bleu") == ("bleu", {})


def test_names_stand_in_yaml_as_they_are():
    read = yaml.safe_load("metrics: [bleu:tok=intl, chrf++, f1:norm=squad2:rows=hasans]")
    assert read == {"metrics": ["bleu:tok=intl", "chrf++", "f1:norm=squad2:rows=hasans"]}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bleu:token=zh", r"bleu has no option 'token': did you mean 'tok'\? Known: tok, case"),
        ("accuracy:tok=zh", r"accuracy has no option 'tok'\. Known: none"),
        ("bleu:tok=klingon", "tok=klingon is not one of 13a, zh, "),
        ("bleu:tok", r"tok=\? is not one of"),
        ("bleu:tok=zh:tok=char", "names tok twice"),
        ("perplexity", "perplexity is of plain text, .*: score rows {nll, tokens, bytes} with `llama-tasks score"),
        ("rouge", "there is no metric 'rouge': did you mean 'rouge"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(MetricError, match=message) as caught:
        metrics.create(name, "zh")
    assert "\n" not in str(caught.value)


# Values that need another language than English, or a library or a model that may not be there.
ELSEWHERE = ("jieba", "ja-mecab", "ko-mecab", "flores101", "flores200", "spBLEU-1K", "cmrc")


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, options in OPTIONS.items() for key in options])
def test_every_value_is_read_and_signed(name, key):
    values = [value for value in OPTIONS[name][key] if value not in ELSEWHERE]
    made = [metrics.create(f"{name}:{key}={value}", "en") for value in values]
    assert [metric.name for metric in made] == [f"{name}:{key}={value}" for value in values]
    assert len({metric.signature for metric in made}) == len(values)


def test_groups():
    assert metrics.expand("rouge:stem=yes") == (
        "rouge1:stem=yes",
        "rouge2:stem=yes",
        "rougeL:stem=yes",
        "rougeLsum:stem=yes",
    )
    assert metrics.expand("squad1") == ("exact_match:norm=squad1", "f1:norm=squad1")
    assert metrics.expand("f1:norm=cmrc") == ("f1:norm=cmrc",)
    for group in metrics.groups():
        lang = "zh" if group == "cmrc" else "en"
        assert all(metrics.create(name, lang, ["a", "b"]).name == name for name in metrics.expand(group))


def test_what_a_name_tells():
    assert metrics.higher_is_better("bleu:tok=intl") is True
    assert metrics.higher_is_better("ter") is False
    assert metrics.higher_is_better("calibration_error") is False
    assert metrics.higher_is_better("novelty") is None
    assert [name for name in metrics.names() if metrics.right_or_wrong(name)] == ["exact_match", "accuracy"]
    assert not metrics.right_or_wrong("exact_match:rows=noans")
    assert metrics.may_lead("f1:norm=cmrc") and not metrics.may_lead("f1:rows=noans")
    assert not any(map(metrics.may_lead, ("ter", "novelty", "length_ratio", "calibration_error")))
    assert metrics.compares_labels("mcc") and not metrics.compares_labels("f1")
