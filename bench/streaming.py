"""Ten million generated rows through the stream, in flat memory: read, encoded, planned into batches, counted.

    python bench/streaming.py --rows 10000000 --output bench/results/streaming.json

Writes the rows to JSON Lines files in a temporary folder (about 60 bytes a row), and reads one epoch of the text task with the
embedded tokenizer, as `data.streaming: true` does. Prints rows a second and resident memory at the start and at 10, 50 and 100%.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_tasks import adapters, tasks
from llama_tasks.dataset.stream import Stream
from llama_tasks.dataset.streaming import RowEncoder
from llama_tasks.packing.stream_plan import StreamPlan
from llama_tasks.prompts import Renderer
from llama_tasks.recipe import BaseConfig, DataConfig, PromptConfig, TrainConfig
from llama_tasks.sources import stream_rows
from llama_tasks.tokens import Encoder
from llama_tasks.tokens.audit import Audit

SHARD = 500_000
MARKS = (0.1, 0.5, 1.0)


def main() -> None:
    """Write, read, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), arguments.rows)
        result = flow(Path(folder), arguments.rows, arguments.num_workers)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def write_rows(folder: Path, count: int) -> None:
    """Rows of one short sentence each, in shards."""
    for first in range(0, count, SHARD):
        with (folder / f"{first:010}.jsonl").open("w", encoding="utf-8") as file:
            names = range(first, min(first + SHARD, count))
            file.writelines(f'{{"text": "Anna has {n} apples."}}\n' for n in names)


def flow(folder: Path, count: int, workers: int) -> dict[str, Any]:
    """One epoch of the stream's plan; speed and memory at the marks."""
    files = sorted(str(path) for path in folder.iterdir())
    data = replace(DataConfig(), train=files, validation=files[:1], test=files[:1], streaming=True)
    task = tasks.create("text")
    encoder = Encoder(adapters.load_tokenizer(BaseConfig()), PromptConfig())
    stream = Stream(
        functools.partial(stream_rows, data, "text", "train", 42),
        RowEncoder(task, Renderer(task), encoder, Audit(encoder, is_text=True)),
        workers,
    )
    plan = StreamPlan(stream, TrainConfig(max_steps=2**62), 1)
    began, seen, tokens, batches = time.perf_counter(), 0, 0, 0
    marks = [{"share": 0.0, "rows": 0, "seconds": 0.0, "resident_mib": resident_mib()}]
    print(marks[0], flush=True)
    left = [round(share * count) for share in MARKS]
    for step in plan.read(0, {}):
        seen += sum(len(batch) for batch in step.batches)
        tokens += sum(family.num_tokens for batch in step.batches for family in batch)
        batches += len(step.batches)
        if seen >= left[0]:
            seconds = time.perf_counter() - began
            marks.append(
                {
                    "share": round(seen / count, 3),
                    "rows": seen,
                    "seconds": round(seconds, 1),
                    "resident_mib": resident_mib(),
                }
            )
            print(marks[-1], flush=True)
            if seen == left.pop(0) == count:
                break
    fill = tokens / (batches * plan.config.tokens_per_batch)
    rate = seen / (time.perf_counter() - began)
    result = {
        "rows": seen,
        "tokens": tokens,
        "workers": workers,
        "rows_per_second": round(rate),
        "fill": round(fill, 4),
        "marks": marks,
    }
    print({key: result[key] for key in ("rows", "rows_per_second", "fill")})
    return result


def resident_mib() -> float:
    """Memory of this process that is in RAM now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 2**20, 1)


if __name__ == "__main__":
    main()
