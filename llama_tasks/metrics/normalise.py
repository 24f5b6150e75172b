"""Tokens of short answers by the rules of the question-answering data sets.

Sources: Rajpurkar et al. 2016 and 2018 (SQuAD), Lewis et al. 2020 (MLQA), Cui et al. 2019 (CMRC 2018).
"""

from __future__ import annotations

import re
import string
import unicodedata
from functools import cache, lru_cache
from typing import Any

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
# Words whose period ends no sentence: all 156 abbreviations of nltk's English model (`punkt_tab`), which Kiss and Strunk's
# method (2006) found in newspapers, with ". . " for an ellipsis with spaces.
_ABBREVIATIONS = {
    ". . ", "a.a", "a.c", "a.d", "a.g", "a.h", "a.m", "a.m.e", "a.s", "a.t", "adm", "ala", "ariz", "aug", "ave", "b.f", "b.v",
    "bros", "c", "c.i.t", "c.o.m.b", "c.v", "calif", "chg", "cie", "co", "col", "colo", "conn", "corp", "cos", "ct", "d", "d.c",
    "d.h", "d.w", "dec", "dr", "e", "e.f", "e.h", "e.l", "e.m", "f", "f.g", "f.j", "feb", "fla", "fri", "ft", "g", "g.d", "g.f",
    "g.k", "ga", "gen", "h", "h.c", "h.f", "h.m", "i.m.s", "ill", "inc", "j.b", "j.c", "j.j", "j.k", "j.p", "j.r", "jan", "jr",
    "k", "kan", "ky", "l", "l.a", "l.f", "l.p", "lt", "ltd", "m", "m.b.a", "m.d.c", "m.j", "maj", "messrs", "mg", "mich", "minn",
    "mr", "mrs", "ms", "n", "n.c", "n.d", "n.h", "n.j", "n.m", "n.v", "n.y", "nev", "nov", "oct", "ok", "okla", "ore", "p",
    "p.a.m", "p.m", "pa", "ph.d", "prof", "r", "r.a", "r.h", "r.i", "r.j", "r.k", "r.t", "rep", "reps", "s", "s.a", "s.a.y", "s.c",
    "s.g", "s.p.a", "s.s", "sen", "sep", "sept", "sr", "st", "sw", "t", "t.j", "tenn", "tues", "u.k", "u.n", "u.s", "u.s.a",
    "u.s.s.r", "v", "va", "vs", "vt", "w", "w.c", "w.r", "w.va", "w.w", "wash", "wed", "wis", "yr",
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


@lru_cache(maxsize=1024)
def cmrc_tokens(text: str) -> list[str]:
    """CMRC's mixed segmentation: Han by character, what stands between them by nltk's word tokenizer.

    "iPhone 4s售价5.2%" -> iphone 4s 售 价 5.2 %
    """
    from nltk.tokenize import NLTKWordTokenizer

    splitter, words = sentence_splitter()[0], NLTKWordTokenizer()
    tokens: list[str] = []
    for part in _MLQA_HAN.split(cmrc_text(text)):
        if _MLQA_HAN.fullmatch(part):
            tokens.append(part)
        else:
            tokens += [word for sentence in splitter.tokenize(part) for word in words.tokenize(sentence)]
    return tokens


@cache
def sentence_splitter() -> tuple[Any, str]:
    """What nltk's word tokenizer splits sentences with (the period of each is a token), and how a signature calls it.

    It is `punkt`, nltk's English model, where that is installed (`nltk.download("punkt_tab")`). Else it is the same
    algorithm with that model's abbreviations, without its word pairs and counts of capitals: `punkt-abbreviations`.
    """
    from nltk.tokenize import PunktTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    try:
        return PunktTokenizer("english"), "punkt"
    except LookupError:
        splitter = PunktSentenceTokenizer()
        splitter._params = PunktParameters()
        splitter._params.abbrev_types.update(_ABBREVIATIONS)
        return splitter, "punkt-abbreviations"


@lru_cache(maxsize=1 << 16)
def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")
