"""adapter_config.json as it is saved and published: the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_UNORDERED = ("exclude_modules", "modules_to_save", "target_modules")  # peft keeps these as sets


def normalise_adapter_config(folder: Path, base_model: str, revision: str | None) -> None:
    """Rewrite `adapter_config.json`: the base by Hub id and commit, sorted, the same bytes every time.

    peft writes the path it was given as the base, no revision, and lists in the order of a set.
    """
    normal = normal_form(read_adapter_config(folder), base_model, revision)
    (folder / "adapter_config.json").write_text(normal, encoding="utf-8")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The file of a folder. Raises ValueError where it is no JSON object."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError("adapter_config.json is no JSON object")
    return config


def normal_form(config: dict[str, Any], base_model: str, revision: str | None) -> str:
    """Its text with the base by name and commit, keys and unordered lists sorted."""
    config = dict(config, base_model_name_or_path=base_model, revision=revision, auto_mapping=None)
    for key in _UNORDERED:
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
