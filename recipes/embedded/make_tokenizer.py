"""Train the tokenizer of the embedded base: python recipes/embedded/make_tokenizer.py [text files]

Byte-fallback BPE with 4,608 entries: <unk> <s> </s> <pad>, the 256 bytes, single characters (the commonest Han
characters among them), then merges learned on everything that is not Han. A space belongs to the word after it;
digits, punctuation and Han characters stand alone, so no merge crosses them, and what the vocabulary lacks is
spelled in bytes. Every text comes back exactly as it was.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
SPECIALS = ("<unk>", "<s>", "</s>", "<pad>")
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
SIZE, HAN, MAX_LENGTH = 4608, 2300, 512
HAN_CHARACTER = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
MERGEABLE = re.compile(r"[ -~À-ÿ]+")  # printable ASCII and Latin-1 letters
ALPHABET = tuple(map(chr, range(0x20, 0x7F))) + tuple(
    "ÄÖÜßäöüàâçèéêëîïôùûñáíóú–—‘’“”…·€°×，。、；：？！（）《》〈〉「」『』【】～￥"
)
SAMPLE = 400_000  # bytes read of each large file, so that no single book decides the vocabulary
#: How often a text counts, by the start of its file name: our own and modern prose more than the classics.
WEIGHTS = {"practice": 4, "niutrans_modern": 4, "javaguide": 3, "d2l": 2, "rustbook": 2, "tinystories": 2}
ROWS, ANSWERS, PROMPTS = 6, 60, 5000
#: Words that prompts are made of, which the pre-training text hardly knows.
PROMPT_WORDS = (
    "Translate\nEnglish\nChinese\nSummarize\nSummary\nQuestion\nAnswer\nContext\nText\nTopic\nArticle\nPassage\nLabel\n"
    "unanswerable"
)


def pre_tokenizer() -> pre_tokenizers.Sequence:
    """Newlines, digits, punctuation and Han characters alone; a space goes with what follows it."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}|\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"[\p{P}\p{S}]"), "isolated"),
            pre_tokenizers.Split(" ", "merged_with_next"),
        ]
    )


def excerpt(path: Path) -> str:
    """The file, or of a large one eight pieces at equal distances, `SAMPLE` bytes together."""
    data = path.read_bytes()
    if len(data) > SAMPLE:
        step, piece = len(data) // 8, SAMPLE // 8
        data = b"\n".join(data[start : start + piece] for start in range(0, step * 8, step))
    return data.decode(errors="ignore").replace("<|endoftext|>", "")


def sample_texts(path: Path) -> list[tuple[str, int]]:
    """The texts of a file of training rows, without the JSON around them, and how often each kind counts.

    Answers and labels open a response, where no space stands before them: they count more, so that a
    word is one piece there as it is in a text.
    """
    texts, answers = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answers += [*row.get("answers", ()), *([row["label"]] if "label" in row else ())]
        texts += [value for value in row.values() if isinstance(value, str)]
    return [("\n".join(texts), ROWS), ("\n".join(answers), ANSWERS)]


def han_characters(texts: Iterable[tuple[str, int]], required: str) -> list[str]:
    """The `HAN` commonest characters, among them every one of `required`; ties in the order of code points."""
    counts: Counter[str] = Counter()
    for text, weight in texts:
        for character, count in Counter(HAN_CHARACTER.findall(text)).items():
            counts[character] += count * weight
    needed = set(HAN_CHARACTER.findall(required))
    return sorted(counts, key=lambda character: (character not in needed, -counts[character], character))[:HAN]


def merges(texts: list[tuple[str, int]], count: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The first `count` BPE merges on the text between Han characters: new pieces, and the pairs they come from."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=len(ALPHABET) + count,
        initial_alphabet=list(ALPHABET),
        limit_alphabet=len(ALPHABET),
        show_progress=False,
    )

    def stretches() -> Iterator[str]:
        for text, weight in texts:
            for stretch in MERGEABLE.findall(text):
                yield from [stretch] * weight

    tokenizer.train_from_iterator(stretches(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pairs = [(left, right) for left, right in model["merges"]]
    return [left + right for left, right in pairs], pairs


def build(texts: list[tuple[str, int]], required: str) -> Tokenizer:
    """The whole tokenizer; `required` holds the characters that must be single tokens."""
    han = han_characters(texts, required)
    pieces, pairs = merges(texts, SIZE - len(SPECIALS) - len(BYTES) - len(ALPHABET) - len(han))
    entries = list(dict.fromkeys([*SPECIALS, *BYTES, *ALPHABET, *han, *pieces]))
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    if len(vocabulary) != SIZE:
        raise ValueError(f"{len(vocabulary)} entries instead of {SIZE}: the text is too small")
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=pairs, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    # As LLaMA's own tokenizer does: whoever encodes a prompt in the plain way gets BOS, and no EOS.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return tokenizer


def default_files() -> list[Path]:
    shared = sorted((ROOT.parent / "shared" / "data" / "pretrain").glob("**/*.train.txt"))
    return [*shared, ROOT / "build" / "pretrain" / "practice.train.txt"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tokenizer of the embedded base.")
    parser.add_argument(
        "files", nargs="*", type=Path, help="text; default: the pre-training text and the practice text"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "llama_tasks" / "embedded" / "base")
    arguments = parser.parse_args()
    samples = sorted((ROOT / "llama_tasks" / "embedded" / "samples").glob("*/train.jsonl"))
    rows = [text for path in samples for text in sample_texts(path)]
    texts = [(excerpt(path), WEIGHTS.get(path.name.split(".")[0], 1)) for path in arguments.files or default_files()]
    tokenizer = build(
        [*texts, *rows, (PROMPT_WORDS, PROMPTS), (PROMPT_WORDS.replace("\n", " "), PROMPTS)],
        "".join(text for text, _ in rows),
    )

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(arguments.output)
    print(f"{len(wrapped)} entries, tokenizer.json has {(arguments.output / 'tokenizer.json').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
