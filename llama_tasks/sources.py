"""Where rows come from: local files, Hub datasets at a pinned revision, the embedded samples.

Local files are read by small readers of our own, because the usual ones change data silently (a date-like string
becomes a timestamp, a missing field becomes None); every complaint names file, line and what to do.

Data beyond memory is read as a stream (`data.streaming: true`), in flat memory and in an order that depends on seed and epoch
alone:

    stream_rows(data: DataConfig, task: str, split: str, seed: int, epoch: int = 0, start: Position | None = None,
                fields: Sequence[str] | None = None) -> Iterator[StreamedRow]

A StreamedRow is a Row with `position: Position`, the place behind it: hand that in as `start` and the same rows follow as if
there had been no break. A Position is a frozen dataclass of whole numbers (`to_json()`, `Position.from_json()`). Several workers
each take every n-th row: `itertools.islice(stream_rows(...), worker, None, workers)`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_tasks.errors import DataError
from llama_tasks.recipe import DataConfig

SPLITS = ("train", "validation", "test")
DOCUMENT_END = "<|endoftext|>"  # a line of its own in .txt files of several documents
_ALIASES = {"train": ("train",), "validation": ("validation", "valid", "dev", "val"), "test": ("test",)}


@dataclass(frozen=True)
class Row:
    """One row as found: its values, a stable id (`test:17`) and where it stands (`my.jsonl:18`)."""

    id: str
    values: dict[str, Any]
    where: str


@dataclass(frozen=True)
class Split:
    """The rows of one split with their fingerprint."""

    rows: list[Row]
    source: str
    sha256: str

    def describe(self) -> dict[str, Any]:
        """Provenance: number of rows, source and SHA-256 of the rows' canonical JSON."""
        return {"rows": len(self.rows), "source": self.source, "sha256": self.sha256}


def load_splits(data: DataConfig, task: str, group_by: str, seed: int) -> dict[str, Split]:
    """Read train, validation and test rows.

    A split that the source does not have is carved from the training rows by a hash of the field `group_by` (rows with
    the same passage stay on one side, and a row's side does not depend on the order of the file): a tenth each.

    Raises:
        DataError: nothing to read, a broken file, a Hub dataset that cannot be had.
    """
    found = _read_source(data.train, data, task)
    for name, items in (("validation", data.validation), ("test", data.test)):
        if items is not None:
            given = _read_source(items, data, task)
            if name not in given and "train" not in given:
                raise DataError(f"data.{name}: {' '.join(items)} has no {name} rows; it holds: {', '.join(given)}.")
            found[name] = given.get(name) or given["train"]
    if "train" not in found:
        raise DataError(f"{' '.join(data.train)} has no training rows; it holds: {', '.join(found) or 'nothing'}.")
    missing = [name for name in SPLITS if name not in found]
    carved = _carve(found["train"], missing, data.columns.get(group_by, group_by), seed)
    found = {**found, **carved}
    limits = {"train": data.max_train_samples, "validation": data.max_validation_samples, "test": data.max_test_samples}
    named = {"train": data.train, "validation": data.validation or data.train, "test": data.test or data.train}
    return {
        name: _split(name, _sample(found[name], limits[name], seed), _source(named[name], data), data)
        for name in SPLITS
    }


def pin(data: DataConfig) -> DataConfig:
    """The same with the commit that a Hub dataset is at now, so that the run can be repeated; unchanged for local data,
    without a network (the cached copy serves), and for several Hub datasets (one revision cannot name them all)."""
    from huggingface_hub import HfApi

    given = [*data.train, *(data.validation or []), *(data.test or [])]
    repos = {item for item in given if _is_hub_id(item)}
    if len(repos) != 1:
        return data
    try:
        return replace(data, revision=HfApi().dataset_info(repos.pop(), revision=data.revision, timeout=30).sha)
    except Exception:  # the Hub's clients raise kinds that differ by version; loading says what is wrong
        return data


