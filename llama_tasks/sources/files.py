"""A file as bytes and lines: local or any fsspec URL, compressed or not, with limits that keep memory flat."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from llama_tasks.errors import DataError
from llama_tasks.recipe import DataConfig

COMPRESSIONS = (".gz", ".zst", ".xz", ".bz2")
_MAGIC = {
    b"\x1f\x8b": "gzip-compressed; name it .gz", b"\x28\xb5\x2f\xfd": "zstd-compressed; name it .zst",
    b"\xfd7zXZ": "xz-compressed; name it .xz", b"BZh": "bzip2-compressed; name it .bz2",
    b"PK\x03\x04": "a zip archive; unpack it first", b"PAR1": "a Parquet file; name it .parquet",
    b"ARROW1": "an Arrow file; name it .arrow",
}  # fmt: skip
_FREE = 64 * 2**20  # bytes that any file may unpack to, whatever its ratio: a small file of one repeated row is no bomb
_BUFFER = 1 << 20


@dataclass(frozen=True)
class File:
    """One file of rows, by the name that the user wrote (or the glob found).

    Attributes:
        data: the recipe's `data`, for its limits.
        pair: the other language's file, where the two are parallel text.
    """

    name: str
    data: DataConfig
    pair: File | None = None

    @property
    def compression(self) -> str:
        """`.gz`, `.zst`, `.xz`, `.bz2`, or nothing."""
        suffix = PurePosixPath(self.name).suffix.lower()
        return suffix if suffix in COMPRESSIONS else ""

    @property
    def base(self) -> str:
        """The last part of the name without the compression's ending: `train.en.gz` -> `train.en`."""
        last = PurePosixPath(self.name).name
        return last[: -len(self.compression)] if self.compression else last

    @property
    def stem(self) -> str:
        """`train-00000-of-00002` of `train-00000-of-00002.jsonl.gz`."""
        return PurePosixPath(self.base).stem

    @property
    def format(self) -> str:
        """The ending that says how to read it: `.jsonl` of `train.jsonl.gz`."""
        return PurePosixPath(self.base).suffix.lower()

    def error(self, why: str, line: int | None = None) -> DataError:
        """A DataError that names file and line."""
        return DataError(f"{self.name}:{line}: {why}" if line else f"{self.name} {why}")

    def open(self) -> io.BufferedReader:
        """The bytes behind compression.

        Raises:
            DataError: cannot be opened; while reading: cut off, corrupt, or larger than the recipe allows.
        """
        return io.BufferedReader(_Unpacked(self, open_raw(self)), _BUFFER)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Line numbers from 1, and lines as bytes with their ends, without a byte-order mark. Raises DataError."""
        limit = self.data.max_row_mb * 2**20
        with self.open() as stream:
            self.check_head(stream.peek(8)[:8])
            number, line = 1, stream.readline(limit + 1).removeprefix(b"\xef\xbb\xbf")
            while line:
                if len(line) > limit:
                    raise self.error(
                        f"this line is longer than {self.data.max_row_mb} MiB; if that is meant, raise data.max_row_mb.",
                        number,
                    )
                yield number, line
                number, line = number + 1, stream.readline(limit + 1)

    def text_lines(self) -> Iterator[tuple[int, str]]:
        """As `lines`, decoded. Raises DataError for bytes that are not UTF-8."""
        for number, line in self.lines():
            yield number, self.decode(line, number)

    def decode(self, line: bytes, number: int) -> str:
        """A line as text. Raises DataError with file and line, and how to convert."""
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(self.not_utf8(error), number) from None

    def not_utf8(self, error: UnicodeDecodeError) -> str:
        """The sentence about a byte that is not UTF-8."""
        return (
            f"not UTF-8 (byte {error.object[error.start]:#04x}); convert the file, for example "
            f"iconv -f GB18030 -t UTF-8 {self.base} (Chinese) or iconv -f LATIN1 -t UTF-8 {self.base}."
        )

    def check_head(self, head: bytes) -> None:
        """Raise DataError for first bytes that are not those of a text in UTF-8."""
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise self.error("is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8).")
        for magic, what in _MAGIC.items():
            if head.startswith(magic):
                raise self.error(f"is {what}.")
        if b"\x00" in head[:4]:
            raise self.error("begins with NUL bytes: it is UTF-16 or no text at all; save it as UTF-8.")


class _Unpacked(io.RawIOBase):
    """A decompressed stream that stops at the recipe's limits and says in one sentence what is wrong with the bytes."""

    def __init__(self, file: File, raw: IO[bytes]) -> None:
        self._file, self._raw, self._count = file, raw, 0
        self._stream = _decompressor(file.compression, raw)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            chunk = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise self._damaged(error) from None
        self._count += len(chunk)
        if self._file.compression:
            self._check_size()
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

    def _damaged(self, error: Exception) -> DataError:
        if not self._file.compression:
            return self._file.error(f"cannot be read: {error}.")
        cut = "ended before" in str(error) or "Truncated" in str(error)
        what = "is cut off" if cut else f"is no sound {self._file.compression} file ({error})"
        return self._file.error(f"{what}, after {self._count:,} bytes of content; get or make the file again.")

    def _check_size(self) -> None:
        data = self._file.data
        if self._count > data.max_uncompressed_gb * 2**30:
            raise self._file.error(
                f"unpacks to more than {data.max_uncompressed_gb} GiB; if that is meant, raise data.max_uncompressed_gb."
            )
        ratio = self._count / max(1, self._raw.tell())
        if self._count > _FREE and ratio > data.max_compression_ratio:
            raise self._file.error(
                f"unpacks to more than {data.max_compression_ratio} times its size, as a decompression bomb does; if that is "
                "meant, raise data.max_compression_ratio."
            )


