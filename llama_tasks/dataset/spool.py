"""Prompts on the disk, for more of them than memory should hold: made once, read again by their place."""

from __future__ import annotations

import json
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, overload

from llama_tasks.prompts import Prompt
from llama_tasks.tasks import Example
from llama_tasks.tasks.base import Turn


class Spool(Sequence[Prompt]):
    """A sequence of prompts in an unnamed file of `folder` (or of the system's for temporary files); memory holds eight bytes for
    each, and each text that all share once."""

    def __init__(self, prompts: Iterable[Prompt], folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  it lasts as long as the sequence
        weakref.finalize(self, self._file.close)
        self._starts, end = array("Q"), 0
        self._shared: dict[tuple[str, str, str, str], int] = {}
        for prompt in prompts:
            shared = (prompt.template, prompt.main_field, prompt.system, prompt.fewshot)
            number = self._shared.setdefault(shared, len(self._shared))
            self._starts.append(end)
            end += self._file.write(json.dumps([number, prompt.where, asdict(prompt.example)]).encode() + b"\n")
        self._texts = list(self._shared)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        self._file.seek(self._starts[index])
        number, where, example = json.loads(self._file.readline())
        template, main_field, system, fewshot = self._texts[number]
        return Prompt(_example(example), template, main_field, system, fewshot, where)


def _example(fields: dict[str, Any]) -> Example:
    """From JSON, which knows lists alone."""
    tuples = {name: tuple(fields[name]) for name in ("references", "choices", "spans")}
    return Example(**{**fields, **tuples, "turns": tuple(Turn(**turn) for turn in fields["turns"])})
