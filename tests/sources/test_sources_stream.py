"""Streams: every row once, the order from seed and epoch alone, exact resume, any number of workers, flat memory."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import pytest

from llama_tasks.errors import DataError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import BadRows, Position, describe_stream, load_splits, stream_rows

FIELDS = ("text", "label")


def write(path: Path, texts: list[str]) -> str:
    content = "".join(json.dumps({"text": text, "label": "x"}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Three shards of 23, 50 and 7 rows, blocks of 10."""
    sizes = {"a.jsonl": 23, "b.jsonl.gz": 50, "c.jsonl": 7}
    train = [write(tmp_path / name, [f"{name[0]}{i}" for i in range(size)]) for name, size in sizes.items()]
    held = [write(tmp_path / "held.jsonl", ["h0", "h1", "h2"])]
    return DataConfig(train=train, validation=held, test=held, streaming=True, shuffle_buffer=10)


def stream(data: DataConfig, epoch: int = 0, start: Position | None = None, seed: int = 1, split: str = "train"):
    return stream_rows(data, "classify", split, seed, epoch, start, fields=FIELDS, group_by="text")


def texts(rows) -> list[str]:
    return [row.values["text"] for row in rows]


def test_every_row_once_in_an_order_of_seed_and_epoch(data: DataConfig) -> None:
    first = list(stream(data))
    assert Counter(texts(first)) == Counter(
        [f"{name}{i}" for name, size in (("a", 23), ("b", 50), ("c", 7)) for i in range(size)]
    )
    assert len({row.id for row in first}) == 80
    assert texts(stream(data)) == texts(first)
    assert texts(stream(data, epoch=1)) != texts(first) != texts(stream(data, seed=2))
    assert {row.id: row.values["text"] for row in stream(data, epoch=1)} == {
        row.id: row.values["text"] for row in first
    }
    assert texts(stream(data, split="validation")) == ["h0", "h1", "h2"]


def test_rows_are_shuffled_within_blocks_and_shards_among_each_other(data: DataConfig) -> None:
    orders = {"".join(dict.fromkeys(text[0] for text in texts(stream(data, epoch)))) for epoch in range(12)}
    assert len(orders) > 2
    numbers = [int(text[1:]) for text in texts(stream(data)) if text[0] == "b"]
    assert numbers[:10] != sorted(numbers[:10]) and sorted(numbers[:10]) == list(range(10))


@pytest.mark.parametrize("weights", [None, [3.0, 1.0, 1.0]])
def test_resume_at_every_row(data: DataConfig, weights: list[float] | None) -> None:
    data = replace(data, weights=weights)
    whole = list(stream(data, epoch=4))
    for i, row in enumerate(whole):
        place = Position.from_json(json.loads(json.dumps(row.position.to_json())))
        assert place.epoch == 4 and place.drawn == i + 1
        rest = list(islice(stream(data, start=place), 5))
        assert [(r.id, r.values, r.position) for r in rest] == [
            (r.id, r.values, r.position) for r in whole[i + 1 : i + 6]
        ]
    assert len(list(stream(data, start=whole[40].position))) == len(whole) - 41


def test_weights_mix_until_no_row_is_left_out(data: DataConfig) -> None:
    rows = texts(stream(replace(data, weights=[1.0, 1.0, 2.0])))
    counts = Counter(text[0] for text in rows)
    assert {text for text in rows if text[0] == "b"} == {f"b{i}" for i in range(50)}
    assert 0.35 < counts["c"] / len(rows) < 0.65
    assert 0.15 < counts["a"] / len(rows) < 0.35
    assert rows == texts(stream(replace(data, weights=[1.0, 1.0, 2.0])))


@pytest.mark.parametrize("content", ["", '{"text": null, "label": "x"}\n'])
@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 1.0]])
def test_a_source_without_rows_is_an_error(data: DataConfig, weights: list[float] | None, content: str) -> None:
    Path(data.train[2]).write_text(content)
    with pytest.raises(DataError, match=r"c\.jsonl has no (usable )?rows"):
        list(stream(replace(data, weights=weights, on_bad_row="skip")))


def test_a_source_that_the_carved_splits_take_whole_is_an_error(tmp_path: Path) -> None:
    whole = DataConfig(train=[write(tmp_path / "a.jsonl", [f"a{i}" for i in range(50)])], streaming=True)
    taken = load_splits(whole, "classify", "text", 42, FIELDS)["test"].rows[0].values["text"]
    other = write(tmp_path / "b.jsonl", [taken] * 3)
    for data in (
        replace(whole, train=[other]),
        replace(whole, train=[*whole.train, other], weights=[1.0, 1.0]),
    ):
        with pytest.raises(DataError, match=r"b\.jsonl gives no row of the train split: the carved splits took all"):
            list(stream(data))
    assert len(list(stream(replace(whole, train=[*whole.train, other])))) == len(list(stream(whole)))


