"""Scores and provenance -> one report: a terminal table, Markdown, a self-contained page, and the JSON behind them.

    report = build(task="summarize", command=..., base=System(...), adapter=System(...), ...)
    console.print(terminal(report))
    write(report, run_dir)  # report.json, report.md, report.html

Every text that came from data or from a model goes through `plain` and the escaping of its medium: a report of hostile
rows must be as harmless as any other.
"""

from __future__ import annotations

from llama_tasks.report.as_html import html
from llama_tasks.report.as_markdown import markdown, scores_table
from llama_tasks.report.as_terminal import terminal
from llama_tasks.report.content import TRAINED, System, build
from llama_tasks.report.files import load, write
from llama_tasks.report.text import plain, shorten
from llama_tasks.report.verdict import verdicts

__all__ = [
    "TRAINED",
    "System",
    "build",
    "html",
    "load",
    "markdown",
    "plain",
    "scores_table",
    "shorten",
    "terminal",
    "verdicts",
    "write",
]
