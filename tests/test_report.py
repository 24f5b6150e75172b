"""The report: what it says, in three renderings, and that no text from data can do more than be read."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from report_sample import HOSTILE, hostile_row, rows, sample_report, sample_systems, score
from rich.console import Console

from llama_tasks.errors import RunError
from llama_tasks.report import (
    TRAINED,
    System,
    build,
    html,
    load,
    markdown,
    plain,
    scores_table,
    terminal,
    verdicts,
    write,
)
from llama_tasks.report.charts import interval_plots, nice_ticks, training_plots
from llama_tasks.report.content import sample_ids
from llama_tasks.report.rows import pack
from llama_tasks.report.words import metric_words


class Page(HTMLParser):
    """Every tag with its attributes, and the text of each kind of tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open, []).append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def printed(report: dict[str, Any], width: int, **options: Any) -> str:
    console = Console(width=width, **options)
    with console.capture() as capture:
        console.print(terminal(report))
    return capture.get()


# ---- building


def test_scores_join_base_adapter_and_test() -> None:
    first = sample_report()["scores"][0]
    assert first["metric"] == "rougeL"
    assert first["base"] == {"value": 14.1, "interval": [12.5, pytest.approx(15.7)]}
    assert first["adapter"]["value"] == 37.4
    assert (first["difference"], first["p_value"]) == (23.3, 0.0002)
    assert first["method"] == "paired-bootstrap|bs:1000|seed:12345"


def test_report_has_the_keys_of_the_contract() -> None:
    keys = "format title task created command scores counts training examples provenance"
    assert set(keys.split()) <= set(sample_report())


def test_sample_is_balanced_and_blind_to_order_and_answers() -> None:
    made = rows(40) + [hostile_row(f"ja:{at}", "ja", "x") for at in range(2)]
    ids = sample_ids(made, 20)
    assert ids == sample_ids(made[::-1], 20)
    assert ids == sample_ids([row | {"base": "other"} for row in made], 20)
    assert ids != sample_ids(made, 20, seed=1)
    langs = [next(row["lang"] for row in made if row["id"] == i) for i in ids]
    assert {lang: langs.count(lang) for lang in langs} == {"en": 9, "ja": 2, "zh": 9}
    assert sample_ids([], 20) == []
    assert len(set(sample_ids(made, 100))) == 42


def test_regressions_are_the_rows_that_fell_most() -> None:
    base = System("base", [], {}, [_prediction(i) for i in "abcd"], {"a": 1.0, "b": 0.9, "c": 0.5, "d": 0.2, "gone": 1})
    adapter = System("adapter", [], {}, base.predictions, {"a": 0.8, "b": 0.1, "c": 0.5, "d": 0.9, "gone": 0})
    report = _build(base, adapter)
    assert [(row["id"], row["base_value"], row["adapter_value"]) for row in report["regressions"]] == [
        ("b", 0.9, 0.1),
        ("a", 1.0, 0.8),
    ]


def test_systems_on_different_rows_are_refused() -> None:
    base = System("base", [], {}, [_prediction("a"), _prediction("b")])
    with pytest.raises(RunError, match=r"different rows \(1 are in one only, such as 'b'\)"):
        _build(base, System("adapter", [], {}, [_prediction("a")]))
    with pytest.raises(RunError, match="'adapter' hold a row id twice"):
        _build(base, System("adapter", [], {}, [_prediction("a")] * 2))


@pytest.mark.parametrize("change", [{"signature": "other"}, {"n": 3}, {"lang": "de"}])
def test_scores_that_measure_other_things_are_refused(change: dict[str, Any]) -> None:
    own = score("bleu", "en", 10, 1)
    with pytest.raises(RunError, match=r"bleu \(en\)"):
        _build(System("base", [own], {}, []), System("adapter", [own | change], {}, []))


def test_values_become_plain_json() -> None:
    own = score("bleu", "en", np.float64(10), 1, n=np.int64(5)) | {"interval": (math.nan, math.inf)}
    provenance = {"seed": np.int64(1), 2: "\ud800"}
    report = _build(System("base", [own], {"rows": np.int64(5)}, []), None, provenance=provenance)
    assert report["scores"][0]["base"] == {"value": 10.0, "interval": [None, None]}
    assert report["provenance"] == {"seed": 1, "2": "?"}
    assert json.loads(json.dumps(report, allow_nan=False)) == report


# ---- sentences


def test_verdicts() -> None:
    assert [str(finding) for finding in verdicts(sample_report())] == [
        "The adapter beats the base on ROUGE-L (en) by 23.3 [20.9, 25.7] (p < 0.001, n = 150).",
        "The adapter beats the base on ROUGE-L (zh) by 26.3 [23.2, 29.4] (p < 0.001, n = 150).",
        "Of 4 comparisons, 3 are better, 0 worse, 1 undecided.",
    ]


