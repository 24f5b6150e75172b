"""Malformed files and rows: what is written, and what must be said of it. Read by test_sources_bad_input.py.

A case is (files, task, what the error says, rows set aside under `on_bad_row: skip`; None: an error then too). One file named
`data.…` is read; GOOD rows stand around the bad one, so that it is the row that is judged.
"""

# ruff: noqa: E501 - a table is read along its lines

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import json
import lzma
from typing import Any

import pyarrow
import pyarrow.parquet

GOOD = {
    "classify": {"text": "A fine day", "label": "good"},
    "summarize": {"document": "A long text about rain.", "summary": "Rain."},
    "qa": {"context": "It rains in Bergen.", "question": "Where?", "answers": ["Bergen"]},
    "translate": {"translation": {"en": "rain", "de": "Regen"}},
    "dialogue": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    "wizard": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
}
Case = tuple[dict[str, bytes], str, str, int | None]


def jsonl(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def row(bad: Any, task: str, message: str) -> Case:
    """A bad line between good ones, at line 2."""
    return {"data.jsonl": jsonl(GOOD[task], bad, GOOD[task])}, task, "data.jsonl:2: " + message, 1


def field(name: str, value: Any, message: str, task: str = "classify") -> Case:
    """A good row in which one field is wrong."""
    return row({**GOOD[task], name: value}, task, f"the field {name!r} {message}")


def file(name: str, content: bytes, message: str, task: str = "classify", aside: int | None = None) -> Case:
    return {name: content}, task, message, aside


def table(columns: dict[str, list[Any]], message: str, aside: int | None, **types: pyarrow.DataType) -> Case:
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in columns])
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), sink)
    return file("data.parquet", sink.getvalue(), message, "classify", aside)


def arrow(names: list[str]) -> bytes:
    batch = pyarrow.RecordBatch.from_arrays([pyarrow.array(["a", "b"] * 500)] * 2, names=names)
    sink = io.BytesIO()
    with pyarrow.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


ROWS = jsonl(*[{"text": f"text number {i}", "label": "ab"[i % 2]} for i in range(200)])
GZIP, XZ, BZ2 = gzip.compress(ROWS), lzma.compress(ROWS), bz2.compress(ROWS)
ZST = pyarrow.compress(ROWS, codec="zstd", asbytes=True)
BOMB = gzip.compress(b'{"text": "' + b"a" * (80 * 2**20) + b'"}\n')
WIDE = b'{"text": "' + b"a" * (9 * 2**20) + b'", "label": "x"}'
DAY = datetime.datetime(2024, 1, 1)
ARTICLE = {"title": "Rain", "paragraphs": [{"context": "It rains.", "qas": [{"question": "What?", "answers": [{"text": "rains", "answer_start": 3}]}]}]}  # fmt: skip

