"""The table of faults in the documentation names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path


def test_every_row_has_a_test(root: Path) -> None:
    lines = (root / "docs/faults.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| fault |")]
    assert len(rows) > 15
    tests = {path.name: path for path in (root / "tests").rglob("test_*.py")}
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row.rsplit("|", 2)[1])
        assert named, row
        for file, name in named:
            tree = ast.parse(tests[file].read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"
