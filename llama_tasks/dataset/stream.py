"""Training rows as tokens, a chunk at a time, for data beyond memory.

    rows      r r r r r r r r r r r r r r r r r r r ...       in an order drawn from seed and epoch
    chunks    [ 256 rows ][ 256 rows ][ 256 rows ] ...        encoded by `data.num_workers` processes, taken in order

Imports no torch, so that a worker process starts soon.
"""

from __future__ import annotations

import itertools
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from llama_tasks.clean import Cleaning
from llama_tasks.sources import BadRows, Position, Row, StreamedRow
from llama_tasks.tokens import Encoded, Tokens

CHUNK = 256  # rows that a worker encodes at a time
AHEAD = 4  # chunks a worker has waiting


@dataclass
class Chunk(Encoded):
    """Tokens of some rows of a stream, and what happened to those that gave none.

    Attributes:
        bad: rows that the task could not use.
        cleaning: what was changed in rows, or left out.
    """

    bad: BadRows = field(default_factory=BadRows)
    cleaning: Cleaning = field(default_factory=Cleaning)


@dataclass
class Stream:
    """The training rows as tokens.

    Attributes:
        rows: (epoch, position or None) -> rows, as `stream_rows` gives them.
        encode: rows -> tokens; sent to the workers, so it must be picklable. Raises DataError for what stops a training.
        num_workers: processes that encode; 0: this one does.
        bad: rows set aside so far, where the recipe allows it; counted again in each pass.
        cleaning: what was done to the rows so far, likewise.
        dropped: examples left out because they were too long, so far.
        answer_cut: those of them whose answer shortening would have cut out of the text.
        truncated: examples shortened, so far.
    """

    rows: Callable[[int, Position | None], Iterator[StreamedRow]]
    encode: Callable[[Sequence[Row]], Chunk]
    num_workers: int = 0
    bad: BadRows = field(default_factory=BadRows)
    cleaning: Cleaning = field(default_factory=Cleaning)
    dropped: int = 0
    answer_cut: int = 0
    truncated: int = 0

    def read(self, epoch: int, start: Position | None = None) -> Iterator[tuple[list[Tokens], Position]]:
        """Chunks of tokens from a position on, each with the position behind it; the same for any number of workers."""
        rows = self.rows(epoch, start)
        chunks = iter(lambda: list(itertools.islice(rows, CHUNK)), [])
        for encoded, position in self._in_order(chunks):
            self.dropped += len(encoded.dropped)
            self.answer_cut += len(encoded.answer_cut)
            self.truncated += len(encoded.truncated)
            self.bad.take(encoded.bad)
            self.cleaning.take(encoded.cleaning)
            yield list(encoded.tokens), position

    def _in_order(self, chunks: Iterator[list[StreamedRow]]) -> Iterator[tuple[Chunk, Position]]:
        if not self.num_workers:
            yield from ((self.encode(chunk), chunk[-1].position) for chunk in chunks)
            return
        context = get_context("spawn")  # a forked copy of a process with threads may hang
        with ProcessPoolExecutor(self.num_workers, context, _Worker.begin, (self.encode,)) as pool:
            waiting: deque[tuple[Future[Chunk], Position]] = deque()
            try:
                for chunk in chunks:
                    waiting.append((pool.submit(_Worker.run, [_plain(row) for row in chunk]), chunk[-1].position))
                    if len(waiting) > AHEAD * self.num_workers:
                        yield _result(*waiting.popleft())
                while waiting:
                    yield _result(*waiting.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _plain(row: StreamedRow) -> Row:
    return Row(row.id, row.values, row.where)


def _result(future: Future[Chunk], position: Position) -> tuple[Chunk, Position]:
    return future.result(), position


class _Worker:
    """What a worker process keeps between chunks."""

    encode: Callable[[Sequence[Row]], Chunk]

    @classmethod
    def begin(cls, encode: Callable[[Sequence[Row]], Chunk]) -> None:
        """Called once in each worker. Ctrl-C is the training's to answer: it finishes its step and saves."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        cls.encode = staticmethod(encode)

    @classmethod
    def run(cls, rows: Sequence[Row]) -> Chunk:
        """Encode a chunk."""
        return cls.encode(rows)
