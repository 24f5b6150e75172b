"""Rows as a stream, for data beyond memory: flat memory, exact resume, an order that depends on seed and epoch alone.

The shards of a split come in a shuffled order; each is read in blocks of `data.shuffle_buffer` rows, and the rows of a block in
a shuffled order. Every shuffle is drawn from (seed, epoch, shard, block), so nothing but the place has to be remembered:

    shard order   [2, 0, 1]          drawn from seed, epoch
    shard 2       block 0: 3 1 0 2   block 1: 4 7 6 5   ...      position: in the order's shard 0, 6 rows are behind us

Several workers each take every n-th row, `itertools.islice(stream_rows(...), worker, None, workers)`: in turns, they give the
same rows in the same order as one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from llama_tasks.errors import DataError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources.carving import hash_of, side, text_of
from llama_tasks.sources.files import File, open_raw
from llama_tasks.sources.locate import SPLITS, Shard, limit_of, located, source_of
from llama_tasks.sources.reading import Found, Reader, identified
from llama_tasks.sources.rows import BadRows, Row, Split, canonical, sha256_of

_CARVE_SEED = 42  # not the run's: the rows of a split are the same in all runs
_HEAD = 1 << 20


@dataclass(frozen=True)
class Position:
    """Where a stream goes on.

    Attributes:
        epoch: the pass over the data.
        drawn: rows that came before.
        sources: for each source (with `data.weights` each item of `data.train`, else one) the passes done in this epoch, the
            place in the order of shards, and the rows of that shard that came before.
    """

    epoch: int = 0
    drawn: int = 0
    sources: tuple[tuple[int, int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Position:
        """The Position that `to_json` (and JSON) gave."""
        return cls(values["epoch"], values["drawn"], tuple((a, b, c) for a, b, c in values["sources"]))


@dataclass(frozen=True)
class StreamedRow(Row):
    """A row with the place behind it: hand `position` to `stream_rows` as `start`, and the next row is the next."""

    position: Position = field(default_factory=Position)


def stream_rows(
    data: DataConfig,
    task: str,
    split: str,
    seed: int,
    epoch: int = 0,
    start: Position | None = None,
    *,
    fields: Sequence[str] = (),
    group_by: str = "",
    bad: BadRows | None = None,
    read_as: list[str] | None = None,
) -> Iterator[StreamedRow]:
    """The rows of a split for one epoch; the training rows shuffled, others in their order.

    A split that the source does not have is carved by a hash of `group_by`: the rows that are equal in it (but for case, spaces
    and punctuation) stay on one side. Near duplicates need all rows at hand and are not looked for.

    Args:
        start: a row's position, to go on behind it; its epoch counts then.
        fields: what the task reads of every row, as in `load_splits`.
        bad: gets the rows that are set aside where the recipe allows it, again in each pass.
        read_as: gets the names of the published shapes that are recognised.

    Raises:
        DataError: as `load_splits` does, rows that cannot be used a block at a time; and for a source that gives no row.
    """
    place = start or Position(epoch)
    shards = located(data, task)
    carved = [name for name in SPLITS if name not in shards]
    items = shards.get(split, shards["train"])
    pooled = [shard for part in items.values() for shard in part]
    weighted = split == "train" and data.weights is not None
    seeds = f"{seed}:{place.epoch}" if split == "train" else ""
    reader = Reader(data, task, fields)
    kept = _Side(carved, group_by, split) if carved and split in ("train", *carved) else None
    told = bad or BadRows(data.on_bad_row == "skip")
    names = [] if read_as is None else read_as
    parts = items if weighted else {" ".join(items): pooled}
    sources = [
        _Source(name, part, f"{seeds}:{i}" if seeds else "", reader, told, names, kept, data.shuffle_buffer)
        for i, (name, part) in enumerate(parts.items())
    ]
    weights = [dict(zip(data.train, data.weights or [], strict=True))[item] for item in items] if weighted else [1.0]
    return _draw(sources, weights, seeds, place, split)


def _draw(
    sources: Sequence[_Source], weights: Sequence[float], seeds: str, place: Position, split: str
) -> Iterator[StreamedRow]:
    """Rows of the sources in the shares of their weights, until each was passed once; those that end sooner begin anew."""
    at = list(place.sources) or [(0, 0, 0)] * len(sources)
    drawn, running = place.drawn, [source.rows(place) for source, place in zip(sources, at, strict=True)]
    while True:
        chosen = _choice(weights, f"{seeds}:draw:{drawn}") if len(sources) > 1 else 0
        row_at = next(running[chosen], None)
        if row_at is None:
            if at[chosen][1:] == (0, 0):  # a whole pass, and not a row
                raise sources[chosen].nothing(split)
            at[chosen] = (at[chosen][0] + 1, 0, 0)
            if all(passes for passes, _, _ in at):
                return
            running[chosen] = sources[chosen].rows(at[chosen])
            continue
        row, at[chosen] = row_at
        drawn += 1
        yield StreamedRow(f"{split}:{chosen}:{row.id}", row.values, row.where, Position(place.epoch, drawn, tuple(at)))


def _choice(weights: Sequence[float], key: str) -> int:
    """An index drawn by its weight, the same for the same key."""
    value = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64 * sum(weights)
    for index, weight in enumerate(weights):
        value -= weight
        if value < 0:
            return index
    return len(weights) - 1


@dataclass(frozen=True)
class _Side:
    """Lets the rows of one side of a carved split pass."""

    missing: Sequence[str]
    group_by: str
    split: str

    def of(self, row: Row) -> str:
        from llama_tasks.duplicates import normalised

        return side(hash_of(normalised(text_of(row, self.group_by)), _CARVE_SEED), self.missing)

    def __call__(self, row: Row) -> bool:
        return self.of(row) == self.split


@dataclass(frozen=True)
class _Source:
    """Shards that are read one after the other, in an order and in shuffled blocks drawn from `seeds` (empty: as they stand)."""

    name: str
    shards: Sequence[Shard]
    seeds: str
    reader: Reader
    bad: BadRows
    read_as: list[str]
    kept: Callable[[Row], bool] | None
    block: int

    def rows(self, place: tuple[int, int, int]) -> Iterator[tuple[Row, tuple[int, int, int]]]:
        """The rows from a place on (passes, shard in the order, rows of it that came before), each with the place behind it."""
        passes, first, done = place
        order = list(range(len(self.shards)))
        if self.seeds:
            random.Random(f"{self.seeds}:{passes}").shuffle(order)
        for index in range(first, len(order)):
            for number, row in self._shard(order[index], passes, done if index == first else 0):
                yield row, (passes, index, number + 1)

    def nothing(self, split: str) -> DataError:
        """The error for a source that gave no row."""
        why = ": the carved splits took all; name files in data.validation and data.test" if self.kept else ""
        return DataError(f"{self.name} gives no row of the {split} split{why}.")

    def _shard(self, index: int, passes: int, done: int) -> Iterator[tuple[int, Row]]:
        rows = self.reader.some(self.shards[index], self.bad, self.read_as)
        rows = filter(self.kept, rows) if self.kept else rows
        start = 0
        while block := list(islice(rows, self.block)):
            self.bad.settle()
            order = list(range(len(block)))
            if self.seeds:
                random.Random(f"{self.seeds}:{passes}:{index}:{start}").shuffle(order)
            for offset in range(max(0, done - start), len(block)):
                row = block[order[offset]]
                yield start + offset, Row(f"{index}:{start + order[offset]}", row.values, row.where)
            start += len(block)
        self.bad.settle()


@dataclass
class _Reservoir:
    """A seeded uniform sample of rows that come one after the other (algorithm R); all of them without a limit."""

    limit: int | None
    seen: int = 0
    kept: list[tuple[int, Row]] = field(default_factory=list)
    draw: random.Random = field(default_factory=lambda: random.Random(_CARVE_SEED))

    def add(self, row: Row) -> None:
        """Take a row, or leave it."""
        self.seen += 1
        if self.limit is None or len(self.kept) < self.limit:
            self.kept.append((self.seen, row))
        elif (place := self.draw.randrange(self.seen)) < self.limit:
            self.kept[place] = (self.seen, row)

    def rows(self) -> list[Row]:
        """The sample in the order in which its rows came."""
        return [row for _, row in sorted(self.kept, key=lambda item: item[0])]


def held_out(
    data: DataConfig, reader: Reader, shards: Mapping[str, Mapping[str, Sequence[Shard]]], group_by: str
) -> dict[str, Split]:
    """Validation and test rows beside a stream, no more than asked for at any time; carved ones of both in one pass."""
    carved = [name for name in SPLITS if name not in shards]
    side_of = _Side(carved, group_by, "").of
    samples = {name: _Reservoir(limit_of(data, name)) for name in SPLITS[1:]}
    told = {}
    for source in [*(name for name in samples if name in shards), *(["train"] if carved else [])]:
        found = told[source] = Found(bad=BadRows(data.on_bad_row == "skip"))
        for row in reader.every(shards[source], found):
            name = side_of(row) if source == "train" else source
            if name in samples:
                samples[name].add(row)
        found.bad.settle()
    splits = {}
    for name, sample in samples.items():
        if not sample.kept:
            raise DataError(f"The stream is too short to carve a {name} split from; name a file in data.{name}.")
        rows = list(identified(sample.rows(), name))
        about = told.pop(name if name in told else "train", Found())  # the first of two carved splits tells for both
        splits[name] = Split(rows, source_of(data, name), sha256_of(rows), tuple(about.read_as), about.bad)
    return splits


def describe_stream(data: DataConfig, task: str, split: str = "train") -> dict[str, Any]:
    """Provenance of a stream without reading it whole: its shards, and a SHA-256 of their names, sizes and first MiB."""
    found = located(data, task)
    shards = [shard for part in found.get(split, found["train"]).values() for shard in part]
    digest = hashlib.sha256()
    size = 0
    for shard in shards:
        if isinstance(shard.source, File):
            with open_raw(shard.source) as stream:
                digest.update(canonical([shard.source.base]) + stream.read(_HEAD))
                size += stream.seek(0, 2)
        else:
            digest.update(canonical([shard.name, data.revision]))
        digest.update(canonical(size))
    return {"shards": len(shards), "bytes": size, "source": source_of(data, split), "sha256": digest.hexdigest()}