@pytest.mark.parametrize(
    ("test", "sentence"),
    [
        (
            {"difference": -4.0, "interval": (-6, -2), "p_value": 0.004},
            "The adapter is worse than the base on BLEU by 4.0 [-6.0, -2.0] (p = 0.004, n = 150).",
        ),
        (
            {"difference": 0.4, "interval": (-1, 2), "p_value": 0.31},
            "No difference could be shown on BLEU: +0.4 [-1.0, 2.0] (p = 0.310, n = 150).",
        ),
        ({}, "The adapter is at +2.0 on BLEU (not tested, n = 150)."),
    ],
)
def test_verdict_of_other_outcomes(test: dict[str, Any], sentence: str) -> None:
    base, adapter = ([score("bleu", "en", value, 1)] for value in (10.0, 12.0))
    comparisons = [{"metric": "bleu", "lang": "en", **test}] if test else []
    report = _build(System("base", base, {}, []), System("adapter", adapter, {}, []), comparisons=comparisons)
    assert str(verdicts(report)[0]) == sentence
    for rendered in (markdown(report), html(report), printed(report, 200)):
        assert sentence.split("[")[0].split("(")[0].strip() in rendered.replace("**", "")


def test_a_trained_model_alone_is_not_called_the_base() -> None:
    row, counts = _prediction("a"), {"rows": 1, "empty": 0}
    report = _build(System(TRAINED, [score("bleu", "en", 98.1, 1)], counts, [row]), None)
    assert str(verdicts(report)[0]).startswith("The trained model reaches 98.1 on BLEU")
    assert verdicts(report)[0].chinese == "训练后的模型在 BLEU 上为 98.1"
    for rendered in (
        markdown(report),
        printed(report, 200),
        re.sub('<(style|script).*?</|class="[^"]*"', "", html(report), flags=re.S),
    ):
        assert "trained model" in rendered and not re.search(r"\bbase\b(?!-uri)|基座", rendered)
    assert "evaluation of the base" in html(_build(System("base", [], {}, []), None))


def test_nothing_scored_is_said() -> None:
    report = _build(System("base", [], {}, []), None)
    for rendered in (markdown(report), html(report), printed(report, 80)):
        assert "Nothing was scored" in rendered


# ---- terminal


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_is_whole(width: int) -> None:
    lines = printed(sample_report(), width).splitlines()
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if line.startswith(" ROUGE-L  en"))
    assert re.search(r"150 +14\.1 .*37\.4 .*\+23\.3 .*<0\.001 \*", row)
    text = " ".join(" ".join(lines).split())
    for part in ("[12.5, 15.7]", "[20.9, 25.7]", "0.213", "* p < 0.05 (paired bootstrap).", "97 truncated (32.3%)"):
        assert part in text
    assert "base HuggingFaceTB/SmolLM2-135M · revision 93efa2f097d5" in text
    assert "…" not in "".join(line for line in lines if line.startswith(" ROUGE"))


def test_terminal_without_colour_sends_no_escape() -> None:
    shown = printed(sample_report(HOSTILE), 100, no_color=True, force_terminal=False)
    assert "\x1b" not in shown
    assert "[red]rich[/red]" in " ".join(shown.split())


def test_terminal_with_colour_shows_no_escape_of_data() -> None:
    shown = printed(sample_report(HOSTILE), 100, force_terminal=True, color_system="standard")
    left = re.sub(r"\x1b\[[\d;]*m", "", shown)  # rich's own colours
    assert left != shown
    assert "\x1b" not in left
    assert "\u202e" not in left
    assert "evil.example" not in left


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mred\x1b[0m", "ared"),
        ("\x1b]8;;http://evil.example\x07link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07x", "x"),
        ("\x9b2Jx\x9d0;t\x9cy", "xy"),
        ("\x1bPdcs\x1b\\x\x1bcy", "xy"),
        ("\x1b]52;c;never ended", "52;c;never ended"),
        ("one\r\ntwo\rthree\u2028four\tx", "one\ntwo\nthree\nfour\tx"),
        ("\x00\x08\x7f\u202eabc\u2066\ud800", "abc"),
        ("你好 नमस्ते שלום 👩‍🔬", "你好 नमस्ते שלום 👩‍🔬"),
        (None, "None"),
    ],
)
def test_plain(text: object, expected: str) -> None:
    assert plain(text) == expected


# ---- Markdown


