"""The data half of a run, station by station, in memory or as a stream.

stations.py   recipe -> rows -> Examples -> Prompts -> Tokens     streaming.py     the same, a row at a time
stream.py     tokens in chunks, made by worker processes          token_cache.py   tokens kept for the next run
spool.py      prompts on the disk
"""

from __future__ import annotations

from llama_tasks.dataset.stations import (
    SPLIT_SEED,
    Dataset,
    assemble,
    draw_fewshot,
    for_prediction,
    for_scoring,
    make_renderer,
    make_task,
    prepare,
    read,
    render_all,
    to_score,
)

__all__ = [
    "SPLIT_SEED",
    "Dataset",
    "assemble",
    "draw_fewshot",
    "for_prediction",
    "for_scoring",
    "make_renderer",
    "make_task",
    "prepare",
    "read",
    "render_all",
    "to_score",
]
