"""Formats, compression, globs, folders, URLs and parallel text: what is written is what is read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pyarrow
import pyarrow.parquet
import pytest

from llama_tasks.errors import DataError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import describe_stream, load_splits, read_file

ROWS = [{"text": f"row {i} 第{i}行 שלום e\u0301", "label": "a" if i % 2 else "b"} for i in range(60)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}  # fmt: skip


def values(path: Path | str, **options: object) -> list[dict]:
    return [row.values for row in read_file(path, DataConfig(**options))]


def arrow_bytes(stream: bool) -> bytes:
    table = pyarrow.Table.from_pylist(ROWS)
    sink = pyarrow.BufferOutputStream()
    opened = pyarrow.ipc.new_stream(sink, table.schema) if stream else pyarrow.ipc.new_file(sink, table.schema)
    with opened as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_every_text_format_under_every_compression(tmp_path: Path, name: str, ending: str) -> None:
    tab = "\t" if name.endswith("tsv") else ","
    table = "".join(f"{row['text']}{tab}{row['label']}\r\n" for row in [{"text": "text", "label": "label"}, *ROWS])
    document = json.dumps(ROWS, ensure_ascii=False, indent=1)
    content = {"a.jsonl": JSONL, "a.json": document.encode()}.get(name, table.encode())
    (tmp_path / f"{name}{ending}").write_bytes(COMPRESS[ending](content))
    assert values(tmp_path / f"{name}{ending}") == ROWS


def test_two_gzip_members_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(JSONL) + gzip.compress(JSONL))
    assert values(tmp_path / "a.jsonl.gz") == ROWS + ROWS


@pytest.mark.parametrize("stream", [True, False])
def test_arrow(tmp_path: Path, stream: bool) -> None:
    (tmp_path / "a.arrow").write_bytes(arrow_bytes(stream))
    assert values(tmp_path / "a.arrow") == ROWS


def test_what_datasets_saved(tmp_path: Path) -> None:
    """A folder of `save_to_disk`, class labels by their names."""
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["b", "a"])})
    parts = {
        name: datasets.Dataset.from_list([{**row, "label": i % 2} for i, row in enumerate(ROWS)], features=features)
        for name in ("train", "validation", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"), num_shards=dict.fromkeys(parts, 2))
    split = load_splits(DataConfig(train=[str(tmp_path / "saved")]), "classify", "text", 1, ("text", "label"))["train"]
    assert [row.values for row in split.rows] == ROWS
    parts["train"].to_parquet(str(tmp_path / "a.parquet"))
    assert values(tmp_path / "a.parquet") == ROWS


def test_a_label_without_a_name(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"label": datasets.ClassLabel(names=["b", "a"])})
    table = pyarrow.table({"label": [0, 7, -1]}).cast(features.arrow_schema)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="a.parquet:2: Invalid integer class label 7; the file names its classes b, a"):
        read_file(tmp_path / "a.parquet")
    nulls = pyarrow.table({"label": pyarrow.array([0, None, -1], pyarrow.int64())}, schema=table.schema)
    pyarrow.parquet.write_table(nulls, tmp_path / "c.parquet")
    assert [row.values["label"] for row in read_file(tmp_path / "c.parquet")] == ["b", None, None]


@pytest.mark.parametrize("size", [1, 100, 70_000])
def test_json_is_read_piece_by_piece(tmp_path: Path, size: int) -> None:
    """Strings, numbers and escapes across the borders of what is read at once; lines are counted right."""
    rows = [{"text": 'ü\\"\n' * size, "n": 1234567.5, "deep": [{"a": [None, True, -1e-7]}]} for _ in range(5)]
    document = json.dumps({"version": 1.25, "data": rows, "more": [1, 2]}, indent=1)
    (tmp_path / "a.json").write_text(document, encoding="utf-8")
    read = read_file(tmp_path / "a.json")
    assert [row.values for row in read] == rows
    second = [i for i, line in enumerate(document.split("\n"), 1) if line == "  {"][1]
    assert read[1].where.endswith(f"a.json:{second}")


def test_json_lines_under_the_name_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf\n" + JSONL)
    assert values(tmp_path / "a.json") == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_memory_stays_flat(tmp_path: Path, name: str) -> None:
    """A file of 8 MB is read within 4 MB."""
    from llama_tasks.sources.files import File
    from llama_tasks.sources.readers import rows_of
    from llama_tasks.sources.rows import BadRows

    row = json.dumps({"text": "x" * 1000, "label": "y"})
    content = {
        "a.csv": "text,label\n" + f"{'x' * 1000},y\n" * 8_000,
        "a.jsonl": f"{row}\n" * 8_000,
        "a.json": f"[{row}" + f",\n{row}" * 7_999 + "]",
    }[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    tracemalloc.start()
    count = sum(1 for _ in rows_of(File(str(tmp_path / name), DataConfig()), BadRows()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 8_000
    assert peak < 4 * 2**20


@pytest.mark.parametrize(
    ("content", "quotes", "expected"),
    [
        ('text\tlabel\n"b" said\ty\n', False, [{"text": '"b" said', "label": "y"}]),
        ('text\tlabel\n"two\nlines"\ty\n', True, [{"text": "two\nlines", "label": "y"}]),
        ("text\tlabel\n007\t2024-01-01\n", True, [{"text": "007", "label": "2024-01-01"}]),
        ("text\tlabel\nnan\tNone\n", True, [{"text": "nan", "label": "None"}]),
    ],
)
def test_tables_change_nothing(tmp_path: Path, content: str, quotes: bool, expected: list[dict]) -> None:
    (tmp_path / "a.tsv").write_text(content, encoding="utf-8", newline="")
    assert values(tmp_path / "a.tsv", csv_quotes=quotes) == expected


# --- where rows stand -----------------------------------------------------------------------------------------------


def texts(train: str, folder: Path, **options: object) -> dict[str, list[str]]:
    splits = load_splits(DataConfig(train=[train], **options), "classify", "text", 1, ("text", "label"))
    return {name: [row.values["text"] for row in split.rows] for name, split in splits.items()}


def write(folder: Path, names: list[str]) -> None:
    """Each file with its own name as the only text."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"text": name, "label": "x"}).encode()
        (folder / name).write_bytes(COMPRESS[Path(name).suffix if Path(name).suffix in COMPRESS else ""](content))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.jsonl.gz", "dev.json", "test.jsonl"], ["train.jsonl.gz"]),
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "valid.jsonl", "test.jsonl"],
         ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]),
        (["data/train-00000-of-00001.jsonl", "data/validation.jsonl", "data/test.jsonl"], ["data/train-00000-of-00001.jsonl"]),
        (["train/b.jsonl", "train/a.jsonl", "val/a.jsonl", "test/x.jsonl"], ["train/a.jsonl", "train/b.jsonl"]),
        (["train.jsonl", "val.jsonl", "test.jsonl", "test_2017.jsonl", "README.md"], ["train.jsonl"]),
    ],
)  # fmt: skip
def test_folders(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    write(tmp_path, names)
    found = texts(str(tmp_path), tmp_path)
    assert found["train"] == expected
    assert len(found["validation"]) == len(found["test"]) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.jsonl", "train.csv"], "holds several train files: train.csv, train.jsonl; name one in data.train"),
        (["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"], "is one of 3 shards, of which 2 are there (number 00001"),
        (["a.jsonl"], "holds no train, validation or test file"),
        (["train/a.jsonl", "train/b.csv"], "train holds files of several formats (.csv .jsonl)"),
        (["train/readme.md"], "train holds no file of rows"),
    ],
)  # fmt: skip
def test_folders_that_are_unclear(tmp_path: Path, names: list[str], message: str) -> None:
    write(tmp_path, names)
    with pytest.raises(DataError) as caught:
        texts(str(tmp_path), tmp_path)
    assert message in str(caught.value)


