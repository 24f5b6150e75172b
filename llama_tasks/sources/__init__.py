"""Where rows come from: local files, fsspec URLs, Hub datasets at a pinned revision, the embedded samples.

Files are read by small readers of our own wherever the usual ones change data silently (a date-like string becomes a timestamp,
a missing field becomes None); Parquet, Arrow and the Hub are read by pyarrow and `datasets`. Every complaint names file, line,
field and what to do, and all bad rows are told at once.

    files.py       bytes and lines, compression, limits        locate.py   an item of the recipe -> shards of each split
    readers.py     one format each -> rows                     splits.py   train, validation and test rows
    json_items.py  strict JSON                                 carving.py  a split that the source does not have
    shapes.py      published shapes -> the task's fields       stream.py   the same beyond memory
    reading.py     shards -> rows that a task can use          rows.py     Row, Split, bad rows
    hub.py         datasets of the Hub                         load.py     single files, the Hub's revision
    agreement.py   answers to their passage, labels to their set
"""

from __future__ import annotations

from llama_tasks.sources.load import pin, read_file, read_to_predict, rename
from llama_tasks.sources.locate import SPLITS
from llama_tasks.sources.readers import DOCUMENT_END
from llama_tasks.sources.rows import BadRow, BadRows, Row, Split, notes
from llama_tasks.sources.splits import load_split, load_splits
from llama_tasks.sources.stream import Position, StreamedRow, describe_stream, stream_rows

__all__ = [
    "DOCUMENT_END", "SPLITS", "BadRow", "BadRows", "Position", "Row", "Split", "StreamedRow", "describe_stream",
    "load_split", "load_splits", "notes", "pin", "read_file", "read_to_predict", "rename", "stream_rows",
]  # fmt: skip
