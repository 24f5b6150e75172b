"""An encoder that worker processes can import: tokens that tell their row, so that no tokenizer is needed to see the order."""

from __future__ import annotations

from collections.abc import Sequence

from llama_tasks.dataset.stream import Chunk
from llama_tasks.errors import DataError
from llama_tasks.sources import Row
from llama_tasks.tokens import Tokens


def encode(rows: Sequence[Row]) -> Chunk:
    """The digits of each row's field `n`; row 13 is dropped."""
    tokens = [Tokens(row.values["n"], [3, 4, *(int(digit) + 5 for digit in row.values["n"]), 2], 2) for row in rows]
    return Chunk([item for item in tokens if item.id != "13"], dropped=["13" for item in tokens if item.id == "13"])


def refuse(rows: Sequence[Row]) -> Chunk:
    """Fails for all rows."""
    raise DataError("no row is good")
