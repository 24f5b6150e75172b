"""The page of `inspect` in a real browser: its button changes the language under the policy, data of an attacker stays text."""

from __future__ import annotations

from pathlib import Path

from report_sample import HOSTILE
from test_report_page import Browse, browse  # noqa: F401 - a fixture
from tiny import make_rows

from llama_tasks import adapters
from llama_tasks.inspection import gather, page
from llama_tasks.recipe import load_recipe


def test_language_and_hostile_rows(browse: Browse, root: Path, tmp_path: Path) -> None:  # noqa: F811
    rows = [{"document": f"{n} {HOSTILE}", "summary": f"{n} {HOSTILE}"} for n in range(40)]
    data = make_rows(tmp_path / "rows.jsonl", rows)
    held = make_rows(tmp_path / "held.jsonl", [{"document": "It rains.", "summary": HOSTILE}])
    overrides = [f"data.train={data}", f"data.validation={held}", f"data.test={held}", "prompt.max_length=1024"]
    recipe = load_recipe(root / "recipes/summarize.yaml", overrides)
    written = tmp_path / "page.html"
    written.write_text(page(gather(recipe, adapters.load_tokenizer(recipe.base))), encoding="utf-8")
    for code in ("en", "zh"):
        dom = browse(written, f"#ui={code}")
        assert dom.title == "summarize · llama-tasks inspect"
        assert dom.ui == code  # our own script ran under the policy, and no other did
        assert not set(dom.tags) & {"img", "a", "iframe", "object", "link"}
        assert dom.tags.count("script") == 1