def test_markdown_is_a_table_with_signatures() -> None:
    lines = markdown(sample_report()).replace("&lt;", "<").splitlines()
    assert (
        "| ROUGE-L | en | 150 | 14.1 [12.5, 15.7] | 37.4 [34.8, 40.0] | +23.3 [20.9, 25.7] | **<0.001** | 3.1 |"
        in lines
    )
    assert "| ROUGE-2 | zh | 150 | 27.5 [24.6, 30.4] | 28.9 [25.9, 31.9] | +1.4 [-0.8, 3.6] | 0.213 | 3.1 |" in lines
    assert "- ROUGE-L (zh): `rougeL|lang:zh|tok:char|bs:1000|seed:12345|version:0.1.0`" in "\n".join(lines)
    assert ", tested by `paired-bootstrap|bs:1000|seed:12345`" in "\n".join(lines)
    assert scores_table(sample_report()) in markdown(sample_report())


def test_markdown_of_hostile_data_is_only_text() -> None:
    renderer = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    hostile, friendly = sample_report(HOSTILE), sample_report("harmless")
    page, model = Page(renderer.render(markdown(hostile))), Page(renderer.render(markdown(friendly)))
    assert _bars(hostile) == _bars(friendly)
    allowed = "h1 h2 p strong em br ul li code pre table thead tbody tr th td"
    assert {tag for tag, _ in page.tags} <= set(allowed.split())
    for tag in ("tr", "td", "h2", "pre", "li", "table"):
        assert page.count(tag) == model.count(tag)
    assert '<script>document.title="owned"</script>' in "".join(page.texts["td"])
    assert "@someone" not in markdown(hostile).replace("`", "").split("To reproduce")[0].split("```yaml")[0]


def test_fences_outgrow_the_backticks_of_data() -> None:
    report = sample_report() | {"command": "````\n# out"}
    tokens = MarkdownIt("commonmark").parse(markdown(report))
    assert [token.content for token in tokens if token.type == "fence"][-1] == "````\n# out\n"


def test_insight_is_in_every_rendering() -> None:
    report = sample_report(with_insight=True)
    shown, text = " ".join(printed(report, 120).split()), markdown(report)
    assert "3 of 300 test rows are also in the training rows: look at the scores without them" in shown
    assert "perplexity of general text: en 3.41 → 3.51 (p 0.002)" in shown
    for part in ("## Labels, adapter", "| input length | rows | base | adapter |",
                 "## Leak check", "| perplexity | en | 20 | 3.412 [3.300, 3.500] | 3.510 [3.400, 3.600] | +0.098"):  # fmt: skip
        assert part in text
    unchecked = sample_report(insight={"leaks": {"checked": False, "why": "nobody [red]looked[/red]"}})
    for rendered in (printed(unchecked, 120), markdown(unchecked), html(unchecked)):
        assert "looked" in rendered


def test_hostile_insight_is_only_text() -> None:
    hostile, friendly = sample_report(HOSTILE, with_insight=True), sample_report("harmless", with_insight=True)
    assert _bars(hostile) == _bars(friendly)
    renderer = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    pages = [Page(renderer.render(markdown(report))) for report in (hostile, friendly)]
    drawn = [
        Page(html(report, sample_systems(words))) for report, words in ((hostile, HOSTILE), (friendly, "harmless"))
    ]
    for tag in ("tr", "td", "script", "section", "svg", "rect", "data", "table"):
        assert pages[0].count(tag) == pages[1].count(tag)
        assert drawn[0].count(tag) == drawn[1].count(tag)
    assert "\u202e" not in html(hostile, sample_systems(HOSTILE))


def test_rows_are_packed_whole() -> None:
    packed = pack(sample_systems(count=600))
    assert packed is not None

    def opened(block: str) -> Any:
        return json.loads(gzip.decompress(base64.b64decode(block)))

    index, texts = opened(packed.index), [row for block in packed.blocks for row in opened(block)]
    assert (packed.rows, len(packed.blocks), index["block"]) == (600, 3, 250)
    assert [row[0] for row in texts] == [f"test:{at}" for at in range(600)]
    assert texts[2][4] == ["", "#Person1# wants to open a savings account and asks about the minimum deposit."]
    assert index["failures"][0] == {"empty": list(range(2, 600, 6))} and index["failures"][1] == {}
    assert index["values"][0][4] == 71.4
    assert pack([]) is None


# ---- the page


