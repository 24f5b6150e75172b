"""Memory and time of the inspection (audit included) over a generated file, beyond what the rows themselves take.

    python bench/inspect_memory.py            # 100,000 and 1,000,000 rows, each in a process of its own; some minutes
    python bench/inspect_memory.py 20000

The rows stay in the file and are read as they are asked for, so the peak is that of the inspection.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from llama_tasks import adapters, tasks
from llama_tasks.inspection.gathering import look
from llama_tasks.recipe import BaseConfig, Recipe
from llama_tasks.sources import Row, Split

HELD_OUT = 2000  # rows of the validation and of the test split


class Lines(Sequence[Row]):
    """Rows of a .jsonl file, read when they are asked for."""

    def __init__(self, path: Path, split: str) -> None:
        self.path, self.split = path, split
        self.starts = array("Q", [0])
        with path.open("rb") as file:
            for line in file:
                self.starts.append(self.starts[-1] + len(line))
        self.file = path.open("rb")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        self.file.seek(self.starts[index])
        return Row(f"{self.split}:{index}", json.loads(self.file.readline()), f"{self.path.name}:{index + 1}")


def rows(start: int, count: int) -> Iterator[dict[str, str]]:
    """Rows that all differ; every thousandth repeats the one before."""
    for n in range(start, start + count):
        n -= n % 1000 == 999
        yield {
            "document": f"{n} people came to town {n % 977} on day {n % 365}. They bought {n * 7 % 1013} apples and sang song {n}.",
            "summary": f"{n} people bought apples.",
            "lang": "en",
        }


def measure(count: int) -> None:
    """Inspect a file of `count` training rows and print seconds and peak memory."""
    tokenizer = adapters.load_tokenizer(BaseConfig())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        splits = {}
        for name, start, size in (("train", 0, count), ("validation", count, HELD_OUT), ("test", count * 2, HELD_OUT)):
            path = Path(folder, f"{name}.jsonl")
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows(start, size))
            splits[name] = Split(Lines(path, name), path.name, "")  # type: ignore[arg-type]
        size = Path(folder, "train.jsonl").stat().st_size / 2**20
        began, cpu = time.perf_counter(), time.process_time()
        found = look(Recipe("summarize"), tokenizer, tasks.create("summarize"), [], splits)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {"rows": count, "file_mb": round(size), "before_mb": round(before), "peak_mb": round(peak),
              "added_mb": round(peak - before), "seconds": round(seconds), "cpu_seconds": round(cpu),
              "repeats": {how: match.total for how, match in found.report.repeats.items()}}  # fmt: skip
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]))
    else:
        for count in map(int, sys.argv[1:] or ("100000", "1000000")):
            subprocess.run([sys.executable, __file__, "--one", str(count)], check=True)
