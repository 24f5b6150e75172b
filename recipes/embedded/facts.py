"""Small texts with facts about two or three people, and one question: the question answering samples.

Five kinds of fact: where somebody lives, what they work as, what they like, the colour of a thing of theirs, and
where they went on which day. Often two people have a fact of the same kind, so the question must be read. An answer
is a span of the text; some questions ask for what the text does not say.
"""

from __future__ import annotations

from typing import NamedTuple

from lexicon import COLOURS, DAYS, DESTINATIONS, JOBS, LIKES, NAMES, PORTABLE, TOWNS, WOMEN
from words import Dice, Noun, Pair, article


class Asked(NamedTuple):
    question: Pair
    answer: Pair | None
    reply: Pair  # the answer as a full sentence: practice text only


class Fact(NamedTuple):
    """One fact on one person: ways to say it about {who}, and the questions it answers."""

    kind: str
    told: tuple[Pair, ...]
    asked: tuple[Asked, ...]


class Story(NamedTuple):
    context: Pair
    sentences: tuple[Pair, ...]
    asked: Asked
    facts: tuple[tuple[Pair, Fact], ...]


KINDS = ("home", "job", "taste", "thing", "trip")


def make(dice: Dice, kind: str, who: Pair, used: set[str]) -> Fact:
    """A fact of this kind whose value is not in `used`, so that a question has one answer; adds the value to `used`."""
    return {"home": _home, "job": _job, "taste": _taste, "thing": _thing, "trip": _trip}[kind](dice, who, used)


def _fresh(dice: Dice, choices: tuple[Pair, ...], used: set[str]) -> Pair:
    value = dice.pick([choice for choice in choices if choice.en not in used])
    used.add(value.en)
    return value


def _home(dice: Dice, who: Pair, used: set[str]) -> Fact:
    town = _fresh(dice, TOWNS, used)
    reply = Pair(f"{who.en} lives in {town.en}.", f"{who.zh}住在{town.zh}。")
    return Fact(
        "home",
        (
            Pair(f"{{who}} lives in {town.en}.", f"{{who}}住在{town.zh}。"),
            Pair(f"{{whose}} home is in {town.en}.", f"{{who}}的家在{town.zh}。"),
        ),
        (
            Asked(Pair(f"Where does {who.en} live?", f"{who.zh}住在哪里？"), town, reply),
            Asked(Pair(f"Who lives in {town.en}?", f"谁住在{town.zh}？"), who, reply),
        ),
    )


def _job(dice: Dice, who: Pair, used: set[str]) -> Fact:
    job = _fresh(dice, JOBS, used)
    reply = Pair(f"{who.en} is {article(job.en)}.", f"{who.zh}是一名{job.zh}。")
    return Fact(
        "job",
        (
            Pair(f"{{who}} is {article(job.en)}.", f"{{who}}是一名{job.zh}。"),
            Pair(f"{{who}} works as {article(job.en)}.", f"{{who}}的工作是{job.zh}。"),
        ),
        (
            Asked(Pair(f"What is {who.en}'s job?", f"{who.zh}的工作是什么？"), job, reply),
            Asked(Pair(f"Who is {article(job.en)}?", f"谁是{job.zh}？"), who, reply),
        ),
    )


def _taste(dice: Dice, who: Pair, used: set[str]) -> Fact:
    taste = _fresh(dice, LIKES, used)
    reply = Pair(f"{who.en} likes {taste.en}.", f"{who.zh}喜欢{taste.zh}。")
    return Fact(
        "taste",
        (
            Pair(f"{{who}} likes {taste.en}.", f"{{who}}喜欢{taste.zh}。"),
            Pair(f"{{who}} likes {taste.en} very much.", f"{{who}}非常喜欢{taste.zh}。"),
        ),
        (
            Asked(Pair(f"What does {who.en} like?", f"{who.zh}喜欢什么？"), taste, reply),
            Asked(Pair(f"Who likes {taste.en}?", f"谁喜欢{taste.zh}？"), who, reply),
        ),
    )