def test_page_says_everything() -> None:
    page = Page(html(sample_report()))
    text = " ".join(" ".join(part for parts in page.texts.values() for part in parts).split())
    for part in (
        "The adapter beats the base on ROUGE-L (en) by 23.3", "[20.9, 25.7] (p < 0.001, n = 150)", "4,884,480",
        "23 min 12 s", "validation ROUGE-L", "Rows that got worse", "30 / 40, seed 12345",
        "某院四年抗高血压药利用分析", "lora_alpha: 32", "make finetune TASK=summarize", "9f86d081884c",
        "rougeL|lang:zh|tok:char",
    ):  # fmt: skip
        assert part in text
    assert page.count("svg") == 4 + 3
    assert page.texts["title"].count("training loss · 训练损失") == 1
    assert {attrs.get("lang") for _, attrs in page.tags} == {None, "en", "zh"}
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")


def test_page_runs_one_script_and_loads_nothing() -> None:
    page = Page(html(sample_report(HOSTILE)))
    files = resources.files("llama_tasks.report")
    script = "".join(files.joinpath(name).read_text("utf-8") for name in ("language.js", "page.js"))
    assert "".join(page.texts["script"]) == script
    policy = str(next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv")))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")
    names = {name for _, attrs in page.tags for name in attrs}
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"href", "src", "srcset", "srcdoc", "style", "action", "formaction", "xlink:href", "background"}
    assert not {tag for tag, _ in page.tags} & {"a", "img", "iframe", "object", "embed", "link", "base", "image", "use"}


def test_hostile_data_adds_no_tag_to_the_page() -> None:
    hostile, friendly = Page(html(sample_report(HOSTILE))), Page(html(sample_report("harmless")))
    for tag in ("table", "tr", "td", "script", "style", "section", "option", "dt"):
        assert hostile.count(tag) == friendly.count(tag)
    assert '<script>document.title="owned"</script>' in "".join(hostile.texts["div"])
    assert "{{ 7*7 }}" in "".join(hostile.texts["div"])
    assert "\u202e" not in html(sample_report(HOSTILE))


def test_huge_text_is_folded_and_cut() -> None:
    row = hostile_row("long", "en", "x" * 200_000)
    report = _build(System("base", [], {}, [_prediction("long") | {"input": row["input"]}]), None)
    page = html(report)
    assert len(page) < 60_000
    assert "more characters in predictions.jsonl" in page
    assert Page(page).count("details") == 2


def test_translation_shows_its_source_and_not_the_names_of_languages() -> None:
    fields = {"source": "Guten Tag", "source_lang": "de", "target_lang": "zh", "target_language": "Chinese"}
    report = _build(System("base", [], {}, [_prediction("t:1") | {"lang": "zh", "input": fields}]), None)
    for rendered in (markdown(report), html(report), printed(report, 80)):
        assert "Guten Tag" in rendered
        assert "Chinese" not in rendered
    assert re.search(r'<div class="said" lang="de" dir="auto">Guten Tag', html(report))


def test_base_alone_has_no_comparison() -> None:
    report = sample_report(with_adapter=False)
    assert report["training"] is None
    assert report["regressions"] == []
    for rendered in (markdown(report), html(report), printed(report, 80)):
        assert "The base reaches 14.1 on ROUGE-L (en)" in rendered
    assert "difference" not in markdown(report) + printed(report, 80)
    page = Page(html(report))
    assert "difference" not in page.texts["th"]
    assert page.count("svg") == 4


def test_partial_training_is_drawn_as_far_as_known() -> None:
    training = {"steps": [{"step": 1, "loss": math.nan}, {"step": 2, "loss": 3.0}]}
    page = html(sample_report(training=training))
    assert "training loss · 训练损失" in page
    assert "learning rate ·" not in page
    assert "nan" not in page.lower().split("<svg", 1)[1].split("examples")[0]


def test_unknown_provenance_is_left_out() -> None:
    report = sample_report(provenance={"data": None, "recipe": None, "git": None, "seed": 3})
    page = Page(html(report))
    assert not {"Data", "Recipe"} & set(page.texts["span"])
    assert "git" not in page.texts["dt"]
    assert "seed 3 · created" in " ".join(printed(report, 120).split())


# ---- drawings


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (3, 47, [0, 20, 40, 60]),
        (83.1, 97.2, [80, 85, 90, 95, 100]),
        (0, 0, [0, 0.5, 1]),
        (0, 2e-4, [0, 5e-5, 1e-4, 1.5e-4, 2e-4]),
        (-3, -3, [-5, -4, -3, -2, -1]),
    ],
)
def test_nice_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == ticks


def test_interval_plots_share_a_scale_and_stay_inside() -> None:
    plots = interval_plots(sample_report()["scores"])
    assert len({tuple(tick.at for tick in plot.ticks) for plot in plots}) == 1
    for plot in plots:
        for mark in plot.marks:
            assert 0 < mark.low <= mark.at <= mark.high < plot.width
    assert plots[0].marks[0].at < plots[0].marks[1].at


