"""The model card: valid metadata, measured numbers with their signatures, and nothing that data could smuggle in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from run_factory import HUB_BASE, make_base, make_run

from llama_tasks.hub.card import base_card, fence, markdown, model_card, public

COMMIT = "0123456789abcdef0123456789abcdef01234567"
EVIL = "</table><script>alert(1)</script>\n---\nlicense: evil\n# [x](javascript:alert(1)) `|` \x1b[31m \u202eabc"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", make_base(tmp_path / "base"), revision=COMMIT)


def card_of(run: Path, **options: Any) -> str:
    return model_card(run, "tester/my-adapter", HUB_BASE, COMMIT, **options)


def change(path: Path, edit: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_metadata_is_what_the_hub_reads(run: Path) -> None:
    data = ModelCard(card_of(run, license="apache-2.0")).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("peft", "text-generation", "apache-2.0")
    assert (data.base_model, data.to_dict()["base_model_relation"]) == (HUB_BASE, "adapter")
    assert data.language == ["en", "zh"]
    assert data.datasets == ["tester/news"]
    assert [(r.metric_type, r.metric_name, r.metric_value) for r in data.eval_results or []] == [
        ("rouge", "ROUGE-L", 31.4159),
        ("chrf", "chrF", 27.5),
    ]


def test_body_has_numbers_signatures_code_and_command(run: Path) -> None:
    card = card_of(run)
    for part in (
        "| rougeL | en | 40 | 3.25 [2.00, 4.50] | 31.42 [29.42, 33.42] | 28.17 [1.00, 60.00] | < 0.001 |",
        "nrefs:1\\|case:mixed\\|nc:6\\|version:2.6.0",
        f'from_pretrained("{HUB_BASE}", revision="{COMMIT}")',
        "eos_token_id=2",
        "make finetune TASK=summarize DATA=train.jsonl",
        "ab" * 32,
        "not chosen a license",
        "概括下面的文字。",
    ):
        assert part in card
    assert "license" not in yaml.safe_load(card.split("---\n")[1])


def test_no_folder_of_this_machine_is_named(run: Path) -> None:
    card = card_of(run)
    assert "/home" not in card
    assert "secret-project" not in card
    assert str(run.parent) not in card


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert card_of(run) == card_of(run)


def test_a_run_without_report_claims_nothing(run: Path) -> None:
    (run / "report.json").unlink()
    (run / "environment.json").unlink()
    card = card_of(run)
    assert "not evaluated" in card
    assert "model-index" not in card
    assert ModelCard(card).data.eval_results is None


def test_text_from_data_stays_text(run: Path) -> None:
    def poison(report: dict[str, Any]) -> None:
        report["scores"][0] |= {"metric": EVIL, "lang": EVIL, "signature": EVIL, "method": EVIL}
        report["counts"][EVIL] = {EVIL: EVIL}
        report["provenance"]["data"]["test"]["source"] = EVIL
        report["provenance"]["versions"] = {EVIL: EVIL}
        report["command"] = f"make ```\n{EVIL}\n```"

    change(run / "report.json", poison)
    contract = run / "adapter" / "prompt_contract.json"
    change(contract, lambda c: c.update(task=EVIL, labels=[EVIL], template={"en": EVIL}))
    card = card_of(run, license="apache-2.0")
    parsed = ModelCard(card)
    assert (parsed.data.license, parsed.data.base_model) == ("apache-2.0", HUB_BASE)
    outside = "".join(card_parts(parsed.content))
    assert "<script" not in outside
    assert not re.search(r"(?<!\\)\]\(javascript", outside)
    assert "\x1b" not in card
    assert "\u202e" not in card


def card_parts(content: str) -> list[str]:
    """What of a card is neither header nor inside a fence."""
    kept, closing = [], None
    for line in content.split("---\n", 2)[2].splitlines():
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if closing is None and len(ticks) >= 3:
            closing = ticks
        elif closing is not None and line == closing:
            closing = None
        elif closing is None:
            kept.append(line + "\n")
    assert closing is None
    return kept


@pytest.mark.parametrize("value", [float("nan"), None, "x"])
def test_a_number_that_was_not_measured_is_a_dash(run: Path, value: object) -> None:
    change(run / "report.json", lambda r: r["scores"][0]["adapter"].update(value=value, interval=None))
    card = card_of(run)
    assert "| rougeL | en | 40 | 3.25 [2.00, 4.50] | – " in card
    assert len(ModelCard(card).data.eval_results or []) == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/ana/x.jsonl", "x.jsonl"),
        (r"C:\Users\ana\x.jsonl", "x.jsonl"),
        ("make DATA=/home/ana/x.jsonl MODEL=org/name", "make DATA=x.jsonl MODEL=org/name"),
        ("~/deep/x.jsonl", "x.jsonl"),
        ("https://huggingface.co/org/name", "https://huggingface.co/org/name"),
        ("data/x.jsonl", "data/x.jsonl"),
        ("make DATA=https://ana:open@host.org/x.jsonl", "make DATA=https://host.org/x.jsonl"),
        ("s3://b/x.parquet?X-Amz-Signature=0a1b", "s3://b/x.parquet"),
        ("https://host.org/x?page=2", "https://host.org/x?page=2"),
        ({"/home/ana/key": ["/home/ana/v", 1, None]}, {"key": ["v", 1, None]}),
    ],
)
def test_public_keeps_no_folder_and_no_password(value: object, shown: object) -> None:
    assert public(value) == shown


def test_escapes() -> None:
    assert markdown("a|b *c* <i> & [x](y)\nz") == r"a\|b \*c\* &lt;i&gt; &amp; \[x\](y) z"
    assert fence("a\n````\nb", "text") == "`````text\na\n````\nb\n`````"


def test_the_card_of_a_base_is_valid() -> None:
    data = ModelCard(base_card("tester/x-base", "tester/x", license="mit")).data
    assert (data.library_name, data.license) == ("transformers", "mit")
