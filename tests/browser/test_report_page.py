"""The page in a real browser: data of an attacker stays text, and our own script finds rows."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_sample import HOSTILE, sample_report, sample_systems

from llama_tasks.evaluation import systems
from llama_tasks.explain import Explanation
from llama_tasks.inspection.pieces import Piece, visible
from llama_tasks.report import comparison, plain, write
from llama_tasks.report.as_html import script_hash

QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]

PAINT = """
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (entry.name === "first-contentful-paint") document.title = entry.startTime;
}).observe({ type: "paint", buffered: true });
"""


class Dom(HTMLParser):
    """Title, tags, the language of the labels, what the list of rows says of itself, and its rows: their number and texts."""

    def __init__(self, dump: str) -> None:
        super().__init__()
        self.title = self.status = self.ui = self.ready = ""
        self.tags: list[str] = []
        self.rows: list[int] = []
        self.texts: dict[str, str] = {}
        self._inside: list[str] = []
        self.feed(dump)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self._inside.append(tag)
        self.ui = found.get("data-ui") or self.ui
        self.ready = found.get("data-ready") or self.ready
        if "data-row" in found:
            self.rows.append(int(found["data-row"] or 0))

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["title"] and "svg" not in self._inside:
            self.title += data
        if "output" in self._inside:
            self.status += data
        for tag in self._inside[-1:]:
            self.texts[tag] = self.texts.get(tag, "") + data


Browse = Callable[..., Dom]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """`browse(page, "#q=term")` -> the document as it stands after its scripts ran."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not on the PATH")

    def run(page: Path, fragment: str = "", options: Sequence[str] = (), real_time: bool = False) -> Dom:
        waits = [] if real_time else ["--virtual-time-budget=20000"]
        options = [*QUIET, *options, *waits, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        done = subprocess.run(
            [chromium, *options, page.as_uri() + fragment], capture_output=True, timeout=120, check=True
        )
        return Dom(done.stdout.decode("utf-8"))

    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it, and 400 rows."""
    return write(sample_report(with_insight=True), tmp_path_factory.mktemp("run"), sample_systems(count=400))


def test_hostile_data_runs_nothing(browse: Browse, tmp_path: Path) -> None:
    report = sample_report(HOSTILE, with_insight=True)
    dom = browse(write(report, tmp_path / "run", sample_systems(HOSTILE, 4)), "#ui=en")
    assert dom.title == f"{plain(HOSTILE)} · llama-tasks report"
    assert not set(dom.tags) & {"img", "a", "iframe", "object", "link"}
    assert dom.tags.count("script") == 1
    assert dom.ready == "yes"  # our own script ran under the policy
    assert dom.rows == list(range(7))
    assert '<script>document.title="owned"</script>' in dom.texts["div"]


def test_rows_come_as_they_are_needed_and_are_found_and_sorted(browse: Browse, page: Path) -> None:
    opened = browse(page, "#ui=en")
    assert opened.status.startswith("400 of 400 rows")
    assert opened.rows == list(range(len(opened.rows))) and 0 < len(opened.rows) < 400
    found = browse(page, "#ui=en&q=%E8%8B%B9%E6%9E%9C")  # apple, in Chinese
    assert found.status.startswith("66 of 400 rows")
    assert all(row % 6 == 5 for row in found.rows)
    assert browse(page, "#ui=en&q=PASSPORT&lang=zh").rows == []
    fallen = browse(page, "#ui=en&sort=fall&answer=losses")
    assert fallen.status.startswith("44 of 400 rows")
    assert fallen.rows == sorted(fallen.rows) and all(row % 9 == 4 for row in fallen.rows)
    assert browse(page, "#answer=failure:empty&lang=en").rows[:3] == [2, 8, 14]


def test_a_search_reads_the_texts_alone(browse: Browse, tmp_path: Path) -> None:
    """Neither how the rows are kept, nor their language, nor the names of fields."""
    texts = ["a [bracket]", 'a "quotation"', "over\nnonce", "plain"]
    rows = [{"id": f"test:{at}", "lang": "en", "input": {"document": text}, "references": ["x"], "prediction": "y"}
            for at, text in enumerate(texts)]  # fmt: skip
    sides = [systems.Side(name, rows) for name in ("a", "b")]
    found = systems.compare(sides, ["chrf"], n_resamples=5)
    written = tmp_path / "compared.html"
    written.write_text(comparison.page(found.result, found.systems), encoding="utf-8")
    for term, hits in (
        ("%5B", [0]),
        ("%22quo", [1]),
        ("nonce", [2]),
        ("nnonce", []),
        ("en", []),
        ("docu", []),
        ("test:3", [3]),
    ):
        assert browse(written, f"#q={term}").rows == hits, term


def test_differences_are_marked(browse: Browse, page: Path) -> None:
    dom = browse(page, "#q=tired&lang=en")
    assert "tired" in dom.texts["mark"] and "knock" in dom.texts["mark"]
    assert "neighbours" not in dom.texts["mark"]  # it stands in the reference


def test_labels_in_chinese(browse: Browse, page: Path) -> None:
    dom = browse(page, "#ui=zh")
    assert dom.ui == "zh"
    assert "所有语言" in dom.texts["option"] and "all languages" not in dom.texts["option"]
    assert "适配器在 ROUGE-L (en) 上优于基座 23.3" in dom.texts["span"]


def test_a_phone_is_wide_enough(browse: Browse, page: Path, tmp_path: Path) -> None:
    """Nothing but the matrices, which scroll by themselves, is wider than a screen of 390 pixels."""
    framed = tmp_path / "phone.html"
    probe = "<script>onload=()=>{document.title=frames[0].document.documentElement.scrollWidth}</script>"
    framed.write_text(f'<title></title><iframe src="{page.as_uri()}" width="390" height="800"></iframe>{probe}')
    assert int(browse(framed, options=["--allow-file-access-from-files"]).title) <= 390


def test_a_comparison_of_hostile_rows(browse: Browse, tmp_path: Path) -> None:
    rows = [{"id": str(at), "lang": "en", "references": [f"{HOSTILE} {at}"], "input": {HOSTILE: HOSTILE},
             "prediction": HOSTILE * (at % 2), "meta": {HOSTILE: HOSTILE[: 20 + at % 2]}} for at in range(24)]  # fmt: skip
    sides = [systems.Side(HOSTILE, rows), systems.Side("b", [row | {"prediction": "b"} for row in rows])]
    found = systems.compare(sides, ["chrf"], n_resamples=20)
    written = tmp_path / "compared.html"
    written.write_text(comparison.page(found.result, found.systems), encoding="utf-8")
    dom = browse(written, "#ui=zh&sort=value")
    assert (dom.ui, dom.ready) == ("zh", "yes")
    assert dom.title.endswith("llama-tasks compare") and len(dom.rows) == 24
    assert not set(dom.tags) & {"img", "a", "iframe"} and dom.tags.count("script") == 1


def test_an_explanation_of_a_hostile_row(browse: Browse, tmp_path: Path) -> None:
    words = [HOSTILE, " said", " so"]
    pieces = [Piece(visible(text.encode()), (at,), False, False) for at, text in enumerate(words)]
    weights = {
        "input_x_gradient": [[0.5, -0.25, 0, 0], [0.1, 0.75, 0.5, 0]],
        "attention_rollout": [[0.9, 0.1, 0, 0]] * 2,
    }
    found = Explanation(f"test:{HOSTILE}", "en", HOSTILE, pieces[:2], [*pieces[2:], pieces[0]], weights)
    written = tmp_path / "explained.html"
    written.write_text(found.page(), encoding="utf-8")
    whole = browse(written, "#ui=en")
    assert not set(whole.tags) & {"img", "a", "iframe"} and whole.tags.count("script") == 1
    assert (whole.ready, whole.texts["li"].split()) == ("yes", ["0.600", "0.500"])  # sums over the output
    assert browse(written, "#token=0&method=attention_rollout").texts["li"].split() == [
        "0.900",
        "0.100",
        "0.000",
        "0.000",
    ]


def test_a_hundred_thousand_rows(
    browse: Browse, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The page of 100,000 rows opens with the first of them; its size and times are told, not judged."""
    began = time.perf_counter()
    page = write(sample_report(), tmp_path / "run", sample_systems(count=100_000))
    record_property("write_s", round(time.perf_counter() - began, 1))
    record_property("page_mb", round(page.stat().st_size / 1e6, 1))
    timed = page.with_name("timed.html")
    script = script_hash(PAINT)
    text = page.read_text(encoding="utf-8").replace("script-src ", f"script-src 'sha256-{script}' ", 1)
    timed.write_text(text.replace("</body>", f"<script>{PAINT}</script></body>"), encoding="utf-8")
    # A busy machine may hand the page over before its first paint, with the title that it had.
    record_property("first_paint_ms", browse(timed, real_time=True).title)
    dom = browse(page, "#ui=en")
    assert dom.status.startswith("100,000 of 100,000 rows")
    assert 0 < len(dom.rows) < 400
