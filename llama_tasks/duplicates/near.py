"""Which texts say nearly the same: one grouping for splits (a group stays on one side) and for cleaning.

A text is reduced to what is not space, punctuation or case, and cut into shingles: runs of five characters, of two where it is
Chinese, Japanese or Korean. Two texts are near duplicates when the Jaccard similarity of their shingles (shared / all) reaches
the threshold, as estimated by MinHash over 128 hashes (Broder 1997; standard error 0.035 at 0.8). Locality-sensitive hashing
finds the candidates, so that no text is compared with all others.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

_HASHES = 128
_SEED = 1
_RECALL = 0.99  # least share of the pairs at the threshold that become candidates
_WIDE = 0x2E80  # from here on scripts write a syllable or a word with one character
_CHUNK = 8192  # texts hashed together
_LAST_PUNCTUATION = 0x20000  # no punctuation, space or control character stands beyond (tags of plane 14 aside)

_Codes = NDArray[np.uint32]  # [characters]


def near_duplicate_groups(texts: Iterable[str], threshold: float = 0.8) -> list[int]:
    """Group exact and near duplicates: for each text the index of the first text of its group.

    `groups[i] == i` marks the first of each group: the texts that stay when duplicates are removed. Groups are closed: where a
    is near b and b near c, all three are one group. The same texts in the same order give the same groups. Texts are read once
    and not kept; about 500 bytes of each stay in memory.

    Args:
        texts: any number of texts; an empty one equals other empty ones only.
        threshold: least Jaccard similarity, in (0, 1]; 1 groups the texts that are equal once `normalised`.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], not {threshold}")
    row_of: dict[bytes, int] = {}  # normalised text -> its row of signatures
    rows: list[int] = []
    first: list[int] = []  # row -> index of the first such text
    signatures = []
    for chunk in _chunks(texts, _CHUNK):
        new = []
        for codes in map(_codes, chunk):
            row = row_of.setdefault(hashlib.blake2b(codes.tobytes(), digest_size=16).digest(), len(first))
            if row == len(first):
                first.append(len(rows))
                new.append(codes)
            rows.append(row)
        signatures.append(_signatures(new) if threshold < 1 else _NONE)
    roots = _join(np.concatenate(signatures), threshold) if threshold < 1 and rows else range(len(first))
    return [first[roots[row]] for row in rows]


def normalised(text: str) -> str:
    """The text without case, width, spaces, punctuation and control characters; itself where nothing else is in it."""
    return _codes(text).tobytes().decode("utf-32-le", "surrogatepass")


def _codes(text: str) -> _Codes:
    """Code points of the normalised text."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32)
    kept = codes[~_ignored()[np.minimum(codes, _LAST_PUNCTUATION)]]
    return kept if len(kept) else np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@functools.cache
def _ignored() -> NDArray[np.bool_]:
    kinds = {"Cc", "Cf", "Zs", "Zl", "Zp", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"}
    return np.array([unicodedata.category(chr(code)) in kinds for code in range(_LAST_PUNCTUATION + 1)])


def _chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, size)):
        yield chunk


# --- MinHash: text -> signature -------------------------------------------------------------------------------------

_Signatures = NDArray[np.uint16]  # [texts, hashes]; 16 bits of each hash tell a match from a chance one in 65,536
_NONE: _Signatures = np.empty((0, _HASHES), np.uint16)


def _signatures(texts: Sequence[_Codes]) -> _Signatures:
    from rensa import RMinHash

    if not texts:
        return _NONE
    shingles = [_shingles(codes) for codes in texts]
    offsets = np.cumsum([0, *map(len, shingles)], dtype=np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(shingles), offsets, _HASHES, _SEED)
    return np.array(matrix.to_rows(), np.uint32).astype(np.uint16)


def _shingles(codes: _Codes) -> NDArray[np.uint64]:
    """Hashes of a text's shingles (a polynomial of their characters, then mixed); one for a text shorter than a shingle."""
    codes = codes.astype(np.uint64)
    width = 2 if 3 * np.count_nonzero(codes >= _WIDE) >= len(codes) else 5
    count = max(1, len(codes) - width + 1)
    hashes = np.zeros(count, np.uint64)
    for offset in range(min(width, len(codes))):
        hashes = hashes * np.uint64(0x100000001B3) + codes[offset : offset + count]
    hashes ^= hashes >> np.uint64(31)
    return (hashes * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)


# --- locality-sensitive hashing: signatures -> groups ---------------------------------------------------------------


def _join(signatures: _Signatures, threshold: float) -> list[int]:
    """Row -> first row of its group."""
    parents = list(range(len(signatures)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for bucket in _buckets(signatures, threshold):
        roots = np.array([root(int(row)) for row in bucket])
        for index in range(len(bucket) - 1):
            others = index + 1 + np.flatnonzero(roots[index + 1 :] != roots[index])
            if not len(others):
                continue
            alike = (signatures[bucket[others]] == signatures[bucket[index]]).mean(axis=1) >= threshold
            for other in others[alike]:
                kept, gone = sorted((int(roots[index]), int(roots[other])))
                parents[gone] = kept
                roots[(roots == gone)] = kept
    return [root(row) for row in range(len(signatures))]


def _buckets(signatures: _Signatures, threshold: float) -> Iterator[NDArray[np.intp]]:
    """Rows that agree in one band of their signatures, band by band; a pair at the threshold shares a bucket at least once
    with probability 0.99."""
    width = max(r for r in range(1, _HASHES + 1) if r == 1 or 1 - (1 - threshold**r) ** (_HASHES // r) >= _RECALL)
    weights = np.random.default_rng(_SEED).integers(1, 2**63, width, dtype=np.uint64) | np.uint64(1)
    for start in range(0, _HASHES - width + 1, width):
        keys = (signatures[:, start : start + width].astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order], prepend=keys[order[0]] + np.uint64(1), append=~keys[order[-1]]))
        for begin in np.flatnonzero(np.diff(edges) > 1):
            yield order[edges[begin] : edges[begin + 1]]