def read_file(path: Path) -> list[Row]:
    """Read one local file by its ending. Raises DataError with file and line."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: cannot read a {path.suffix or 'file without ending'}; known: {' '.join(sorted(_READERS))}."
        )
    rows = [Row("", values, f"{path}:{line}") for line, values in reader(path)]
    if not rows:
        raise DataError(f"{path} has no rows.")
    return rows


def _read_source(items: Sequence[str], data: DataConfig, task: str) -> dict[str, list[Row]]:
    """The splits that the items hold; plain files count as training rows."""
    found: dict[str, list[Row]] = {}
    for item in items:
        for name, rows in _read_item(item, data, task).items():
            found.setdefault(name, []).extend(rows)
    return found


def _read_item(item: str, data: DataConfig, task: str) -> dict[str, list[Row]]:
    path = Path(item).expanduser()
    if item == "embedded":
        path = Path(__file__).parent / "embedded" / "samples" / task
        if not path.is_dir():
            raise DataError(f"There are no embedded samples for the task {task!r}; name your data in data.train.")
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return {"train": read_file(path)}
    if not _is_hub_id(item):
        raise DataError(f"There is no file or folder {item!r} (looked in {Path.cwd()}).")
    return _read_hub(item, data)


def _is_hub_id(item: str) -> bool:
    """Whether the item can only be a Hub dataset (`user/name`): nothing local has that name, and it looks like no path."""
    path = Path(item).expanduser()
    looks_local = path.suffix.lower() in _READERS or item.count("/") != 1 or item.startswith((".", "/", "~"))
    return not path.exists() and not looks_local


def _read_folder(folder: Path) -> dict[str, list[Row]]:
    found = {}
    for split, names in _ALIASES.items():
        files = [f for f in sorted(folder.iterdir()) if f.stem in names and f.suffix.lower() in _READERS]
        if len(files) > 1:
            raise DataError(
                f"{folder} holds several {split} files: {', '.join(f.name for f in files)}; name one in data.{split}."
            )
        if files:
            found[split] = read_file(files[0])
    if not found:
        raise DataError(f"{folder} holds no train, validation or test file ({' '.join(sorted(_READERS))}).")
    return found


def _read_hub(repo: str, data: DataConfig) -> dict[str, list[Row]]:
    import datasets

    try:
        loaded = datasets.load_dataset(repo, data.name, revision=data.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"Cannot load the Hub dataset {repo!r}: {reason} If you meant a local file, there is none at that path; "
            "otherwise check the name, `hf auth login` and the network."
        ) from None
    found: dict[str, list[Row]] = {}
    for split, names in _ALIASES.items():
        for name in names:
            if name in loaded:
                found[split] = [Row("", _names_of_classes(row, loaded[name].features), f"{repo}[{name}]:{i}")
                                for i, row in enumerate(loaded[name])]  # fmt: skip
                break
    return found


def _names_of_classes(row: dict[str, Any], features: Any) -> dict[str, Any]:
    """ClassLabel integers as their names; -1 stands for "no label" on the Hub."""
    labelled = {key for key in row if hasattr(features[key], "int2str")}
    return {
        key: (features[key].int2str(value) if value is not None and value >= 0 else None) if key in labelled else value
        for key, value in row.items()
    }


def _carve(rows: list[Row], missing: Sequence[str], group_by: str, seed: int) -> dict[str, list[Row]]:
    """Move a tenth of the groups to each missing split; with a shortage of rows, say so instead of an empty split."""
    if not missing:
        return {}
    parts: dict[str, list[Row]] = {name: [] for name in ("train", *missing)}
    for row in rows:
        key = json.dumps([seed, row.values.get(group_by, row.values)], ensure_ascii=False, sort_keys=True, default=str)
        share = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:4], "big") / 2**32
        index = int(share * 10)
        parts[missing[index] if index < len(missing) else "train"].append(row)
    for name, part in parts.items():
        if not part:
            raise DataError(f"{len(rows)} rows are too few to carve a {name} split from; name a file in data.{name}.")
    return parts


def _source(items: Sequence[str], data: DataConfig) -> str:
    """The items in words, a Hub dataset with its commit."""
    return " ".join(f"{item}@{data.revision}" if data.revision and _is_hub_id(item) else item for item in items)


def _sample(rows: list[Row], limit: int | None, seed: int) -> list[Row]:
    if limit is None or limit >= len(rows):
        return rows
    chosen = sorted(random.Random(seed).sample(range(len(rows)), limit))
    return [rows[i] for i in chosen]


def rename(rows: Sequence[Row], data: DataConfig, split: str) -> list[Row]:
    """Rows with their ids (`split:17`), the recipe's constants, and columns under the task's field names.

    Raises:
        DataError: a mapped column is not there.
    """
    renamed = []
    for i, row in enumerate(rows):
        values = {**data.constants, **row.values}
        for field, column in data.columns.items():
            if column not in row.values:
                if split == "predict":
                    continue
                raise DataError(f"{row.where}: data.columns maps {field!r} to the column {column!r}, which is not there; "
                                f"found: {', '.join(row.values)}.")  # fmt: skip
            values[field] = row.values[column]
        renamed.append(replace(row, id=f"{split}:{i}", values=values))
    return renamed


def _split(name: str, rows: list[Row], source: str, data: DataConfig) -> Split:
    renamed = rename(rows, data, name)
    digest = hashlib.sha256()
    for row in renamed:
        digest.update(
            json.dumps(row.values, ensure_ascii=False, sort_keys=True, default=str).encode("utf-8", "surrogatepass")
            + b"\n"
        )
    return Split(renamed, source, digest.hexdigest())


# --- readers: Path -> (line number, values) -------------------------------------------------------------------------


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8).")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x}); convert the file, for example "
            f"iconv -f GB18030 -t UTF-8 {path.name} (Chinese) or iconv -f LATIN1 -t UTF-8 {path.name}."
        ) from None


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return dict(pairs)


def _no_nan(text: str) -> Any:
    raise ValueError(f"{text} is no JSON value")


def _parse_json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_nan)
    except json.JSONDecodeError as error:
        where = f"{path}:{line + error.lineno - 1}"
        raise DataError(f"{where}: broken JSON ({error.msg} at column {error.colno}): {_excerpt(text)}") from None
    except ValueError as error:
        raise DataError(f"{path}:{line}: broken JSON ({error}): {_excerpt(text)}") from None


def _excerpt(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text[:80])
    return printable + ("…" if len(text) > 80 else "")


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            yield number, _object(_parse_json(line, path, number), f"{path}:{number}")


def _json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _text(path)
    if not text.strip():
        return
    tree = _parse_json(text, path, 1)
    if not isinstance(tree, list):
        raise DataError(
            f"{path} must hold a list of objects, not {type(tree).__name__}; one object a line belongs in .jsonl."
        )
    for i, value in enumerate(tree, 1):
        yield i, _object(value, f"{path}, item {i}")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be an object {{...}}, not {type(value).__name__}.")
    return value


def _csv(path: Path, delimiter: str = ",") -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(f"{path}:1: the column {twice!r} stands twice; rename one of them.")
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(f"{path}:{reader.line_num}: this row has {len(row)} fields, the header {len(header)}.")
            if row:
                yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: broken CSV ({error}).") from None


def _tsv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    return _csv(path, "\t")


def _txt(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Documents of plain text, each closed by a line `<|endoftext|>`; without such lines the file is one document."""
    line = 1
    for document in (_text(path).replace("\r\n", "\n") + "\n").split(f"{DOCUMENT_END}\n"):
        if document.strip():
            yield line, {"text": document.strip("\n")}
        line += document.count("\n") + 1


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow.parquet
    from pyarrow import ArrowException

    try:
        table = pyarrow.parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file: {str(error).splitlines()[0]}") from None
    yield from enumerate(table.to_pylist(), 1)


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _tsv, ".txt": _txt, ".parquet": _parquet,
}  # fmt: skip
