"""Weights on the disk are what they were: files cut short are seen by their header, other damage where a hash is known.

Hashes are known for what the Hub's cache names by its SHA-256, and for whatever a run wrote down when it began (the base)
or ended (what it trained).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from transformers.utils import cached_file

from llama_tasks import files
from llama_tasks.errors import ModelError
from llama_tasks.recipe import BaseConfig
from llama_tasks.tokens.tokenizer import where_is

TRAINED = "trained.json"  # in a run directory: SHA-256 of the trained weights
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_base(base: BaseConfig, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """SHA-256 of every weight file of the base, those of `known` (file name -> hash) and of the Hub's cache compared.

    Returns nothing for a base that is made anew or not yet downloaded.

    Raises:
        ModelError: a file is cut short or changed; it is named.
    """
    folder = None if base.config is not None else folder_of(base)
    if folder is None:
        return {}
    cure = "copy the base again" if Path(where_is(base.model)).is_dir() else "delete it, and it is downloaded again"
    return check(folder, known or {}, cure)


def check_trained(run: Path, folder: Path) -> None:
    """Compare what a run trained with what it wrote down at its end. Raises ModelError, naming the file."""
    check(folder, _written_down(run), "finish the run again with `llama-tasks finetune ... --resume`")


def of_trained(run: Path, folder: Path) -> dict[str, str]:
    """SHA-256 of what a run trained, for whoever has had it compared: as the run wrote it down, else by reading the files."""
    return _written_down(run) or check(folder, {}, "train it again")


def _written_down(run: Path) -> dict[str, str]:
    path = run / TRAINED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def check(folder: Path, known: Mapping[str, str], cure: str) -> dict[str, str]:
    """SHA-256 of every .safetensors file of a folder. Raises ModelError for one that is cut short, missing or changed."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if not _is_complete(path):
            raise ModelError(
                f"{path} is cut short or damaged: its header does not fit its {path.stat().st_size:,} bytes; {cure}."
            )
        found[path.name] = files.sha256(path)
        stored = path.resolve().name  # the Hub's cache stores a file under its hash and links to it
        expected = known.get(path.name, stored if _SHA256.fullmatch(stored) else found[path.name])
        if found[path.name] != expected:
            raise ModelError(f"{path} is damaged or was changed (its SHA-256 is not the one it had before); {cure}.")
    missing = sorted(known.keys() - found.keys())
    if missing:
        raise ModelError(f"{folder / missing[0]} is missing; {cure}.")
    return found


def _is_complete(path: Path) -> bool:
    """Whether a safetensors file ends where its header (8 bytes of length, then JSON with offsets) says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if len(first) < 8 or struct.unpack("<Q", first)[0] > size - 8:
            return False
        length = struct.unpack("<Q", first)[0]
        try:
            header = json.loads(file.read(length))
            ends = [about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
    return size == 8 + length + max(ends, default=0)


def folder_of(base: BaseConfig) -> Path | None:
    """Where the base's files lie, or None for one that is not on this machine."""
    place = where_is(base.model)
    if Path(place).is_dir():
        return Path(place)
    try:
        found = cached_file(place, "config.json", revision=base.revision, local_files_only=True)
    except (OSError, ValueError):
        return None
    return Path(found).parent if found else None
