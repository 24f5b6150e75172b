"""Result files of the benchmarks: rows that are added, or measured again, one at a time, so that a table can come in pieces."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "trl", "bitsandbytes", "flash-attn", "liger-kernel")


def save(path: Path | None, row: dict[str, Any], *key: str) -> None:
    """Put the row in the file in place of the one that has the same values under `key`, or behind the others; None: nowhere."""
    if path is None:
        return
    rows = [old for old in load(path) if any(old.get(name) != row[name] for name in key)]
    rows.append({**row, "measured": datetime.now(UTC).date().isoformat(), "with": surroundings()})
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    staged.replace(path)


def load(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where there is no file."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def surroundings() -> dict[str, str]:
    """Versions and processor of a measurement."""
    found = {"processor": processor()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Its name, and what decides which kernels run on it."""
    import torch

    able = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older versions of torch
    kinds = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if able.get(name)]
    return f"{able.get('cpu_name', 'unknown')} ({', '.join(kinds) or able.get('architecture', 'unknown')})"
