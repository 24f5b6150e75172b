"""A report on disk: `report.json` is the truth, `report.md` and `report.html` are drawn from it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_tasks.errors import RunError
from llama_tasks.report.as_html import html
from llama_tasks.report.as_markdown import markdown
from llama_tasks.report.content import FORMAT, System

_REQUIRED = {"title": str, "created": str, "command": str, "scores": list, "counts": dict, "sample": dict}
_REQUIRED |= {"examples": list, "regressions": list, "provenance": dict}


def write(report: dict[str, Any], run_dir: str | Path, systems: Sequence[System] = ()) -> Path:
    """Write report.json, report.md and report.html, each whole or not at all; returns the path of the page, which holds all
    rows of `systems`."""
    texts = {
        "report.json": json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        "report.md": markdown(report),
        "report.html": html(report, systems),
    }
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        _replace(folder / name, text)
    return folder / "report.html"


def load(run_dir: str | Path) -> dict[str, Any]:
    """Read report.json of a run; RunError where it is missing, broken or of a format this version does not know."""
    path = Path(run_dir) / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"There is no report in {path.parent}; run `llama-tasks evaluate` on it first.") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); evaluate the run again to write it anew.") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise RunError(f"{path} is not a report of format {FORMAT}; use the version of llama-tasks that wrote it.")
    for key, kind in _REQUIRED.items():
        if not isinstance(report.get(key), kind):
            raise RunError(f"{path} has no usable {key!r}; evaluate the run again to write it anew.")
    return report


def _replace(path: Path, text: str) -> None:
    """Write beside the target and rename, so that a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
