"""The page in a real browser: data of an attacker stays text, and our own script finds rows."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_sample import HOSTILE, sample_report

from llama_tasks.report import plain, write

QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]


class Dom(HTMLParser):
    """Title, tags, the language of the labels, and of each example row its language and whether it is hidden."""

    def __init__(self, dump: str) -> None:
        super().__init__()
        self.title = self.status = self.ui = ""
        self.tags: list[str] = []
        self.rows: list[tuple[str | None, bool]] = []
        self._inside: list[str] = []
        self._table = ""
        self.feed(dump)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self._inside.append(tag)
        self.ui = found.get("data-ui") or self.ui
        if tag == "table":
            self._table = found.get("id") or ""
        if tag == "tr" and self._table == "examples" and "data-lang" in found:
            self.rows.append((found["data-lang"], "hidden" in found))

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["title"] and "svg" not in self._inside:
            self.title += data
        if self._inside[-1:] == ["output"]:
            self.status += data

    @property
    def shown(self) -> list[str | None]:
        return [lang for lang, hidden in self.rows if not hidden]


Browse = Callable[..., Dom]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """`browse(page, "#q=term")` -> the document as it stands after its scripts ran."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not on the PATH")

    def run(page: Path, fragment: str = "") -> Dom:
        options = [*QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        done = subprocess.run(
            [chromium, *options, page.as_uri() + fragment], capture_output=True, timeout=120, check=True
        )
        return Dom(done.stdout.decode("utf-8"))

    return run


def test_hostile_data_runs_nothing(browse: Browse, tmp_path: Path) -> None:
    dom = browse(write(sample_report(HOSTILE), tmp_path / "run"))
    assert dom.title == f"{plain(HOSTILE)} · llama-tasks report"
    assert not set(dom.tags) & {"img", "a", "iframe", "object", "link"}
    assert dom.tags.count("script") == 1
    assert dom.status == f"{len(dom.rows)} of {len(dom.rows)} rows"  # our own script ran under the policy


def test_search_and_language_filter(browse: Browse, tmp_path: Path) -> None:
    page = write(sample_report(), tmp_path / "run")
    found = browse(page, "#q=%E8%8B%B9%E6%9E%9C")  # apple, in Chinese
    assert 0 < len(found.shown) < len(found.rows)
    assert set(found.shown) == {"zh"}
    assert found.status == f"{len(found.shown)} of {len(found.rows)} rows"
    both = browse(page, "#q=PASSPORT&lang=zh")
    assert both.shown == []
