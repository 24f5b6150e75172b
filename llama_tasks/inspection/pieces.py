"""Token ids -> pieces that a person can read: tokens whose bytes make up one character stand together, what cannot be seen is
written as a sign."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from llama_tasks.report import plain
from llama_tasks.tokens import IGNORE, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how sentencepiece writes a byte
_SIGNS = {"\n": "⏎\n", "\t": "⇥", "\r": "␍"}


@dataclass(frozen=True)
class Piece:
    """One token, or several that write one character together.

    Attributes:
        text: what it writes, with signs for what cannot be seen (`⏎`, `⟨1B⟩`).
        trained: whether it carries loss.
        special: BOS, EOS and their like.
    """

    text: str
    ids: tuple[int, ...]
    trained: bool
    special: bool


class Speller:
    """How a tokenizer spells: what each of its tokens writes, in bytes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        decoder = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder")
        self._byte_level = '"ByteLevel"' in json.dumps(decoder)

    def pieces(self, item: Tokens) -> list[Piece]:
        """The tokens of an example, in order."""
        made: list[Piece] = []
        ids: list[int] = []
        held = b""
        names = self.tokenizer.convert_ids_to_tokens(item.input_ids)
        labels = item.labels
        for i, (token, name) in enumerate(zip(item.input_ids, names, strict=True)):
            trained, special = labels[i] != IGNORE, token in self._special
            ids.append(token)
            held += name.encode() if special else self._bytes(name)
            ends = i + 1 == len(names) or (labels[i + 1] != IGNORE) != trained or item.input_ids[i + 1] in self._special
            if special or ends or _is_whole(held):
                made.append(Piece(visible(held), tuple(ids), trained, special))
                ids, held = [], b""
        return made

    def _bytes(self, name: str) -> bytes:
        if self._byte_level:
            known = _byte_of()
            return b"".join(bytes([known[c]]) if c in known else c.encode() for c in name)
        if byte := _BYTE.fullmatch(name):
            return bytes([int(byte[1], 16)])
        return name.replace("\u2581", " ").encode("utf-8", "surrogatepass")


def visible(data: bytes) -> str:
    """Bytes as text that is safe to show: escapes, controls and directional marks as `⟨1B⟩`, bytes that are no character too."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(_SIGNS.get(c) or (c if plain(c) else f"⟨{_code(c):02X}⟩") for c in text)


def _code(character: str) -> int:
    """The code point; of a byte that is no character, which Python writes as U+DC00 + byte, the byte."""
    code = ord(character)
    return code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code


def _is_whole(data: bytes) -> bool:
    """Whether no character is cut at the end."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason != "unexpected end of data"
    return True


@cache
def _byte_of() -> dict[str, int]:
    """Character -> byte, as byte-level tokenizers write them: printable Latin-1 as itself, the other bytes from U+0100 on, in
    their order (GPT-2, Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
