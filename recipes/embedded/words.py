"""How words agree and combine: the small types under the lexicon and the grammars of the embedded samples.

`Pair` is the unit of everything above: the same thing said in English and in Chinese.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Pair(NamedTuple):
    en: str
    zh: str

    def sentence(self) -> Pair:
        """The same with a capital letter at the start of the English side."""
        return Pair(self.en[:1].upper() + self.en[1:], self.zh)


class Dice:
    """Seeded choices built on `Random.random()` alone, the one stream that Python promises to keep between versions."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed).random

    def below(self, limit: int) -> int:
        return int(self.random() * limit)

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(count)]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return self.sample(items, len(items))


def pairs(text: str) -> tuple[Pair, ...]:
    """Read 'hat 帽子 | red wine 红酒': the last word of each entry is Chinese, what comes before it is English."""
    return tuple(Pair(*entry.strip().rsplit(" ", 1)) for entry in text.split("|"))


class Noun(NamedTuple):
    en: str
    zh: str
    measure: str
    plural: str


def nouns(text: str) -> tuple[Noun, ...]:
    """Read 'book 本书' entries as 'book 本 书'; the plural is regular unless given as 'fish/fish 条 鱼'."""
    found = []
    for entry in text.split("|"):
        en, measure, zh = entry.strip().rsplit(" ", 2)
        singular, _, plural = en.partition("/")
        found.append(Noun(singular, zh, measure, plural or singular + ("es" if singular[-1] in "xsh" else "s")))
    return tuple(found)


class Verb(NamedTuple):
    """`zh` is the bare verb, as after 没有, 会 and 想; `zh_done` is the form of a finished action."""

    base: str
    third: str
    past: str
    ing: str
    zh: str
    zh_done: str
    places: tuple[str, ...]


class Place(NamedTuple):
    en: str
    preposition: str
    zh: str
    inside: str

    def at(self) -> Pair:
        return Pair(f"{self.preposition} the {self.en}", self.zh + self.inside)

    def name(self) -> Pair:
        return Pair(f"the {self.en}", self.zh)


class Subject(NamedTuple):
    en: str
    zh: str
    number: str  # "I", "one" (he, she, a name) or "many"

    def be(self) -> str:
        return {"I": "am", "one": "is", "many": "are"}[self.number]

    def do(self, verb: Verb) -> str:
        return verb.third if self.number == "one" else verb.base


class Food(NamedTuple):
    en: str
    zh: str
    measure: str
    container: str
    adjectives: tuple[Pair, ...]

    def portion(self, adjective: Pair | None) -> Pair:
        words = f"{adjective.en} {self.en}" if adjective else self.en
        en = f"a {self.container} of {words}" if self.container else article(words)
        return Pair(en, f"一{self.measure}{adjective.zh if adjective else ''}{self.zh}")


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def indefinite(noun: Noun, adjective: Pair | None = None) -> Pair:
    words = f"{adjective.en} {noun.en}" if adjective else noun.en
    return Pair(article(words), f"一{noun.measure}{adjective.zh if adjective else ''}{noun.zh}")


def definite(noun: Noun, adjective: Pair | None = None) -> Pair:
    words = f"{adjective.en} {noun.en}" if adjective else noun.en
    return Pair(f"the {words}", f"那{noun.measure}{adjective.zh if adjective else ''}{noun.zh}")


def fill(template: Pair, dice: Dice, slots: Mapping[str, Sequence[Pair]], **given: Pair) -> Pair:
    """Fill `{slot}` in both languages with the same choice; `{slot2}` is a second, different choice from the same list.

    Slots named in `given` are used as they are.
    """
    chosen = dict(given)
    names = sorted({name for side in template for _, name, _, _ in Formatter().parse(side) if name})
    for name in names:
        if name not in chosen:
            taken = chosen.get(name.rstrip("2"))
            chosen[name] = dice.pick([pair for pair in slots[name.rstrip("2")] if pair != taken])
    return Pair(
        template.en.format(**{name: pair.en for name, pair in chosen.items()}),
        template.zh.format(**{name: pair.zh for name, pair in chosen.items()}),
    ).sentence()
