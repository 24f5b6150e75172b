"""Readers of one format each: a file -> (line or row number, values), as a generator in flat memory.

They change nothing: text stays text ("2024-01-01", "007"), numbers of a table without types stay text, a field that is missing
is not made up.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from llama_tasks.errors import DataError
from llama_tasks.sources.files import COMPRESSIONS, File, open_raw
from llama_tasks.sources.json_items import read_document, read_lines
from llama_tasks.sources.rows import BadRows, Row

DOCUMENT_END = "<|endoftext|>"  # a line of its own in .txt files of several documents
Numbered = Iterator[tuple[int, dict[str, Any]]]
_LANGUAGE = re.compile(r"\.[a-z]{2,3}([-_][A-Za-z]{2,4})?", re.IGNORECASE)
_BATCH = 1024


def rows_of(file: File, bad: BadRows) -> Iterator[Row]:
    """The rows of a file; those that cannot be read go to `bad`.

    Raises:
        DataError: an unknown format, a damaged file.
    """
    reader = _parallel if file.pair else READERS.get(file.format)
    if reader is None:
        alone = " by itself (one side of parallel text needs the other beside it)" if language(file) else ""
        known = (
            f"{' '.join(sorted(READERS))}, each also compressed ({' '.join(COMPRESSIONS)}), and pairs such as a.en a.zh"
        )
        raise DataError(f"{file.name}: cannot read a {file.format or 'file without ending'}{alone}; known: {known}.")
    for number, values in reader(file, bad):
        yield Row("", values, f"{file.name}:{number}")


def is_readable(file: File) -> bool:
    """Whether the file's ending is known."""
    return file.format in READERS


def language(file: File) -> str | None:
    """The language code of a file of parallel text (`train.zh` -> zh), or None."""
    known = file.format in READERS or not _LANGUAGE.fullmatch(file.format)
    return None if known or not file.stem else file.format[1:]