def _part(data: DataConfig, worker: int, workers: int) -> list[str]:
    return texts(islice(stream(data), worker, None, workers))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_rows_in_the_same_order(data: DataConfig, workers: int) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_part, [data] * workers, range(workers), [workers] * workers))
    assert [parts[i % workers][i // workers] for i in range(80)] == texts(stream(data))


def test_carved_sides_of_a_stream(tmp_path: Path) -> None:
    rows = [f"Text {i}." for i in range(400)] + [f"text {i}!" for i in range(400)]
    data = DataConfig(train=[write(tmp_path / "a.jsonl", rows)], streaming=True)
    held = load_splits(data, "classify", "text", 42, FIELDS)
    assert set(held) == {"validation", "test"}
    sides = {name: [row.values["text"] for row in split.rows] for name, split in held.items()}
    sides["train"] = texts(stream(data))
    assert sum(map(len, sides.values())) == 800
    numbers = {name: {text.strip(".!").split()[1] for text in part} for name, part in sides.items()}
    assert not (numbers["train"] & numbers["test"] or numbers["train"] & numbers["validation"])
    assert 40 < len(sides["test"]) < 120
    few = load_splits(replace(data, max_test_samples=5), "classify", "text", 42, FIELDS)["test"]
    assert len(few.rows) == 5 and {row.values["text"] for row in few.rows} <= set(sides["test"])


@pytest.mark.parametrize("carved", [True, False])
def test_held_out_rows_are_a_sample_that_tells_what_was_set_aside(tmp_path: Path, carved: bool) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"sentence": f"Text {i}.", "label": "x"} for i in range(1000)] + [{"sentence": None, "label": "x"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    named = {} if carved else {"validation": [str(path)], "test": [str(path)]}
    data = DataConfig(train=[str(path)], streaming=True, on_bad_row="skip", max_test_samples=20, **named)
    held = load_splits(data, "classify", "text", 42, FIELDS)
    places = [int(row.values["text"].strip(".").split()[1]) for row in held["test"].rows]
    assert len(places) == 20 and places == sorted(places)
    assert places[0] < 300 and places[-1] > 700
    assert held == load_splits(data, "classify", "text", 42, FIELDS)
    assert held["validation"].read_as == ("GLUE single sentence",)
    assert held["validation"].describe()["set_aside"]["rows"] == 1
    assert (held["test"].set_aside.count, held["test"].read_as) == (
        (0, ()) if carved else (1, held["validation"].read_as)
    )


def test_bad_rows_stop_a_stream_or_are_counted(tmp_path: Path, data: DataConfig) -> None:
    bad = Path(data.train[0])
    bad.write_bytes(bad.read_bytes() + b'{"text": 1}\n{\n')
    with pytest.raises(DataError, match=r"2 rows cannot be used:\n.*a.jsonl:24: .*\n.*a.jsonl:25: broken JSON"):
        list(stream(data))
    told = BadRows(skip=True)
    rows = list(stream_rows(replace(data, on_bad_row="skip"), "classify", "train", 1, fields=FIELDS, bad=told))
    assert (len(rows), told.count) == (80, 2)


def test_a_stream_is_described_without_being_read(data: DataConfig) -> None:
    about = describe_stream(data, "classify")
    assert about["shards"] == 3
    assert about == describe_stream(data, "classify")
    Path(data.train[0]).write_bytes(Path(data.train[0]).read_bytes() + b'{"text": "more", "label": "x"}\n')
    assert describe_stream(data, "classify")["sha256"] != about["sha256"]


def test_memory_of_a_stream_is_flat(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"{i} " + "x" * 400, "label": "x"}) + "\n" for i in range(6_000)), encoding="utf-8"
    )
    held = [write(tmp_path / "held.jsonl", ["h"])]
    data = DataConfig(train=[str(path)], validation=held, test=held, streaming=True, shuffle_buffer=500)
    list(islice(stream(data), 1))
    tracemalloc.start()
    count = sum(1 for _ in stream(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 6_000
    assert peak < 5 * 2**20


def test_a_stream_of_what_datasets_reads(tmp_path: Path) -> None:
    """The shards of an IterableDataset, as a Hub dataset comes."""
    import datasets

    from llama_tasks.sources import hub
    from llama_tasks.sources.locate import Shard

    for i in range(3):
        write(tmp_path / f"{i}.jsonl", [f"{i}-{j}" for j in range(4)])
    files = sorted(str(path) for path in tmp_path.glob("*.jsonl"))
    loaded = datasets.load_dataset("json", data_files=files, split="train", streaming=True)
    shards = [Shard(f"repo#{i}", part) for i, part in enumerate(hub.shards_of(loaded))]
    assert [[row.values["text"] for row in shard.rows(BadRows())] for shard in shards] == [
        [f"{i}-{j}" for j in range(4)] for i in range(3)
    ]
    whole = datasets.load_dataset("json", data_files=files, split="train")
    assert len(hub.shards_of(whole)) == 1
