"""Words, sentences and scripts: what the metrics need to know about languages.

A script is *unspaced* when words are not set apart by spaces (Han, kana, Thai, Lao, Khmer, Burmese); there each
character counts as a word, as sacrebleu's `zh`, MLQA and CMRC do for Han.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import version

from llama_tasks.errors import MetricError

# ISO 639-3 (and old bibliographic) codes of languages that we treat by their two letters; Chinese by its main script.
_ALIASES = dict.fromkeys(("zho", "chi", "cmn", "yue", "wuu", "lzh"), "zh") | {
    "eng": "en", "deu": "de", "ger": "de", "spa": "es", "vie": "vi", "hin": "hi", "ara": "ar", "arb": "ar",
    "jpn": "ja", "kor": "ko", "tha": "th", "lao": "lo", "khm": "km", "mya": "my", "bur": "my",
}  # fmt: skip

_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # 々 〆 〇
    (0x3040, 0x30FF),  # hiragana, katakana
    (0x31F0, 0x31FF),  # katakana extensions
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # half-width katakana
    (0x20000, 0x323AF),  # Han, extensions B to H
)

_SENTENCE_END = re.compile(r"(?:[。！？；।॥]+[”’」』）]*|[.!?؟۔]+[\"')\]”’]*(?=\s))\s*")

# Words before a period that ends no sentence, and those before one that may, where a capital letter follows.
_TITLES = {
    "mr", "mrs", "ms", "dr", "prof", "st", "gen", "gov", "sen", "rep", "col", "lt", "sgt", "capt", "rev", "hon", "mt", "vs",
    "cf", "fig", "approx", "e.g", "i.e", "z.b", "d.h",
}  # fmt: skip
_MAY_END = {
    "inc", "co", "corp", "ltd", "jr", "sr", "etc", "jan", "feb", "apr", "aug", "sept", "oct", "nov", "dec", "bzw", "usw",
}  # fmt: skip


def base_language(lang: str) -> str:
    """The plain language of a code: `zh-CN`, `zh_Hans`, `zho_Hans` and `yue` give `zh`.

    Raises:
        MetricError: not a language code.
    """
    if not isinstance(lang, str) or not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*", lang):
        raise MetricError(f"lang {lang!r} is not a language code; write e.g. `lang: en`, `zh`, `de`, `pt-BR`")
    code = re.split("[-_]", lang.lower())[0]
    return _ALIASES.get(code, code)


@lru_cache(maxsize=1 << 16)
def unspaced(char: str) -> bool:
    """Whether `char` belongs to a script written without spaces between words."""
    return any(first <= ord(char) <= last for first, last in _UNSPACED)


def words(text: str) -> list[str]:
    """Lower-cased words of any language: runs of letters, marks and digits; an unspaced character is a word.

    "Über 3,5 km" -> über 3 5 km;  "GDP增长5.2%" -> gdp 增 长 5 2;  "हिन्दी" -> one word, with its vowel signs

    Characters that only shape what stands around them (soft hyphen, joiners, marks of direction) are left out, as they do not
    part words (UAX #29, WB4); the zero-width space does.
    """
    return "".join(map(_spread, text.lower())).split()


@lru_cache(maxsize=1 << 16)
def _spread(char: str) -> str:
    if unicodedata.category(char) == "Cf" and char != "\u200b":
        return ""
    if not (char.isalnum() or unicodedata.category(char).startswith("M")):
        return " "
    return f" {char} " if unspaced(char) else char


def word_cutter(name: str, lang: str, tok: str) -> tuple[Callable[[str], list[str]], str]:
    """What cuts text into words, and how a signature calls it: `unicode` is `words`, `jieba` cuts Chinese by dictionary.

    Raises:
        MetricError: jieba for another language, or not installed.
    """
    language = base_language(lang)
    if tok == "unicode":
        return words, tok
    if language != "zh":
        raise MetricError(f"{name}: jieba cuts Chinese only, and this is `lang: {lang}`; leave `tok` out")
    try:
        import rjieba
    except ImportError:
        raise MetricError(f'{name}: jieba is not installed; pip install "llama-tasks[zh]"') from None

    def cut(text: str) -> list[str]:
        return [word.lower() for word in rjieba.cut(text) if any(map(str.isalnum, word))]

    return cut, f"jieba-rjieba-{version('rjieba')}"


def split_sentences(text: str) -> str:
    """`text` with a newline after each sentence; text that has newlines is taken as split already.

    After 。！？； and the danda always, after . ! ? before a space, but not after a title (Dr.), an initial (J.), nor
    before a small letter after an abbreviation (U.S., Inc.).
    """
    if "\n" in text.strip():
        return text
    return _SENTENCE_END.sub(lambda end: end[0].rstrip() + "\n" if _ends(text, end) else end[0], text).rstrip("\n")


def _ends(text: str, end: re.Match[str]) -> bool:
    if not end[0].startswith("."):
        return True
    before = re.search(r"[\w.]*$", text[max(0, end.start() - 16) : end.start()])
    word = before[0] if before else ""
    if word.lower() in _TITLES or (len(word) == 1 and word.isupper() and word != "I"):
        return False
    return not text[end.end() : end.end() + 1].islower() or not ("." in word or word.lower() in _MAY_END)


def mostly(texts: Iterable[str], test: Callable[[str], bool]) -> bool:
    """Whether more than half of the letters of `texts` pass `test`."""
    letters = [char for text in texts for char in text if char.isalpha()]
    return 2 * sum(map(test, letters)) > len(letters)


def refuse_unspaced(name: str, lang: str, references: Iterable[Iterable[str]]) -> None:
    """Refuse references in an unspaced script where words are taken to stand between spaces.

    Raises:
        MetricError: more than half of the rows are such.
    """
    rows = [mostly(row, unspaced) for row in references]
    if 2 * sum(rows) > len(rows):
        raise MetricError(
            f"{name}: `lang: {lang}` takes words to stand between spaces, but the references of {sum(rows)} of "
            f"{len(rows)} rows are written without them; set `lang:` to their language (zh, ja, th, ...; "
            "in a recipe: data.constants.lang=zh, or a column `lang`)"
        )
