"""Tokens of a large split, kept for the next run; never stale, because the key holds everything that tokens depend on.

    ~/.cache/llama-tasks/tokens/KEY.arrow      one Arrow file a split, and behind it the SHA-256 of its bytes

KEY is a hash of every rendered prompt with its answer (so of data and templates), the tokenizer, the prompt settings, and the
code of this package. The folder is that of LLAMA_TASKS_CACHE where it is set; it keeps `LIMIT` bytes, the files used last;
remove it whenever you like.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from llama_tasks.contract import special_ids, tokenizer_sha256
from llama_tasks.prompts import Prompt
from llama_tasks.tokens import Encoded, Encoder, Tokens

# Fewer prompts are encoded in about a second (bench/results/encoding.json).
LEAST_PROMPTS = 5000
LIMIT = 10 * 2**30
_DIGEST = 32  # bytes of a SHA-256
_NAMED = ("dropped", "answer_cut", "truncated")  # lists of ids beside the tokens


def encode(encoder: Encoder, prompts: Sequence[Prompt]) -> Encoded:
    """As `encoder.encode`, from the cache where it holds these tokens; a damaged file there is made anew."""
    if len(prompts) < LEAST_PROMPTS:
        return encoder.encode(prompts)
    path = folder() / f"{key(encoder, prompts)}.arrow"
    found = read(path)
    if found is None:
        found = encoder.encode(prompts)
        with contextlib.suppress(OSError):  # a full or read-only disk keeps nothing; the run goes on
            write(path, found)
            prune(path.parent, LIMIT)
    return found


def folder() -> Path:
    """Where files are kept."""
    root = os.environ.get("LLAMA_TASKS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "llama-tasks"
    return Path(root).expanduser() / "tokens"


def key(encoder: Encoder, prompts: Sequence[Prompt]) -> str:
    """SHA-256 of everything that the tokens of the prompts depend on."""
    tokenizer = encoder.tokenizer
    settings = [tokenizer_sha256(tokenizer), special_ids(tokenizer), encoder.bos, encoder.eos, tokenizer.chat_template]
    digest = hashlib.sha256(repr([_code(), settings, encoder.config]).encode())
    for prompt in prompts:
        digest.update(repr(prompt).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@functools.cache
def _code() -> str:
    """SHA-256 of this package's code, with the versions of what it encodes by."""
    digest = hashlib.sha256(f"{version('tokenizers')} {version('transformers')}".encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write(path: Path, encoded: Encoded) -> None:
    """Write tokens to a file, whole or not at all. Raises OSError where the disk refuses."""
    import pyarrow as pa

    kinds = {"id": pa.large_string(), "input_ids": pa.large_list(pa.int32()), "prompt_length": pa.int32(),
             "ignored": pa.large_list(pa.list_(pa.int32(), 2)), "weight": pa.float64()}  # fmt: skip
    columns = {name: pa.array([getattr(item, name) for item in encoded.tokens], kind) for name, kind in kinds.items()}
    about = {name: json.dumps(getattr(encoded, name)) for name in _NAMED}
    table = pa.table(columns).replace_schema_metadata(about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}.staging")
    try:
        with staging.open("wb") as file:
            file.write(body)
            file.write(hashlib.sha256(body).digest())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def read(path: Path) -> Encoded | None:
    """What `write` wrote, mapped into memory; None where there is no such file or a damaged one."""
    import pyarrow as pa

    try:
        whole = pa.memory_map(str(path)).read_buffer()
        body = whole.slice(0, max(0, whole.size - _DIGEST))
        if hashlib.sha256(body).digest() != whole.slice(body.size).to_pybytes():
            return None
        table = pa.ipc.open_file(pa.BufferReader(body)).read_all()
        os.utime(path)  # used now
    except (OSError, pa.ArrowException):
        return None
    about = table.schema.metadata
    tokens = cast("list[Tokens]", MappedTokens(table))
    return Encoded(tokens, **{name: json.loads(about[name.encode()]) for name in _NAMED})


def prune(where: Path, limit: int) -> None:
    """Remove the files that were not used for longest, until the folder holds at most `limit` bytes."""
    files = sorted(where.glob("*.arrow"), key=lambda path: path.stat().st_mtime, reverse=True)
    size = 0
    for path in files:
        size += path.stat().st_size
        if size > limit:
            path.unlink(missing_ok=True)


class MappedTokens(Sequence[Tokens]):
    """Tokens of an Arrow table, each made when it is asked for."""

    def __init__(self, table: Any) -> None:
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        self.ids, self.ignored = columns["id"], columns["ignored"]
        self.starts = columns["input_ids"].offsets.to_numpy()
        self.values = columns["input_ids"].values.to_numpy()
        self.prompt_lengths = columns["prompt_length"].to_numpy()
        self.weights = columns["weight"].to_numpy()

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return Tokens(
            self.ids[at].as_py(),
            self.values[self.starts[at] : self.starts[at + 1]].tolist(),
            int(self.prompt_lengths[at]),
            tuple((start, end) for start, end in self.ignored[at].as_py()),
            float(self.weights[at]),
        )