CASES: dict[str, Case] = {
    # --- whole files: never set aside, never half read
    "empty file": file("data.jsonl", b"", "data.jsonl has no rows"),
    "blank lines only": file("data.jsonl", b"\n \n\t\n", "data.jsonl has no rows"),
    "empty list": file("data.json", b"[]", "data.json has no rows"),
    "header only": file("data.csv", b"text,label\n", "data.csv has no rows"),
    "utf-16": file("data.jsonl", ROWS.decode().encode("utf-16"), "data.jsonl is UTF-16; save it as UTF-8"),
    "utf-16 big endian": file("data.csv", b"\xfe\xff" + "text,label".encode("utf-16-be"), "data.csv is UTF-16"),
    "utf-16 without mark": file("data.jsonl", ROWS.decode().encode("utf-16-le"), "data.jsonl begins with NUL bytes"),
    "gb18030": file("data.jsonl", jsonl(*['{"text": "你好", "label": "是"}'.encode("gb18030")] * 30), "data.jsonl:1: not UTF-8 (byte 0xc4); convert the file, for example iconv -f GB18030"),
    "latin-1 table": file("data.csv", b"text,label\nfine,x\nsch\xf6n,y\n", "data.csv:3: not UTF-8 (byte 0xf6)"),
    "latin-1 document": file("data.json", b'[{"text": "a", "label": "x"},\n {"text": "sch\xf6n", "label": "y"}]', "data.json:2: not UTF-8"),
    "latin-1 text": file("data.txt", b"one\ntwo\nsch\xf6n\n", "data.txt:3: not UTF-8", "text"),
    "truncated gzip": file("data.jsonl.gz", GZIP[: len(GZIP) // 2], "data.jsonl.gz is cut off, after"),
    "gzip without its end": file("data.jsonl.gz", GZIP[:-4], "data.jsonl.gz is cut off, after"),
    "gzip with a wrong checksum": file("data.jsonl.gz", GZIP[:-8] + b"\x00" * 8, "data.jsonl.gz is no sound .gz file (CRC check failed"),
    "no gzip at all": file("data.jsonl.gz", ROWS, "data.jsonl.gz is no sound .gz file (Not a gzipped file"),
    "gzip under another name": file("data.jsonl", GZIP, "data.jsonl is gzip-compressed; name it .gz"),
    "zip under another name": file("data.json", b"PK\x03\x04" + b"\x00" * 40, "data.json is a zip archive; unpack it first"),
    "truncated zstd": file("data.jsonl.zst", ZST[: len(ZST) // 2], "data.jsonl.zst is cut off, after"),
    "no zstd at all": file("data.jsonl.zst", ROWS, "data.jsonl.zst is no sound .zst file"),
    "truncated xz": file("data.jsonl.xz", XZ[: len(XZ) // 2], "data.jsonl.xz is cut off, after"),
    "corrupt xz": file("data.jsonl.xz", XZ[:60] + b"????" + XZ[64:], "data.jsonl.xz is no sound .xz file (Corrupt input data)"),
    "truncated bzip2": file("data.jsonl.bz2", BZ2[: len(BZ2) // 2], "data.jsonl.bz2 is cut off, after"),
    "gzip bomb": file("data.jsonl.gz", BOMB, "data.jsonl.gz:1: this line is longer than 8 MiB; if that is meant, raise data.max_row_mb"),
    "9 MiB in one field": file("data.jsonl", WIDE + b"\n", "data.jsonl:1: this line is longer than 8 MiB; if that is meant, raise data.max_row_mb"),
    "9 MiB in one item": file("data.json", b"[\n" + WIDE + b"]", "data.json:2: this value is longer than 8 MiB; if that is meant, raise data.max_row_mb"),
    "half a document": file("data.json", b'[{"text": "a", "label": "x"},\n {"text": "b", "la', "data.json:2: broken JSON (Unterminated string"),
    "comma before the end": file("data.json", b'[{"text": "a", "label": "x"},\n]', "data.json:2: broken JSON (a comma before the closing bracket)"),
    "no comma between items": file("data.json", b'[{"text": "a", "label": "x"}\n {"text": "b"}]', "data.json:2: broken JSON (',' or ']' is missing"),
    "text behind the list": file("data.json", b'[{"text": "a", "label": "x"}]\n]', "data.json:2: broken JSON (something stands behind the end"),
    "a number for a document": file("data.json", b"3", "data.json:1: a file of JSON must hold a list of objects"),
    "an object without rows": file("data.json", b'{"version": 1,\n "rows": []}', "data.json:2: this object holds no list of rows under the key 'data' (its keys: version, rows)"),
    "NaN in a document": file("data.json", b'[{"text": NaN, "label": "x"}]', "data.json:1: broken JSON (NaN is no JSON value)"),
    "a key twice in a document": file("data.json", b'[{"text": "a", "text": "b"}]', "data.json:1: broken JSON (the key 'text' stands twice)"),
    "columns for rows": file("data.json", b'{"text": {"0": "a"}, "label": {"0": "x"}}', "data.json:1: this object holds no list of rows under the key 'data' (its keys: text, label); write a list of objects (pandas: to_json(orient='records'))"),
    "splits for rows": file("data.json", b'{"train": [{"text": "a", "label": "x"}], "test": []}', "this object holds no list of rows under the key 'data' (its keys: train, test)"),
    "utf-16 in gzip": file("data.jsonl.gz", gzip.compress(ROWS.decode().encode("utf-16")), "data.jsonl.gz is UTF-16; save it as UTF-8"),
    "nothing in gzip": file("data.jsonl.gz", gzip.compress(b""), "data.jsonl.gz has no rows"),
    "a column twice": file("data.csv", b"text,label,text\na,b,c\n", "data.csv:1: the column 'text' stands twice; rename one"),
    "a blank line above the header": file("data.csv", b"\ntext,label\na,b\n", "data.csv:1: the first line must name the columns; remove what stands above the header"),
    "Excel's note above the header": file("data.csv", b"sep=,\ntext,label\na,b\n", "data.csv:1: the first line must name the columns; remove what stands above the header"),
    "semicolons": file("data.csv", b"text;label\na;b\n", "data.csv:1: the header is one column 'text;label': the fields seem to be separated by a semicolon"),
    "tabs in .csv": file("data.csv", b"text\tlabel\na\tb\n", "data.csv:1: the header is one column 'text\\tlabel': the fields seem to be separated by a tab"),
    "a quotation mark that never closes": file("data.csv", b'text,label\na,x\n"b,y\nc,z\n', "data.csv:3: broken CSV (unexpected end of data) in the row that begins here"),
    "text behind a quotation mark": file("data.tsv", b'text\tlabel\n"b" said\ty\n', "data.tsv:2: broken CSV ('\t' expected after '\"') in the row that begins here; where quotation marks are plain characters, set data.csv_quotes=false"),
    "old line ends": file("data.csv", b"text,label\ra,b\r", "data.csv:1: the lines end in \\r alone; convert the file (tr '\\r' '\\n')"),
    "no Parquet": file("data.parquet", b"PAR1 no", "data.parquet is no readable Parquet file"),
    "half a Parquet": file("data.parquet", table({"text": ["a"] * 99, "label": ["x"] * 99}, "", 0)[0]["data.parquet"][:300], "data.parquet is no readable Parquet file"),
    "Parquet under another name": file("data.jsonl", b"PAR1" + b"\x00" * 40, "data.jsonl is a Parquet file; name it .parquet"),
    "compressed Parquet": file("data.parquet.gz", gzip.compress(b"PAR1"), "data.parquet.gz is a compressed Parquet file; Parquet compresses within: unpack it"),
    "no Arrow": file("data.arrow", b"nothing of the kind", "data.arrow is no readable Arrow file"),
    "half an Arrow": file("data.arrow", arrow(["text", "label"])[:700], "data.arrow is no readable Arrow file"),
    "a column twice in Arrow": file("data.arrow", arrow(["text", "text"]), "data.arrow has the column 'text' twice; rename one of them"),
    "an empty Parquet": file("data.parquet", b"", "data.parquet is no readable Parquet file"),
    "an ending that nobody knows": file("data.xlsx", b"x", "data.xlsx: cannot read a .xlsx; known: .arrow .csv .json"),
    "no ending": file("data", b"x", "data: cannot read a file without ending"),
    "parallel text of two lengths": ({"data.en": b"one\ntwo\n", "data.de": b"eins\n"}, "translate", "data.de ends after 1 lines, but", None),
    "one side of parallel text": ({"data.en": b"one\ntwo\n"}, "translate", "data.en: cannot read a .en by itself (one side of parallel text needs the other beside it); known: .arrow", None),
    "three languages": ({"data.en": b"one\n", "data.de": b"eins\n", "data.fr": b"un\n"}, "translate", "data.en has more than one other side (data.de, data.fr); say which by data.constants.source_lang and target_lang", None),
    "no such column": file("data.jsonl", jsonl({"text": "a", "labels": "x"}), "data.jsonl:1: the task needs the column 'label'; found: text, labels. Name yours in the recipe: data.columns.label=labels"),
    "a column that the task reads is no guess": file("data.jsonl", jsonl({"document": "a", "headline": "x"}), "found: document, headline. Name yours in the recipe: data.columns.summary=headline", "summarize"),
    "a terminal escape in a name": file("data.jsonl", jsonl({"text": "a", "\x1b[31mlabel": "x"}), "found: text, \ufffd[31mlabel"),
    "rows of another task": file("data.jsonl", jsonl({"article": "a", "highlights": "x"}), "These look like CNN/DailyMail, which is for task: summarize"),
    # --- rows: all told at once, or set aside
    "half a line": row(b'{"text": "a", "lab', "classify", "broken JSON (Unterminated string starting at column 15): {\"text\": \"a\", \"lab"),
    "a list for a row": row(["a", "b"], "classify", "a row must be an object {...}, not list"),
    "a text for a row": row("hello", "classify", "a row must be an object {...}, not str"),
    "two objects in a line": row(b'{"text": "a"}{"text": "b"}', "classify", "broken JSON (Extra data at column 14)"),
    "single quotes": row(b"{'text': 'a'}", "classify", "broken JSON (Expecting property name enclosed in double quotes"),
    "a key twice": row(b'{"text": "a", "label": "x", "label": "y"}', "classify", "broken JSON (the key 'label' stands twice)"),
    "NaN": row(b'{"text": "a", "label": NaN}', "classify", "broken JSON (NaN is no JSON value)"),
    "minus infinity": row(b'{"text": "a", "label": -Infinity}', "classify", "broken JSON (-Infinity is no JSON value)"),
    "a number beyond floats": row(b'{"text": "a", "label": 1e999}', "classify", "broken JSON (1e999 is too large for a number)"),
    "5,000 digits": row(b'{"text": "a", "label": ' + b"1" * 5000 + b"}", "classify", "broken JSON (Exceeds the limit"),
    "nested to death": row(b'{"text": ' + b"[" * 99999 + b"]" * 99999 + b"}", "classify", "broken JSON (nested too deeply)"),
    "a byte-order mark in the middle": row(b'\xef\xbb\xbf{"text": "a", "label": "x"}', "classify", "broken JSON (a byte-order mark stands before it; were files put end to end?)"),
    "an object of null": field("answers", {"text": [None]}, "holds an object whose 'text' holds a list whose item 1 is null; give it a value", "qa"),
    "a byte that is not UTF-8": row(b'{"text": "sch\xf6n", "label": "x"}', "classify", "not UTF-8 (byte 0xf6)"),
    "a control character": row(b'{"text": "a\x01b", "label": "x"}', "classify", "broken JSON (Invalid control character at column 12)"),
    "a missing field": row({"text": "a"}, "classify", "the field 'label' is missing (the row has: text)"),
    "an empty object": row({}, "classify", "the field 'text' is missing (the row has: nothing)"),
    "null": field("label", None, "is null; give it a value"),
    "an empty text": field("text", "", "is empty"),
    "white space": field("text", " \t\n", "holds only white space"),
    "ideographic space": field("text", "\u3000\u3000", "holds only white space"),
    "zero-width characters": field("text", "\u200b\ufeff", "holds only white space"),
    "NUL": field("text", "a\x00b", "holds a NUL character (U+0000); remove it"),
    "half a character": field("text", "a\ud800b", "holds half a character (a lone surrogate); mend the text"),
    "a number among texts": field("label", 1, "is a number, but text in"),
    "true for a label": field("label", True, "is true/false; it must be text"),
    "a list for a text": field("text", ["a"], "is a list, but text in"),
    "an object for a text": field("text", {"a": "b"}, "is an object, but text in"),
    "null in a list": field("answers", ["Bergen", None], "holds a list whose item 2 is null; give it a value", "qa"),
    "a number in a list": field("answers", [1], "holds a list whose item 1 is a number; it must be text", "qa"),
    "a text for a list": field("answers", "Bergen", "is text, but a list in", "qa"),
    "an answer not in its context": field("answers", ["Oslo"], "holds 'Oslo', which does not stand in the context; where answers are free text, set data.free_answers=true", "qa"),
    "null context": field("context", None, "is null; give it a value", "qa"),
    "an empty summary": field("summary", "", "is empty", "summarize"),
    "a language missing": row({"translation": {"en": "rain"}}, "translate", "'translation' must be an object of two languages"),
    "null in a translation": row({"translation": {"en": "rain", "de": None}}, "translate", "the field 'target' is null; give it a value"),
    "a translation as text": row({"translation": "rain"}, "translate", "'translation' must be an object of two languages"),
    "an unknown role": row({"messages": [{"role": "tool", "content": "x"}]}, "dialogue", "the role 'tool' of a message is not known; known: human, user"),
    "null content": row({"messages": [{"role": "user", "content": None}]}, "dialogue", "the content of a message is null, not text"),
    "an image in a message": row({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "dialogue", "a message holds a part that is not text"),
    "messages as text": row({"messages": "Hi"}, "dialogue", "'messages' must be a list of objects, not text"),
    "a turn without a speaker": row({"conversations": [{"value": "Hi"}]}, "wizard", "the role None of a message is not known"),
    "too few fields": file("data.csv", b"text,label\na,x\nb\nc,y\n", "data.csv:3: this row has 1 fields, the header 2", "classify", 1),
    "too many fields": file("data.tsv", b"text\tlabel\na\tx\nb\ty\tz\n", "data.tsv:3: this row has 3 fields, the header 2", "classify", 1),
    "an empty cell": file("data.csv", b"text,label\na,x\n,y\n", "data.csv:3: the field 'text' is empty", "classify", 1),
    "an item that is no object": file("data.json", b'[{"text": "a", "label": "x"},\n 3]', "data.json:2: a row must be an object {...}, not int", "classify", 1),
    "an article without questions": file("data.json", json.dumps({"data": [ARTICLE, {"paragraphs": [{"context": "x"}]}]}).encode(), "data.json:1: 'qas' must be a list of objects, not null", "qa", 1),
    "a blank line in parallel text": ({"data.en": b"one\n\n", "data.de": b"eins\nzwei\n"}, "translate", "data.en:2: the field 'source' is empty", 1),
    "null in a Parquet": table({"text": ["a", None], "label": ["x", "y"]}, "data.parquet:2: the field 'text' is null", 1),
    "NaN in a Parquet": table({"text": ["a", "b"], "label": [1.0, float("nan")]}, "data.parquet:2: the field 'label' is nan, which stands for a missing value", 1, label=pyarrow.float64()),
    "bytes in a Parquet": table({"text": ["a"], "label": [b"x"]}, "data.parquet:1: the field 'label' is bytes; it must be text", None, label=pyarrow.binary()),
    "dates in a Parquet": table({"text": [DAY], "label": ["x"]}, "data.parquet:1: the field 'text' is a date or time; it must be text", None, text=pyarrow.timestamp("s")),
}  # fmt: skip
