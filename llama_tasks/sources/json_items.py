"""Strict JSON: lines, and the items of one large array read piece by piece in flat memory.

Stricter than the standard library, which lets a key stand twice (the last wins), reads NaN and turns 1e999 into infinity.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

from llama_tasks.errors import DataError
from llama_tasks.sources.files import File
from llama_tasks.sources.rows import BadRows

_PIECE = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")
_NEAR = 16  # characters: an error so near the end of what was read may only mean that there is more to read


class Broken(ValueError):
    """Text that is no JSON; `str(error)` says why."""


def parse(text: str) -> Any:
    """One JSON value. Raises Broken."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise Broken(_why(error)) from None
    except RecursionError:
        raise Broken("nested too deeply") from None
    except ValueError as error:
        raise Broken(str(error)) from None


def _why(error: json.JSONDecodeError) -> str:
    return f"{error.msg.removesuffix(' at')} at column {error.colno}"


def excerpt(text: str) -> str:
    """The beginning of a text, printable."""
    printable = "".join(c if c.isprintable() else " " for c in text[:80].rstrip())
    return printable + ("…" if len(text) > 80 else "")


def read_lines(file: File, bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON Lines: one object a line; blank lines are no rows. A line that cannot be read goes to `bad`.

    Raises:
        DataError: a damaged file, or bytes that are not UTF-8 in more than one line in ten.
    """
    lines = undecodable = 0
    first: UnicodeDecodeError | None = None
    first_line = 0
    for number, line in file.lines():
        if not line.strip():
            continue
        lines += 1
        try:
            text = line.decode("utf-8").rstrip("\r\n")
            value = parse(text)
        except UnicodeDecodeError as error:
            undecodable, first, first_line = undecodable + 1, first or error, first_line or number
            bad.add(f"{file.name}:{number}", file.not_utf8(error).rstrip("."))
            continue
        except Broken as error:
            why = "a byte-order mark stands before it; were files put end to end?" if text[:1] == "\ufeff" else error
            bad.add(f"{file.name}:{number}", f"broken JSON ({why}): {excerpt(text)}")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            bad.add(f"{file.name}:{number}", f"a row must be an object {{...}}, not {type(value).__name__}")
    if first and undecodable > max(1, lines // 10):
        raise file.error(f"{file.not_utf8(first)} {undecodable} of {lines} lines are so.", first_line)


def read_document(file: File, bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    """A list of objects, or an object whose `data` is one (SQuAD's form); a file of JSON Lines is read as such.

    Raises:
        DataError: broken JSON anywhere: what follows it cannot be trusted.
    """
    if _holds_lines(file):
        yield from read_lines(file, bad)
        return
    with file.open() as stream:
        text = _Text(file, stream)
        in_object = text.skip() == "{"
        if in_object:
            _enter_data(text)
        if text.skip():
            yield from _items(text, bad)
            _leave(text, in_object)


def _holds_lines(file: File) -> bool:
    """Whether the first line is an object by itself: JSON Lines under the name .json."""
    with file.open() as stream:
        head = stream.peek(_PIECE)[:_PIECE].removeprefix(b"\xef\xbb\xbf").lstrip()
    line, end, rest = head.partition(b"\n")
    if not line.startswith(b"{") or (not end and len(head) >= _PIECE - 16):
        return False
    try:
        first = parse(line.decode("utf-8"))
    except ValueError:  # Broken and UnicodeDecodeError are ones; whoever reads the file says so with its line
        return False
    columns = len(first) > 1 and not rest.strip() and all(isinstance(value, (list, dict)) for value in first.values())
    return not columns and not isinstance(first.get("data"), list)


def _enter_data(text: _Text) -> None:
    """Go on to the list under the key `data` of the object that begins here. Raises DataError where there is none."""
    text.take("{")
    keys = []
    while text.skip() not in ("}", ""):
        keys.append(str(text.value()))
        text.take(":")
        if keys[-1] == "data" and text.skip() == "[":
            return
        text.value()
        if text.skip() == ",":
            text.take(",")
    raise text.error(
        f"this object holds no list of rows under the key 'data' (its keys: {', '.join(keys[:10]) or 'none'}); write a list "
        "of objects (pandas: to_json(orient='records')), or one object a line in a .jsonl file"
    )


def _leave(text: _Text, in_object: bool) -> None:
    """Go to the end of the file, past the keys behind `data`. Raises DataError where anything else stands there."""
    while in_object and text.skip() == ",":
        text.take(",")
        text.value()
        text.take(":")
        text.value()
    if in_object:
        text.take("}")
    if text.skip():
        raise text.error("broken JSON (something stands behind the end of the rows)")


def _items(text: _Text, bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    if text.skip() != "[":
        raise text.error("a file of JSON must hold a list of objects [{...}, ...]")
    text.take("[")
    while text.skip() != "]":
        line = text.line
        value = text.value()
        if isinstance(value, dict):
            yield line, value
        else:
            bad.add(f"{text.file.name}:{line}", f"a row must be an object {{...}}, not {type(value).__name__}")
        if text.skip() == ",":
            text.take(",")
            if text.skip() == "]":
                raise text.error("broken JSON (a comma before the closing bracket)")
        elif text.skip() != "]":
            raise text.error("broken JSON (',' or ']' is missing after an item)")
    text.take("]")


class _Text:
    """The text of a file as a window that moves on: `value()` takes the next JSON value and reads no further than it must."""

    def __init__(self, file: File, stream: BufferedReader) -> None:
        self.file, self.line = file, 1
        self._stream = stream
        file.check_head(stream.peek(8)[:8])
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._window, self._at, self._ended = "", 0, False

    def skip(self) -> str:
        """Pass white space; the character that comes next, or nothing at the end."""
        while True:
            space = _SPACE.match(self._window, self._at)
            self._advance(space.end() if space else self._at)
            if self._at < len(self._window) or not self._more():
                return self._window[self._at : self._at + 1]

    def take(self, character: str) -> None:
        """Pass one character that must come next. Raises DataError."""
        if self.skip() != character:
            raise self._broken(f"{character!r} is missing")
        self._advance(self._at + 1)

    def value(self) -> Any:
        """The next JSON value. Raises DataError for broken JSON and for one beyond data.max_row_mb."""
        self.skip()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                near = error.msg.startswith("Unterminated") or error.pos >= len(self._window) - _NEAR
                if not near or not self._more():
                    raise self._broken(_why(error), self._line_at(error.pos)) from None
            except RecursionError:
                raise self._broken("nested too deeply") from None
            except ValueError as error:
                raise self._broken(str(error)) from None
            else:
                if end < len(self._window) or not self._more():  # a number may go on behind the window
                    self._check_length(end - self._at)
                    self._advance(end)
                    return value

    def error(self, why: str, line: int | None = None) -> DataError:
        """A DataError at the present line."""
        return self.file.error(why + ".", line or self.line)

    def _broken(self, why: str, line: int | None = None) -> DataError:
        return self.error(f"broken JSON ({why}): {excerpt(self._window[self._at :][:81])}", line)

    def _check_length(self, length: int) -> None:
        limit = self.file.data.max_row_mb
        if length > limit * 2**20:
            raise self.error(f"this value is longer than {limit} MiB; if that is meant, raise data.max_row_mb")

    def _line_at(self, position: int) -> int:
        return self.line + self._window.count("\n", self._at, position)

    def _advance(self, position: int) -> None:
        self.line, self._at = self._line_at(position), position

    def _more(self) -> bool:
        """Read on, as much again as is already open, so that a long value costs no more than twice its length."""
        if self._ended:
            return False
        rest = self._window[self._at :]
        self._check_length(len(rest))
        piece = self._stream.read(max(_PIECE, len(rest)))
        try:
            decoded = self._decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            line = self.line + rest.count("\n") + error.object[: error.start].count(b"\n")
            raise self.file.error(self.file.not_utf8(error), line) from None
        self._window, self._at, self._ended = rest + decoded, 0, not piece
        return bool(piece)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return values


def _no_nan(text: str) -> Any:
    raise ValueError(f"{text} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_no_nan, parse_float=_finite)