def test_globs(tmp_path: Path) -> None:
    write(tmp_path, ["b.jsonl", "a.jsonl", "c.csv", "deep/er/d.jsonl", "x[1].jsonl"])
    given = {"validation": [str(tmp_path / "a.jsonl")], "test": [str(tmp_path / "x[1].jsonl")]}
    assert texts(f"{tmp_path}/[ab].jsonl", tmp_path, **given)["train"] == ["a.jsonl", "b.jsonl"]
    found = texts(f"{tmp_path}/**/*.jsonl", tmp_path, **given)
    assert found["train"] == ["a.jsonl", "b.jsonl", "deep/er/d.jsonl", "x[1].jsonl"]
    assert found["test"] == ["x[1].jsonl"]
    with pytest.raises(DataError, match=r"No file matches '.*/\*.parquet'"):
        texts(f"{tmp_path}/*.parquet", tmp_path)


def test_urls_are_read_through_fsspec(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("train.jsonl", "dev.jsonl.gz", "test.jsonl"):
        content = JSONL if not name.endswith("gz") else gzip.compress(JSONL)
        memory.pipe(f"/sets/mine/{name}", content)
    found = texts("memory://sets/mine", tmp_path)
    assert [len(rows) for rows in found.values()] == [60, 60, 60]
    only = {"validation": ["memory://sets/mine/dev.jsonl.gz"], "test": ["memory://sets/mine/test.jsonl"]}
    assert len(texts("memory://sets/mine/t*.jsonl", tmp_path, **only)["train"]) == 120
    (tmp_path / "a.parquet").write_bytes(b"")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert values(f"file://{tmp_path}/a.parquet") == ROWS
    with pytest.raises(DataError, match="There is no file or folder 'memory://sets/nothing.jsonl'"):
        texts("memory://sets/nothing.jsonl", tmp_path)


class _Web(BaseHTTPRequestHandler):
    """One file, however the path says: in `parts`, `whole` alone, `open` ended (no length), or `cut` off."""

    content = b""
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer(self.content, 200)

    def do_GET(self) -> None:
        first, last = 0, len(self.content) - 1
        parts = "parts" in self.path and self.headers["Range"]
        if parts:
            first, last = (int(place) for place in parts.removeprefix("bytes=").split("-"))
        self.asked.append(f"{first}-{last}")
        self._answer(self.content[first : last + 1], 206 if parts else 200)

    def _answer(self, body: bytes, status: int) -> None:
        self.send_response(status)
        if "open" not in self.path:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            with suppress(OSError):  # a client that has seen enough
                self.wfile.write(body[: len(body) // 2] if "cut" in self.path else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Web) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        _Web.asked.clear()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


BIG = [{"text": f"{i} " * 24000, "label": "a"} for i in range(100)]  # more than fsspec asks for at once


@pytest.mark.parametrize("how", ["parts", "whole", "open"])
def test_files_of_a_web_server(web: str, how: str, tmp_path: Path) -> None:
    """Text from beginning to end and Parquet from its end, whether the server gives parts, the whole alone, or no length."""
    jsonl = "".join(json.dumps(row) + "\n" for row in BIG).encode()
    _Web.content = jsonl
    assert values(f"{web}/{how}.jsonl") == BIG
    if how == "parts":
        assert len(jsonl) > 5 * 2**20
        assert f"0-{len(jsonl) - 1}" not in _Web.asked
    assert describe_stream(DataConfig(train=[f"{web}/{how}.jsonl"]), "classify")["bytes"] == len(jsonl)
    for ending, data in COMPRESS.items():
        _Web.content = data(JSONL)
        assert values(f"{web}/{how}.jsonl{ending}") == ROWS
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    _Web.content = (tmp_path / "a.parquet").read_bytes()
    assert values(f"{web}/{how}.parquet") == ROWS


@pytest.mark.parametrize("name", ["cut.jsonl", "cut.jsonl.gz", "cut.parquet", "parts-cut.jsonl"])
def test_a_connection_that_breaks_is_told_in_one_sentence(web: str, name: str) -> None:
    _Web.content = JSONL
    with pytest.raises(DataError, match=rf"{web}/{name} cannot be read: .*payload is not completed"):
        values(f"{web}/{name}")


def test_a_driver_that_is_not_installed_gives_its_pip_line() -> None:
    with pytest.raises(DataError, match=r"reading s3:// needs a driver: pip install s3fs"):
        load_splits(DataConfig(train=["s3://bucket/a.jsonl"]), "classify", "text", 1)
    with pytest.raises(DataError, match=r"nosuch://a.jsonl cannot be opened: .*nosuch"):
        load_splits(DataConfig(train=["nosuch://a.jsonl"]), "classify", "text", 1)


def test_what_a_text_file_loses_is_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\r\n\n  one \r\n\r\n\ttwo\n\n\n")
    assert read_file(tmp_path / "a.txt")[0].values == {"text": "  one \n\n\ttwo"}


# --- parallel text --------------------------------------------------------------------------------------------------


def parallel(folder: Path, lines: int = 3) -> None:
    for split in ("train", "dev", "test"):
        for lang, word in (("en", "line"), ("zh", "第"), ("de", "Zeile")):
            (folder / f"{split}.{lang}").write_text("".join(f"{word} {i}\r\n" for i in range(lines)), encoding="utf-8")


@pytest.mark.parametrize(
    ("train", "constants", "expected"),
    [
        ("train.en", {"target_lang": "zh"}, ("line 0", "第 0", "en", "zh")),
        ("train.zh", {"target_lang": "en"}, ("第 0", "line 0", "zh", "en")),
        ("train.en", {"source_lang": "zh", "target_lang": "en"}, ("第 0", "line 0", "zh", "en")),
        ("", {"source_lang": "zh", "target_lang": "de"}, ("第 0", "Zeile 0", "zh", "de")),
        ("", {"source_lang": "de", "target_lang": "zh"}, ("Zeile 0", "第 0", "de", "zh")),
    ],
)
def test_parallel_text(tmp_path: Path, train: str, constants: dict[str, str], expected: tuple[str, ...]) -> None:
    parallel(tmp_path)
    ending = Path(train).suffix
    own = {"validation": [f"{tmp_path}/dev{ending}"], "test": [f"{tmp_path}/test{ending}"]} if train else {}
    data = DataConfig(train=[str(tmp_path / train)], constants=constants, **own)
    splits = load_splits(data, "translate", "source", 1, ("source", "target"))
    row = splits["train"].rows[0].values
    assert tuple(row[name] for name in ("source", "target", "source_lang", "target_lang")) == expected
    assert len(splits["train"].rows) == 3


@pytest.mark.parametrize("train", ["train.en", "", "train.*"])
@pytest.mark.parametrize("languages", [2, 3])
def test_parallel_text_without_the_language_asked_for(tmp_path: Path, train: str, languages: int) -> None:
    parallel(tmp_path)
    for path in tmp_path.glob("*.zh") if languages == 2 else ():
        path.unlink()
    data = DataConfig(train=[str(tmp_path / train)], constants={"source_lang": "en", "target_lang": "fr"})
    with pytest.raises(
        DataError, match=r"is parallel text of train\...(, train\...)+, but data.constants asks for 'fr'"
    ):
        load_splits(data, "translate", "source", 1, ("source", "target"))


def test_a_pair_in_a_folder_of_two_languages(tmp_path: Path) -> None:
    parallel(tmp_path)
    for path in tmp_path.glob("*.de"):
        path.unlink()
    splits = load_splits(DataConfig(train=[str(tmp_path)]), "translate", "source", 1, ("source", "target"))
    assert splits["test"].rows[2].values == {
        "source": "line 2", "target": "第 2", "source_lang": "en", "target_lang": "zh",
    }  # fmt: skip
    (tmp_path / "train.en").rename(tmp_path / "corpus.en")
    (tmp_path / "train.zh").rename(tmp_path / "corpus.zh")
    data = DataConfig(
        train=[f"{tmp_path}/corpus.*"], validation=[str(tmp_path / "dev.en")], test=[str(tmp_path / "test.zh")]
    )
    assert len(load_splits(data, "translate", "source", 1)["train"].rows) == 3


def test_a_glob_reads_a_pair_of_every_folder(tmp_path: Path) -> None:
    for name, lines in (("a", 2), ("b", 3)):
        (tmp_path / name).mkdir()
        parallel(tmp_path / name, lines)
    train, dev, test = ([f"{tmp_path}/*/{name}"] for name in ("train.[ez]*", "dev.en", "test.zh"))
    constants = {"source_lang": "en", "target_lang": "zh"}
    data = DataConfig(train=train, validation=dev, test=test, constants=constants)
    splits = load_splits(data, "translate", "source", 1)
    assert [len(split.rows) for split in splits.values()] == [5, 5, 5]
