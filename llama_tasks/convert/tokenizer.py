"""`tokenizer.model` -> `tokenizer.json`: SentencePiece (Llama 1 and 2, and what grew from them) or tiktoken (Llama 3)."""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from llama_tasks.errors import ModelError

SPACE = "▁"
# The text is cut by this expression before pairs are merged (Llama 3, after OpenAI's cl100k).
LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Names of Llama 3's 256 special tokens; those not named are reserved, and numbered in their order. 3.1 named three more.
LLAMA_3_SPECIAL = {
    0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>", 9: "<|eot_id|>",
}  # fmt: skip
LLAMA_3_1_SPECIAL = {**LLAMA_3_SPECIAL, 4: "<|finetune_right_pad_id|>", 8: "<|eom_id|>", 10: "<|python_tag|>"}
ENDS_TURN = ("<|eom_id|>", "<|eot_id|>")
PROBES = (
    "Once upon a time, there was a little girl.", "  two  spaces \n and a line", "从前有一个小女孩，她住在海边。", "１２３ＡＢＣ",
    "def f(x):\n    return x**2  # 12345.678", "émoji 🙂 and \u200bzero width", " leading", "trailing ", "don't we'll I'M",
    "Grüße aus Köln!",
)  # fmt: skip


@dataclass(frozen=True)
class SpecialIds:
    """Begin and end of a text, and every token at which generation ends."""

    bos: int
    eos: int
    ends: int | list[int]


@dataclass(frozen=True)
class Fidelity:
    """How many probe texts the new tokenizer encodes as the original does, and the first one that it does not."""

    kind: str
    vocabulary: int
    probes: int
    equal: int
    first_other: str | None


def convert_tokenizer(
    source: Path, folder: Path, vocab_size: int, model_max_length: int, special: dict[int, str]
) -> tuple[Fidelity | None, SpecialIds]:
    """Write the tokenizer of `source` into `folder`; without one, nothing, and the ids of Llama 1 and 2 are assumed.

    special: of a tiktoken file, the names of its special tokens by their place behind the others.

    Raises ModelError for a file that is neither of the two kinds, or has more entries than the embedding has rows.
    """
    path = source / "tokenizer.model"
    if not path.is_file():
        return None, SpecialIds(1, 2, 2)
    content = path.read_bytes()
    ranks = _tiktoken_ranks(content)
    made = _from_tiktoken(ranks, vocab_size, special) if ranks else _from_sentencepiece(path)
    count = made.tokenizer.get_vocab_size()
    if count > vocab_size:
        raise ModelError(f"{path} has {count} entries, but the embedding has {vocab_size} rows.")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made.tokenizer,
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length,
        **made.names,
    )
    wrapped.save_pretrained(folder)
    return made.fidelity, made.special


@dataclass(frozen=True)
class _Made:
    tokenizer: Tokenizer
    names: dict[str, str]
    special: SpecialIds
    fidelity: Fidelity


def _from_sentencepiece(path: Path) -> _Made:
    try:
        from sentencepiece import SentencePieceProcessor
        from sentencepiece.sentencepiece_model_pb2 import ModelProto
    except ImportError:
        raise ModelError(
            "To read tokenizer.model, sentencepiece and protobuf are needed: pip install 'llama-tasks[convert]'."
        ) from None
    try:
        original = SentencePieceProcessor(model_file=str(path))
        model = ModelProto.FromString(path.read_bytes())
    except (RuntimeError, OSError) as error:
        raise ModelError(
            f"{path} is neither a SentencePiece nor a tiktoken file ({str(error).splitlines()[0]})."
        ) from None
    kinds = ModelProto.SentencePiece.Type
    pieces = [piece.piece for piece in model.pieces]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    scores = {p.piece: p.score for p in model.pieces if p.type in (kinds.NORMAL, kinds.USER_DEFINED)}
    names = {"bos_token": pieces[original.bos_id()], "eos_token": pieces[original.eos_id()],
             "unk_token": pieces[original.unk_id()]}  # fmt: skip
    by_bytes = any(p.type == kinds.BYTE for p in model.pieces)
    merges = list(_merges_by_score(scores, vocabulary))
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=names["unk_token"], fuse_unk=True, byte_fallback=by_bytes))
    tokenizer.normalizer = _normalizer(model.normalizer_spec)
    bytes_back = [decoders.ByteFallback()] if by_bytes else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), *bytes_back, decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    for kind, special in ((kinds.USER_DEFINED, False), (kinds.UNKNOWN, True), (kinds.CONTROL, True)):
        tokenizer.add_tokens(
            [AddedToken(p.piece, normalized=False, special=special) for p in model.pieces if p.type == kind]
        )
    tokenizer.post_processor = _begin(names["bos_token"], original.bos_id())
    fidelity = _compare("SentencePiece", tokenizer, original.encode)
    return _Made(tokenizer, names, SpecialIds(original.bos_id(), original.eos_id(), original.eos_id()), fidelity)