def _decompressor(compression: str, raw: IO[bytes]) -> Any:
    if compression == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if compression == ".bz2":
        return bz2.BZ2File(raw)
    if compression == ".xz":
        return lzma.LZMAFile(raw)
    if compression == ".zst":
        import pyarrow

        return pyarrow.CompressedInputStream(raw, "zstd")
    return raw


class _Remote(io.RawIOBase):
    """The bytes behind a URL. What goes wrong while they are read is a DataError, whatever the driver raises."""

    def __init__(self, url: str, stream: Any) -> None:
        self._url, self._stream = url, stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _reachable(self._url, "read"):
            chunk = self._stream.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def seek(self, offset: int, whence: int = 0) -> int:
        with _reachable(self._url, "read"):
            return int(self._stream.seek(offset, whence))

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _in_parts(filesystem: Any, url: str) -> Any:
    """A file of a web server, to be read at any place; a copy on disk where the server gives the whole alone, as asking for its
    last byte shows."""
    stream = filesystem.open(url, "rb")
    try:
        stream.seek(-1, os.SEEK_END)
        stream.read(1)
        stream.seek(0)
    except ValueError:
        import aiohttp
        import fsspec

        stream.close()
        timeout = aiohttp.ClientTimeout(sock_connect=30, sock_read=60)  # of a silence: the whole may take its time
        # With what the user has set for fsspec: proxies, headers and the like.
        settings = {**filesystem.storage_options, "client_kwargs": {**filesystem.client_kwargs, "timeout": timeout}}
        patient = fsspec.filesystem("http", **settings)
        with contextlib.ExitStack() as unless_whole:
            stream = unless_whole.enter_context(tempfile.TemporaryFile())
            patient.get_file(url, stream)
            stream.seek(0)
            unless_whole.pop_all()
    return stream


def open_raw(file: File) -> IO[bytes]:
    """The bytes as stored. Raises DataError, behind a URL also while they are read."""
    if is_url(file.name):
        filesystem, path = filesystem_of(file.name)
        with _reachable(file.name, "read"):
            stream = _in_parts(filesystem, path) if path.startswith("http") else filesystem.open(path, "rb")
        return cast(IO[bytes], _Remote(file.name, stream))
    try:
        return Path(file.name).expanduser().open("rb")
    except OSError as error:
        raise file.error(f"cannot be opened: {error.strerror or error}.") from None


# --- local paths and fsspec URLs alike ------------------------------------------------------------------------------


def is_url(name: str) -> bool:
    """Whether fsspec has to read it: `s3://…`, `memory://…`, `simplecache::https://…`."""
    return "://" in name


def filesystem_of(url: str) -> tuple[Any, str]:
    """fsspec's filesystem and the path on it. Raises DataError with the pip line of a driver that is not installed."""
    import fsspec
    from fsspec.registry import known_implementations

    protocol = url.split("://")[0].split("::")[-1]
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError:
        module = known_implementations.get(protocol, {}).get("class", protocol).split(".")[0]
        raise DataError(f"{url}: reading {protocol}:// needs a driver: pip install {module}") from None
    except Exception as error:  # drivers raise what their libraries do
        raise DataError(f"{url} cannot be opened: {str(error).rstrip('.')}.") from None
    return filesystem, path


@contextlib.contextmanager
def _reachable(url: str, what: str = "reached") -> Iterator[None]:
    """What goes wrong on the way to a URL as a DataError: drivers raise what their libraries do (aiohttp's, botocore's)."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{url} cannot be {what}: {str(error).rstrip('.') or type(error).__name__}.") from None


def is_folder(name: str) -> bool:
    """Whether it is a folder, here or behind the URL."""
    if not is_url(name):
        return os.path.isdir(Path(name).expanduser())  # unlike Path.is_dir, False for a name too long to be one
    filesystem, path = filesystem_of(name)
    with _reachable(name):
        return bool(filesystem.isdir(path))


def is_file(name: str) -> bool:
    """Whether it is a file, here or behind the URL."""
    if not is_url(name):
        return os.path.isfile(Path(name).expanduser())
    filesystem, path = filesystem_of(name)
    with _reachable(name):
        return bool(filesystem.isfile(path))


def entries(folder: str) -> list[str]:
    """Full names in a folder, sorted."""
    if not is_url(folder):
        return [str(path) for path in sorted(Path(folder).expanduser().iterdir())]
    filesystem, path = filesystem_of(folder)
    with _reachable(folder):
        return sorted(filesystem.unstrip_protocol(found) for found in filesystem.ls(path, detail=False))


def matches(pattern: str) -> list[str]:
    """The files that a glob names (`**` reaches into folders), sorted."""
    if not is_url(pattern):
        import glob

        found = glob.glob(str(Path(pattern).expanduser()), recursive=True)
        return sorted(name for name in found if Path(name).is_file())
    filesystem, path = filesystem_of(pattern)
    with _reachable(pattern):
        found = [name for name in filesystem.glob(path) if filesystem.isfile(name)]
    return sorted(filesystem.unstrip_protocol(name) for name in found)