def _thing(dice: Dice, who: Pair, used: set[str]) -> Fact:
    noun: Noun = dice.pick([noun for noun in PORTABLE if noun.en not in used])
    colour = _fresh(dice, COLOURS, used)
    used.add(noun.en)
    bare = Pair(colour.en, colour.zh.removesuffix("的"))
    reply = Pair(f"{who.en}'s {noun.en} is {colour.en}.", f"{who.zh}的{noun.zh}是{colour.zh}。")
    return Fact(
        "thing",
        (
            Pair(f"{{who}} has a {colour.en} {noun.en}.", f"{{who}}有一{noun.measure}{colour.zh}{noun.zh}。"),
            Pair(f"{{whose}} {noun.en} is {colour.en}.", f"{{who}}的{noun.zh}是{colour.zh}。"),
        ),
        (
            Asked(Pair(f"What colour is {who.en}'s {noun.en}?", f"{who.zh}的{noun.zh}是什么颜色？"), bare, reply),
            Asked(Pair(f"Who has a {colour.en} {noun.en}?", f"谁有{colour.zh}{noun.zh}？"), who, reply),
        ),
    )


def _trip(dice: Dice, who: Pair, used: set[str]) -> Fact:
    place, day = _fresh(dice, tuple(place.name() for place in DESTINATIONS), used), _fresh(dice, DAYS, used)
    reply = Pair(f"{who.en} went to {place.en} on {day.en}.", f"{who.zh}{day.zh}去了{place.zh}。")
    return Fact(
        "trip",
        (
            Pair(f"{{who}} went to {place.en} on {day.en}.", f"{{who}}{day.zh}去了{place.zh}。"),
            Pair(f"on {day.en} {{who}} went to {place.en}.", f"{day.zh}{{who}}去了{place.zh}。"),
        ),
        (
            Asked(Pair(f"Where did {who.en} go on {day.en}?", f"{who.zh}{day.zh}去了哪里？"), place, reply),
            Asked(Pair(f"When did {who.en} go to {place.en}?", f"{who.zh}什么时候去了{place.zh}？"), day, reply),
            Asked(Pair(f"Who went to {place.en}?", f"谁去了{place.zh}？"), who, reply),
        ),
    )


def tell(dice: Dice, who: Pair, fact: Fact, again: bool) -> Pair:
    """The fact as a sentence; `again` says that the sentence before spoke of the same person, so a pronoun does."""
    template, she = dice.pick(fact.told), who in WOMEN
    en = (
        {"who": ("she" if she else "he"), "whose": ("her" if she else "his")}
        if again
        else {"who": who.en, "whose": f"{who.en}'s"}
    )
    zh = ("她" if she else "他") if again else who.zh
    return Pair(template.en.format(**en), template.zh.format(who=zh)).sentence()


def story(dice: Dice, unanswerable: float = 0.12) -> Story:
    """Three to five sentences about two or three people, and a question about one of them."""
    people = dice.sample(NAMES, 3 if dice.chance(0.25) else 2)
    counts = [1, 1, 1 + dice.below(2)] if len(people) == 3 else [1 + dice.below(2), 2]
    used: set[str] = set()
    told: list[tuple[Pair, Fact]] = []
    shared = dice.pick(KINDS)  # a fact of this kind everybody has
    for who, count in zip(people, counts, strict=True):
        kinds = [shared, *dice.sample([kind for kind in KINDS if kind != shared], count - 1)]
        told += [(who, make(dice, kind, who, used)) for kind in dice.shuffled(kinds)]
    if dice.chance(0.3):
        told = dice.shuffled(told)
    pronouns = dice.chance(0.7)
    sentences = tuple(
        tell(dice, who, fact, pronouns and index > 0 and told[index - 1][0] == who)
        for index, (who, fact) in enumerate(told)
    )
    context = Pair(" ".join(sentence.en for sentence in sentences), "".join(sentence.zh for sentence in sentences))
    asked = _missing(dice, people, told, used) if dice.chance(unanswerable) else dice.pick(dice.pick(told)[1].asked)
    return Story(context, sentences, asked, tuple(told))


def _missing(dice: Dice, people: list[Pair], told: list[tuple[Pair, Fact]], used: set[str]) -> Asked:
    """A question that sounds like the others, about a fact that the text does not give."""
    absent = [
        (who, kind)
        for who in people
        for kind in KINDS
        if not any(teller == who and fact.kind == kind for teller, fact in told)
    ]
    who, kind = dice.pick(absent)
    question = make(dice, kind, who, set(used)).asked[0].question
    return Asked(question, None, Pair("Nobody knows.", "没有人知道。"))