def _normalizer(spec: Any) -> normalizers.Normalizer:
    """What SentencePiece does to a text before it looks for pieces (its NormalizerSpec)."""
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _merges_by_score(scores: dict[str, float], vocabulary: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Every way to make a piece of two others; pieces of high score first, as SentencePiece merges."""
    for piece in sorted(scores, key=lambda piece: (-scores[piece], vocabulary[piece])):
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [(a, b) for a, b in halves if a in scores and b in scores]
        yield from sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


def _from_tiktoken(ranks: dict[bytes, int], vocab_size: int, special: dict[int, str]) -> _Made:
    letters = bytes_to_unicode()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    pairs = [pair for token in sorted(ranks, key=ranks.__getitem__) if (pair := _halves(ranks, token))]
    merges = [(spelled(a), spelled(b)) for a, b in pairs]
    tokenizer = Tokenizer(BPE({spelled(token): rank for token, rank in ranks.items()}, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    names = _special_names(min(256, vocab_size - len(ranks)), special)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    bos, eos = len(ranks), len(ranks) + 1
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), _begin(names[0], bos)])
    ends = [eos, *(len(ranks) + i for i, name in enumerate(names) if name in ENDS_TURN)]
    words = Tokenizer(BPE(unk_token=None))
    words.pre_tokenizer = tokenizer.pre_tokenizer
    fidelity = _compare("tiktoken", tokenizer, lambda text: _encode_by_ranks(text, ranks, words.pre_tokenizer))
    return _Made(tokenizer, {"bos_token": names[0], "eos_token": names[1]}, SpecialIds(bos, eos, ends), fidelity)


def _special_names(count: int, special: dict[int, str]) -> list[str]:
    """Raises ModelError where the embedding leaves no room for them."""
    if count < 2:
        raise ModelError(
            "The embedding has no rows for the special tokens of Llama 3; tokenizer.model is of another model."
        )
    reserved = iter(range(256))
    return [special.get(i) or f"<|reserved_special_token_{next(reserved)}|>" for i in range(count)]


def _tiktoken_ranks(content: bytes) -> dict[bytes, int]:
    """Token -> rank of a file of lines "base64 rank"; empty if the file is no such."""
    ranks: dict[bytes, int] = {}
    try:
        for line in content.splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error):
        return {}
    return ranks if sorted(ranks.values()) == list(range(len(ranks))) else {}


def _halves(ranks: dict[bytes, int], token: bytes) -> tuple[bytes, bytes] | None:
    """The two tokens that are merged into this one: what is left when only earlier merges are made."""
    parts = _merge([token[i : i + 1] for i in range(len(token))], ranks, ranks[token])
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _merge(parts: list[bytes], ranks: dict[bytes, int], below: int) -> list[bytes]:
    """Merge neighbours, lowest rank first, as long as a rank below the limit is found."""
    while len(parts) > 1:
        found = [(ranks.get(a + b, below), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        rank, i = min(found)
        if rank >= below:
            return parts
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]
    return parts


def _encode_by_ranks(text: str, ranks: dict[bytes, int], words: Any) -> list[int]:
    """The definition, slowly: cut into words, then merge bytes by rank."""
    back = {letter: byte for byte, letter in bytes_to_unicode().items()}
    ids: list[int] = []
    for word, _ in words.pre_tokenize_str(text):
        token = bytes(back[letter] for letter in word)
        parts = [token] if token in ranks else _merge([bytes([b]) for b in token], ranks, len(ranks))
        ids += [ranks[part] for part in parts]
    return ids


def _begin(token: str, token_id: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(f"{token} $A", f"{token} $A {token}:1 $B:1", [(token, token_id)])


def _compare(kind: str, tokenizer: Tokenizer, encode: Any) -> Fidelity:
    def same(text: str) -> bool:
        expected: Sequence[int] = encode(text)
        return tokenizer.encode(text, add_special_tokens=False).ids == list(expected)

    other = [text for text in PROBES if not same(text)]
    return Fidelity(
        kind, tokenizer.get_vocab_size(), len(PROBES), len(PROBES) - len(other), other[0] if other else None
    )
