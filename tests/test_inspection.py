"""inspect: what is shown is what is trained, readable in several languages, within 80 columns, harmless whatever a row holds."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_sample import HOSTILE
from rich.cells import cell_len
from rich.console import Console
from run_factory import make_tokenizer
from tiny import make_rows
from transformers import AutoTokenizer

from llama_tasks import adapters
from llama_tasks.cli import main
from llama_tasks.inspection import Inspection, gather, page, terminal
from llama_tasks.inspection.pieces import Speller, visible
from llama_tasks.recipe import load_recipe
from llama_tasks.report.histograms import histogram
from llama_tasks.tokens import Tokens

SETS = {
    "classification": ("agnews", "clinc150", "chnsenticorp-zh", "csl-category-zh"),
    "summarization": ("dialogsum", "csl-title-zh", "agnews-headline"),
    "qa": ("squad", "cmrc2018-zh"),
    "translation": ("tatoeba-en-zh", "multi30k-en-de"),
}
TASKS = {"classification": "classify", "summarization": "summarize", "qa": "qa", "translation": "translate"}


def inspection(root: Path, task: str, *overrides: str) -> Inspection:
    recipe = load_recipe(root / f"recipes/{task}.yaml", overrides)
    return gather(recipe, adapters.load_tokenizer(recipe.base))


def printed(found: Inspection, width: int = 80, **options: Any) -> str:
    console = Console(width=width, file=io.StringIO(), record=True, **options)
    console.print(terminal(found))
    return console.export_text(styles=bool(options))


def rows_of(path: Path, documents: list[str], **fixed: str) -> Path:
    return make_rows(path, [{"document": text, "summary": f"Row {n}.", **fixed} for n, text in enumerate(documents)])


# --- tokens as a person reads them ----------------------------------------------------------------------------------

TEXTS = ["A fox, über Zäune.", "今天天气很好。", "می‌خواهم", "e\u0301 👩‍🔬 \t x\n\ny", "  two  spaces "]


def tokenizers(root: Path) -> list[Any]:
    return [AutoTokenizer.from_pretrained(root / "llama_tasks/embedded/base"), make_tokenizer()]


@pytest.mark.parametrize("index", [0, 1], ids=["embedded", "byte level"])
def test_pieces_spell_the_text_in_whole_characters(root: Path, index: int) -> None:
    tokenizer = tokenizers(root)[index]
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = Speller(tokenizer).pieces(Tokens("x", [1, *ids, 2], 1))
        assert [i for piece in pieces for i in piece.ids] == [1, *ids, 2]
        shown = "".join(piece.text for piece in pieces[1:-1])
        assert shown == visible(text.encode())
        assert "\ufffd" not in shown
        assert [(p.text, p.special, p.trained) for p in (pieces[0], pieces[-1])] == [
            ("<s>", True, False),
            ("</s>", True, True),
        ]
        assert all(piece.trained for piece in pieces[1:])


def test_the_mask_never_runs_through_a_piece() -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer("好好", add_special_tokens=False)["input_ids"]
    assert len(ids) == 6
    pieces = Speller(tokenizer).pieces(Tokens("x", ids, 4))
    assert [(p.text, len(p.ids), p.trained) for p in pieces] == [
        ("好", 3, False),
        ("⟨E5⟩", 1, False),
        ("⟨A5⟩", 1, True),
        ("⟨BD⟩", 1, True),
    ]


@pytest.mark.parametrize(
    ("data", "shown"),
    [(b"a\x1b[31mb", "a⟨1B⟩[31mb"), ("\u202ex\u2066".encode(), "⟨202E⟩x⟨2066⟩"), (b"\xff\xfe", "⟨FF⟩⟨FE⟩"), (b"\x00", "⟨00⟩"),
     (b"a\tb\n", "a⇥b⏎\n"), ("好👩‍🔬".encode(), "好👩‍🔬")],
)  # fmt: skip
def test_what_cannot_be_seen_is_a_sign(data: bytes, shown: str) -> None:
    assert visible(data) == shown


# --- the terminal ---------------------------------------------------------------------------------------------------


def test_the_terminal_shows_what_is_trained(root: Path, tmp_path: Path) -> None:
    documents = [f"Anna has {n} apples 好 [red]x[/red] \x1b[31m </s>" for n in range(40)]
    found = inspection(root, "summarize", f"data.train={rows_of(tmp_path / 'rows.jsonl', documents)}")
    shown = printed(found)
    assert max(map(cell_len, shown.split("\n"))) <= 80
    assert "a training may start" in shown
    first = found.examples[0]
    assert f"{first.length} tokens, {first.trained} carry loss" in shown
    assert re.search(r"<s>Summarize the text.⏎", shown)
    assert "[red]x[/red] ⟨1B⟩[31m </s>⏎" in shown
    assert re.search(r"Summary:▸ Row \d+\.</s>", shown)
    assert "\x1b" not in shown
    coloured = printed(found, force_terminal=True, color_system="standard")
    assert re.search(r"▸\x1b\[0m\x1b\[(?:\d+;)*32m", coloured)


def test_everything_is_shown_before_a_finding_stops(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows_of(tmp_path / "rows.jsonl", [f"Anna has {n} apples." for n in range(40)] + ["A long text. " * 200])
    rows_of(tmp_path / "test.jsonl", ["It rains.", "anna HAS 3 apples", "Anna has 4 apples."])
    argv = ("inspect", str(root / "recipes/summarize.yaml"), "data.train=rows.jsonl", "data.test=test.jsonl")
    assert main([*argv, "--html", "page.html"]) == 2
    shown = capsys.readouterr()
    for text in ("longer than prompt.max_length", "test:1 (test.jsonl:2)", "test:2 (test.jsonl:3)"):
        assert text in " ".join(shown.out.split())
        assert text in shown.err
    assert "carry loss" in shown.out
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "A training would stop." in html
    assert html.count("<b>✗ ") == 3
    assert main([*argv, "prompt.allow=[leak]", "prompt.on_too_long=drop"]) == 0
    assert "with what prompt.allow allows" in capsys.readouterr().out


def test_rows_too_long_or_contradicting_are_named_with_file_and_line(root: Path, tmp_path: Path) -> None:
    documents = [*[f"Anna has {n} apples." for n in range(30)], "Anna has 3 apples.", "A long text. " * 200]
    train = f"data.train={rows_of(tmp_path / 'rows.jsonl', documents)}"
    for policy, said in (
        ("truncate_prompt", "shortened: 1, first train:31 (rows.jsonl:32)"),
        ("drop", "dropped, too long: 1, first train:31 (rows.jsonl:32)"),
        ("error", "raise it, or say prompt.on_too_long=truncate_prompt or drop): 1, first train:31 (rows.jsonl:32)"),
    ):
        found = inspection(root, "summarize", train, f"data.validation={tmp_path / 'rows.jsonl'}",
                           f"data.test={tmp_path / 'rows.jsonl'}", f"prompt.on_too_long={policy}")  # fmt: skip
        shown = " ".join(printed(found, width=300).split())
        assert said in shown
        assert "another target: 1, first train:3 (rows.jsonl:4) and train:30 (rows.jsonl:31)" in shown
        assert ("dropped, too long" in shown) == (policy == "drop")
        html = page(found)
        assert ("too long: a training stops" in html) == (policy == "error")
        assert "train:31 (rows.jsonl:32)" in html


def test_a_training_without_an_example_left_would_stop(root: Path, tmp_path: Path) -> None:
    train = rows_of(tmp_path / "rows.jsonl", [f"Anna has {n} apples." for n in range(40)])
    found = inspection(root, "summarize", f"data.train={train}", "prompt.max_length=8", "prompt.on_too_long=drop")
    assert [(stop.rule, stop.total) for stop in found.stops] == [("too_long", found.report.rows["train"])]
    assert "no training example is left" in " ".join(printed(found).split())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_prompt_too_long_to_be_answered_would_stop(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, split: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rows_of(tmp_path / "rows.jsonl", [f"Anna has {n} apples." for n in range(40)])
    rows_of(tmp_path / "long.jsonl", ["It rains.", "A long text. " * 200])
    argv = ["inspect", str(root / "recipes/summarize.yaml"), "data.train=rows.jsonl", f"data.{split}=long.jsonl"]
    assert main([*argv, "--html", "page.html"]) == 2
    shown = capsys.readouterr()
    assert "1 of 2 examples are longer than prompt.max_length allows" in shown.err
    said = " ".join(shown.out.split())
    assert "✗ the evaluation could not be made: 1 of 2 examples are longer" in said and "may start" not in said
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "A training would stop." in html and "1 of 2 examples are longer" in html and "Nothing was found" not in html
    assert main([*argv, "prompt.on_too_long=truncate_prompt"]) == 0


def test_a_suite_that_cannot_score_would_stop(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(root / "recipes/summarize.yaml"), "eval.metrics=[rougL]"]) == 2
    shown = capsys.readouterr()
    assert "rougL" in shown.err and "carry loss" in shown.out and "may start" not in shown.out


# --- the page -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def hostile(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    folder = tmp_path_factory.mktemp("hostile")
    texts = [f"{n} {HOSTILE}" for n in range(30)]
    rows = [{"text": text, "label": f"<b>{HOSTILE[:60]}</b>" if n % 2 else "good"} for n, text in enumerate(texts)]
    train = make_rows(folder / "<img src=x>.jsonl", [*rows, rows[0], {**rows[1], "label": "good"}])
    test = make_rows(folder / "test.jsonl", rows[:2])
    template = '{default: "<i>{text}</i>\\n</pre><script>1</script>"}'
    return inspection(root, "classify", f"data.train={train}", f"data.test={test}", f"data.validation={test}",
                      f"prompt.template={template}", "prompt.max_length=1024")  # fmt: skip


def test_the_page_of_hostile_rows_is_harmless(hostile: Inspection) -> None:
    html = page(hostile)
    parsed = Page(html)
    assert not set(parsed.tags) & {"img", "a", "iframe", "i", "link", "object", "base", "form"}
    assert parsed.tags.count("script") == 1
    assert [
        value for name, value in parsed.attributes if name.startswith("on") or name in ("href", "src", "style")
    ] == []
    assert "default-src 'none'" in html
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert "<script>document.title" in parsed.text
    shown = printed(hostile)
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_the_page_shows_overlaps_repeats_and_labels_with_their_rows(hostile: Inspection) -> None:
    found = {key: match.total for key, match in hostile.report.overlaps.items() if match.total}
    assert found["train", "test", "exact"] == found["train", "validation", "exact"] == 2
    assert hostile.report.repeats["exact"].pairs == [("train:0", "train:30")]
    assert hostile.report.contradictions.total == 1
    text = Page(page(hostile)).text
    for words in ("train ∩ test", "训练集", "test.jsonl:2", "one BOS", "prompt.allow=[leak]", "标签分布"):
        assert words.replace("train ∩ test", "∩") in text or words == "one BOS"


def test_every_label_of_the_page_has_both_languages(hostile: Inspection) -> None:
    html = page(hostile)
    english, chinese = (re.findall(rf'<span class="{code}"[^>]*>([^<]+)</span>', html) for code in ("en", "zh"))
    assert len(english) == len(chinese) > 50
    assert all(re.search("[\u4e00-\u9fff／]|sha256", text) for text in chinese)
    assert not any(re.search("[\u4e00-\u9fff]", text) for text in english if "Ｔ" not in text)


@pytest.mark.parametrize(
    ("values", "limit", "bars", "at"),
    [([5], 10, 1, None), ([0, 1, 1, 2], None, 3, None), (list(range(1000)), 500, 40, 198.0), ([], 3, None, None)],
)
def test_histograms(values: list[int], limit: int | None, bars: int | None, at: float | None) -> None:
    plot = histogram(values, limit)
    if bars is None:
        assert plot is None
        return
    assert plot is not None
    assert len(plot.bars) == bars
    assert sum(int(bar.label.split(": ")[1].replace(",", "")) for bar in plot.bars) == len(values)
    assert all(
        plot.left <= bar.x and bar.x + bar.width <= plot.right + 1 and 0 <= bar.y <= plot.bottom for bar in plot.bars
    )
    assert plot.limit == at


# --- real sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in SETS.items() for name in names])
def test_the_first_rows_of_every_public_set(root: Path, shared: Any, tmp_path: Path, kind: str, name: str) -> None:
    source = shared(f"data/public/{kind}/{name}")
    for split in ("train", "validation", "test"):
        lines = (source / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")[:200]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = [
        json.loads(line) for part in tmp_path.glob("*.jsonl") for line in part.read_text("utf-8").split("\n") if line
    ]
    labels = sorted({row.get("label", "") for row in rows})
    more = {
        "classification": [f"data.labels={json.dumps(labels)}"],
        "translation": [f"data.constants={{source_lang: en, target_lang: {name[-2:]}}}"],
    }.get(kind, [])
    found = inspection(root, TASKS[kind], f"data.train={tmp_path}", "prompt.max_length=4096", *more)
    assert found.report.rows == {"train": 200, "validation": 60, "test": 200}
    assert found.stops == []
    assert len(found.examples) == 10
    assert max(map(cell_len, printed(found).split("\n"))) <= 80
    html = page(found)
    assert len(html) < 2_000_000
    assert "\ufffd" not in html