def _csv(file: File, bad: BadRows, delimiter: str = ",") -> Numbered:
    csv.field_size_limit(2**31 - 1)
    lines = (line for _, line in file.text_lines())
    quoting: Any = csv.QUOTE_MINIMAL if file.data.csv_quotes else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting)
    start = 1
    try:
        header = next(reader, None)
        if header is None:
            return
        _check_header(file, header, delimiter)
        start = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                bad.add(f"{file.name}:{start}", f"this row has {len(row)} fields, the header {len(header)}")
            elif row:
                yield start, dict(zip(header, row, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        if "new-line" in str(error):
            raise file.error("the lines end in \\r alone; convert the file (tr '\\r' '\\n').", start) from None
        raise file.error(
            f"broken CSV ({error}) in the row that begins here; where quotation marks are plain characters, set "
            "data.csv_quotes=false.",
            start,
        ) from None


def _check_header(file: File, header: list[str], delimiter: str) -> None:
    if not any(name.strip() for name in header) or header[0].startswith("sep="):
        raise file.error("the first line must name the columns; remove what stands above the header.", 1)
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise file.error(f"the column {twice!r} stands twice; rename one of them.", 1)
    for other, name in ((";", "a semicolon"), ("\t", "a tab"), (",", "a comma")):
        if len(header) == 1 and other != delimiter and other in header[0]:
            raise file.error(
                f"the header is one column {header[0]!r}: the fields seem to be separated by {name}; use commas in .csv, "
                "tabs in .tsv.",
                1,
            )


def _tsv(file: File, bad: BadRows) -> Numbered:
    return _csv(file, bad, "\t")


def _txt(file: File, bad: BadRows) -> Numbered:
    """Documents of plain text, each closed by a line `<|endoftext|>`; without such lines the file is one document."""
    document: list[str] = []
    start = number = 1
    for number, line in file.text_lines():
        text = line.removesuffix("\n").removesuffix("\r")
        if text == DOCUMENT_END:
            yield from _document(start, document)
            document, start = [], number + 1
        else:
            document.append(text)
    yield from _document(start, document)


def _document(start: int, lines: list[str]) -> Numbered:
    text = "\n".join(lines)
    if text.strip():
        yield start, {"text": text.strip("\n")}


def _parallel(file: File, bad: BadRows) -> Numbered:
    """Two files, one sentence a line, line by line the same in two languages."""
    other = file.pair
    assert other is not None
    source_lang, target_lang = language(file), language(other)
    number = 0
    for first, second in itertools.zip_longest(file.text_lines(), other.text_lines()):
        if first is None or second is None:
            ended, longer = (file, other) if first is None else (other, file)
            raise ended.error(f"ends after {number} lines, but {longer.name} goes on; line by line the two must match.")
        number = first[0]
        yield number, {
            "source": first[1].rstrip("\r\n"), "target": second[1].rstrip("\r\n"),
            "source_lang": source_lang, "target_lang": target_lang,
        }  # fmt: skip


def _parquet(file: File, bad: BadRows) -> Numbered:
    import pyarrow.parquet

    with _arrow_stream(file, "Parquet") as stream:
        parquet = pyarrow.parquet.ParquetFile(stream)
        yield from _records(file, parquet.iter_batches(_BATCH), parquet.schema_arrow, bad)


def _arrow(file: File, bad: BadRows) -> Numbered:
    """Arrow's IPC file, or its stream (what `datasets` writes)."""
    import pyarrow

    with _arrow_stream(file, "Arrow") as stream:
        is_file = stream.read(6) == b"ARROW1"
        stream.seek(0)
        reader = pyarrow.ipc.open_file(stream) if is_file else pyarrow.ipc.open_stream(stream)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
        yield from _records(file, batches, reader.schema, bad)


@contextlib.contextmanager
def _arrow_stream(file: File, kind: str) -> Iterator[IO[bytes]]:
    """The file for pyarrow, whose errors become one sentence."""
    from pyarrow import ArrowException

    if file.compression:
        raise file.error(f"is a compressed {kind} file; {kind} compresses within: unpack it.")
    try:
        with open_raw(file) as stream:
            yield stream
    except (ArrowException, OSError) as error:
        raise file.error(
            f"is no readable {kind} file: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from None


def _records(file: File, batches: Iterable[Any], schema: Any, bad: BadRows) -> Numbered:
    """Rows of record batches; class labels that `datasets` noted in the schema by their names."""
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise file.error(f"has the column {twice!r} twice; rename one of them.")
    features, number = _features(schema), 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH):
            for values in batch.slice(start, _BATCH).to_pylist():
                number += 1
                named = named_classes(values, features, f"{file.name}:{number}", bad)
                if named is not None:
                    yield number, named


def _features(schema: Any) -> Any:
    """What `datasets` noted in a schema (names of class labels), or None."""
    if b"huggingface" not in (schema.metadata or {}):
        return None
    import datasets

    return datasets.Features.from_arrow_schema(schema)


def named_classes(values: dict[str, Any], features: Any, where: str, bad: BadRows) -> dict[str, Any] | None:
    """A row with its ClassLabel integers as their names; -1 stands for "no label" on the Hub and becomes null.

    None, and a word to `bad`, for a number that no class has.
    """
    labelled = {key for key in values if features and hasattr(features[key], "int2str")}
    try:
        names = {
            key: features[key].int2str(values[key])
            for key in labelled
            if (values[key] or 0) >= 0 and values[key] is not None
        }
    except ValueError as error:
        bad.add(where, f"{error}; the file names its classes {', '.join(features[min(labelled)].names)}")
        return None
    return {key: names.get(key) if key in labelled and value is not None else value for key, value in values.items()}


READERS: dict[str, Callable[[File, BadRows], Numbered]] = {
    ".jsonl": read_lines, ".json": read_document, ".csv": _csv, ".tsv": _tsv, ".txt": _txt, ".parquet": _parquet,
    ".arrow": _arrow,
}  # fmt: skip
