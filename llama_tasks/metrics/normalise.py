"""Tokens of short answers by the rules of the question-answering data sets.

Sources: Rajpurkar et al. 2016 and 2018 (SQuAD), Lewis et al. 2020 (MLQA), Cui et al. 2019 (CMRC 2018).
"""

from __future__ import annotations

import re
import string
import unicodedata
from functools import lru_cache

from llama_tasks.metrics.text import unspaced

# What is dropped as an article. SQuAD: English; MLQA: the others (Arabic: the prefix, wherever it stands).
ARTICLES = {
    "en": r"\b(?:a|an|the)\b",
    "de": r"\b(?:der|die|das|des|dem|den|eine?|eine[nmsr])\b",
    "es": r"\b(?:el|la|los|las|una?|un[oa]s)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "ar": "ال",
}
MLQA_LANGUAGES = ("ar", "de", "en", "es", "hi", "vi", "zh")

_MLQA_HAN = re.compile("([\u4e00-\u9fa5])")
_CMRC_DROPPED = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
# A period that nltk's sentence splitter cuts off: after a whole word of letters that is no abbreviation it knows.
_CMRC_PERIOD = re.compile(r"(?<![\w.])([^\W\d_]{2,})\.(?=\s)")
_CMRC_ABBREVIATIONS = {
    "co", "col", "corp", "dr", "gen", "gov", "inc", "jr", "lt", "ltd", "mr", "mrs", "ms", "rep", "sen", "sgt", "st", "vs",
}  # fmt: skip


def squad_tokens(text: str) -> list[str]:
    """Lower case, without ASCII punctuation and the articles a, an, the; cut at spaces."""
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return re.sub(ARTICLES["en"], " ", text).split()


def mlqa_tokens(text: str, language: str) -> list[str]:
    """Lower case, without punctuation of Unicode and the language's articles; cut at spaces, Han by character.

    "《红楼梦》, 120回" -> 红 楼 梦 120 回. In languages that MLQA does not have, each character of any unspaced script is
    a token.
    """
    text = "".join(char for char in text.lower() if not _is_punctuation(char))
    if language in ARTICLES:
        text = re.sub(ARTICLES[language], " ", text)
    if language == "zh":
        text = _MLQA_HAN.sub(r" \1 ", text)
    elif language not in MLQA_LANGUAGES:
        text = "".join(f" {char} " if unspaced(char) else char for char in text)
    return text.split()


def cmrc_text(text: str) -> str:
    """Lower case, without the outer spaces and CMRC's list of punctuation: what its exact match compares."""
    return "".join(char for char in text.lower().strip() if char not in _CMRC_DROPPED)


def cmrc_tokens(text: str) -> list[str]:
    """CMRC's mixed segmentation: Han by character, what stands between them by nltk's word tokenizer.

    "iPhone 4s售价5.2%" -> iphone 4s 售 价 5.2 %. nltk's sentence splitter needs a model of its own; here a period that ends
    a word of letters before a space is cut off, which is what the splitter does but for some abbreviations.
    """
    from nltk.tokenize import NLTKWordTokenizer

    tokens: list[str] = []
    for part in _MLQA_HAN.split(cmrc_text(text)):
        if _MLQA_HAN.fullmatch(part):
            tokens.append(part)
        else:
            tokens += NLTKWordTokenizer().tokenize(_CMRC_PERIOD.sub(_cut_period, part))
    return tokens


def _cut_period(word: re.Match[str]) -> str:
    return word[0] if word[1] in _CMRC_ABBREVIATIONS else f"{word[1]} ."


@lru_cache(maxsize=1 << 16)
def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")