def test_a_metric_that_passes_100_has_a_scale_of_its_own() -> None:
    first = sample_report()["scores"]
    plots = interval_plots([*first, first[0] | {"metric": "ter", "base": {"value": 350.0, "interval": [300.0, 400.0]}}])
    assert plots[:-1] == interval_plots(first)
    assert plots[-1].ticks[-1].label == "400"


@pytest.mark.parametrize(
    ("better", "mark", "said"), [(False, "↓", "lower is better"), (None, "↕", "neither way is better")]
)
def test_a_metric_that_should_not_rise_says_so(better: bool | None, mark: str, said: str) -> None:
    report = sample_report()
    report["scores"][0] |= {"higher_is_better": better, "metric": "calibration_error"}
    for shown in (" ".join(printed(report, 120).split()), markdown(report)):
        assert f"calibration error {mark}" in shown
    page = html(report)
    assert said in page[page.index('<th scope="row">calibration error') :].split("</th>")[0]


def test_the_chinese_page_names_tests_and_charts_in_chinese() -> None:
    report = sample_report()
    report["scores"][0] |= {"metric": "accuracy", "method": "mcnemar-exact|bs:1000"}
    report["scores"][1]["method"] = "approximate-randomisation|ar:10000"
    page = Page(html(report))
    shown = {text.strip() for parts in page.texts.values() for text in parts}
    chinese = {"McNemar 精确检验", "近似随机化检验", "配对自助法检验", "验证集 ROUGE-L", "准确率", "步"}
    assert chinese <= shown and {"McNemar, exact", "approximate randomisation", "validation ROUGE-L", "step"} <= shown
    assert verdicts(report)[0].chinese.startswith("适配器在 准确率 (en) 上优于基座")
    assert verdicts(report)[0].claim.startswith("The adapter beats the base on accuracy (en)")


def test_long_training_is_thinned_and_kept_in_the_panel() -> None:
    steps = [{"step": step, "loss": 1 + 1 / step, "learning_rate": 1e-4} for step in range(1, 20_001)]
    loss, rate = training_plots({"steps": steps, "best_step": 10_000})
    points = [tuple(map(float, pair.split(","))) for pair in loss.line.split()]
    assert len(points) <= 300
    assert all(loss.left <= x <= loss.right and loss.top <= y <= loss.bottom for x, y in points)
    assert points[-1][1] > points[0][1]  # the loss falls, and y grows downwards
    assert loss.best == rate.best == (loss.left + loss.right) / 2


# ---- on disk


def test_round_trip(tmp_path: Path) -> None:
    report = sample_report(HOSTILE)
    page = write(report, tmp_path / "new")
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json", "report.md"]
    assert load(page.parent) == report
    assert "某院四年" in (page.parent / "report.json").read_text("utf-8")
    assert write(load(page.parent), page.parent).read_text("utf-8") == html(report)


def test_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
    write(sample_report(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="JSON compliant"):
        write(sample_report() | {"extra": math.nan}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no report"),
        ("{", "cannot be read"),
        ("[]", "not a report of format 1"),
        ('{"format": 2}', "not a report of format 1"),
        ('{"format": 1, "title": "x"}', "no usable 'created'"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_broken_reports_are_named(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=message):
        load(tmp_path)


def test_report_does_not_import_torch() -> None:
    code = "import sys, llama_tasks.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _bars(report: dict[str, Any]) -> list[int]:
    """The bars of each table line: counted in the source, because a renderer silently drops surplus cells."""
    tables = markdown(report).split("To reproduce")[0]
    return [line.count("|") for line in tables.splitlines() if line.startswith("| ")]


def _prediction(row_id: str) -> dict[str, Any]:
    return {"id": row_id, "lang": "en", "input": {"text": "x"}, "references": ["y"], "prediction": "z"}


def _build(base: System, adapter: System | None, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"task": "t", "command": "c", "comparisons": [], "training": None, "provenance": {}}
    return build(base=base, adapter=adapter, **arguments | changes)


def test_a_chinese_page_counts_rows_and_names_the_general_text_in_chinese() -> None:
    report = sample_report(with_insight=True)
    report["leaks"] = {"checked": True, "of": 300, "rows": 0, "kinds": {}, "first": [], "scores": []}
    page = html(report)
    assert '(300 <span class="en">rows</span><span class="zh" lang="zh">行</span>)' in page
    assert "困惑度" in page
    assert metric_words("bits_per_byte") == ("bits per byte", "每字节比特数")
