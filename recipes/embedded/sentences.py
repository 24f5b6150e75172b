"""One sentence in English and Chinese at a time: the frames of the translation samples.

A frame is a function of the dice. Both sides carry exactly the same meaning; a time phrase that opens the English
sentence opens the Chinese one, and a time phrase at the end of the English sentence stands after the subject in
Chinese, before the place and the verb.
"""

from __future__ import annotations

from collections.abc import Callable

from lexicon import (
    ACTIVITIES,
    ANIMAL_ACTIVITIES,
    ANIMAL_ADJECTIVES,
    ANIMAL_VERBS,
    ANIMALS,
    COLOURS,
    DESTINATIONS,
    DRINK,
    DRINKS,
    EAT,
    FOODS,
    FUTURE,
    HABIT,
    JOBS,
    LIKES,
    MAKE,
    NAMES,
    NUMBERS,
    PAST,
    PERSON_ADJECTIVES,
    PERSON_VERBS,
    PLACES,
    PORTABLE,
    SUBJECT_WORDS,
    THING_ADJECTIVES,
    THING_VERBS,
    THINGS,
    TOWNS,
)
from words import Dice, Noun, Pair, Subject, Verb, article, definite, indefinite


def subject(dice: Dice) -> Subject:
    """A name, a person with an adjective, or one of the little words."""
    kind = dice.random()
    if kind < 0.55:
        return Subject(*dice.pick(NAMES), "one")
    if kind < 0.75:
        return Subject(*person(dice), "one")
    return dice.pick(SUBJECT_WORDS)


def person(dice: Dice) -> Pair:
    job, adjective = dice.pick(JOBS), dice.pick(PERSON_ADJECTIVES)
    return Pair(f"the {adjective.en} {job.en}", f"那位{adjective.zh}{job.zh}")


def other(dice: Dice, first: Subject) -> Pair:
    """Somebody else than `first`."""
    if dice.chance(0.3):
        return person(dice)
    return dice.pick([name for name in NAMES if name.en != first.en])


def where(dice: Dice, verb: Verb) -> Pair:
    return PLACES[dice.pick(verb.places)].at()


def thing(dice: Dice, choices: tuple[Noun, ...] = THINGS, known: bool = False) -> Pair:
    noun = dice.pick(choices)
    adjectives = [
        adjective for adjective in THING_ADJECTIVES if noun.en != "letter" or adjective.en not in ("cheap", "expensive")
    ]
    return (definite if known else indefinite)(noun, dice.pick(adjectives))


def animal(dice: Dice, known: bool = False) -> Pair:
    adjective = dice.pick(ANIMAL_ADJECTIVES) if dice.chance(0.8) else None
    return (definite if known else indefinite)(dice.pick(ANIMALS), adjective)


def act(dice: Dice, who: Subject, known: bool = False) -> tuple[Verb, Pair]:
    """A verb and what it is done to."""
    kind = dice.random()
    if kind < 0.5:
        verb, choices = dice.pick(THING_VERBS)
        return verb, thing(dice, choices, known)
    if kind < 0.7:
        return dice.pick(ANIMAL_VERBS), animal(dice, known)
    if kind < 0.85:
        return dice.pick(PERSON_VERBS), other(dice, who)
    if kind < 0.95:
        food = dice.pick(FOODS)
        return dice.pick((EAT, MAKE)), food.portion(dice.pick(food.adjectives))
    drink = dice.pick(DRINKS)
    return DRINK, drink.portion(dice.pick(drink.adjectives))


def timed(dice: Dice, who: Subject, time: Pair, en: str, zh: str, end: str = ".。") -> Pair:
    """Put the time first or last: 'Yesterday Anna …' / 昨天安娜…, 'Anna … yesterday' / 安娜昨天…"""
    if dice.chance(0.4):
        return Pair(f"{time.en} {who.en} {en}{end[0]}", f"{time.zh}{who.zh}{zh}{end[1]}")
    return Pair(f"{who.en} {en} {time.en}{end[0]}", f"{who.zh}{time.zh}{zh}{end[1]}")


def past_action(dice: Dice) -> Pair:
    who = subject(dice)
    verb, what = act(dice, who)
    place = where(dice, verb)
    return timed(
        dice, who, dice.pick(PAST), f"{verb.past} {what.en} {place.en}", f"在{place.zh}{verb.zh_done}{what.zh}"
    )


def habit(dice: Dice) -> Pair:
    who, verb = subject(dice), dice.pick(ACTIVITIES)
    place = where(dice, verb)
    return timed(dice, who, dice.pick(HABIT), f"{who.do(verb)} {place.en}", f"都在{place.zh}{verb.zh}")


def going_on(dice: Dice) -> Pair:
    if dice.chance(0.4):
        who, verb = Subject(*animal(dice, known=True), "one"), dice.pick(ANIMAL_ACTIVITIES)
    else:
        who, verb = subject(dice), dice.pick(ACTIVITIES)
    place = where(dice, verb)
    return Pair(f"{who.en} {who.be()} {verb.ing} {place.en} now.", f"{who.zh}现在正在{place.zh}{verb.zh}。")


def plan(dice: Dice) -> Pair:
    who, verb = subject(dice), dice.pick(ACTIVITIES)
    place = where(dice, verb)
    return timed(dice, who, dice.pick(FUTURE), f"will {verb.base} {place.en}", f"会在{place.zh}{verb.zh}")


def wish(dice: Dice) -> Pair:
    who = subject(dice)
    verb, choices = dice.pick([entry for entry in THING_VERBS if entry[0].base in ("buy", "sell", "borrow", "find")])
    what, time = thing(dice, choices), dice.pick(FUTURE)
    want = "wants" if who.number == "one" else "want"
    return Pair(f"{who.en} {want} to {verb.base} {what.en} {time.en}.", f"{who.zh}{time.zh}想{verb.zh}{what.zh}。")


def gift(dice: Dice) -> Pair:
    who, what = subject(dice), thing(dice)
    receiver = other(dice, who)
    return timed(dice, who, dice.pick(PAST), f"gave {receiver.en} {what.en}", f"送给了{receiver.zh}{what.zh}")


def denial(dice: Dice) -> Pair:
    who = subject(dice)
    verb, what = act(dice, who, known=True)
    return timed(dice, who, dice.pick(PAST), f"did not {verb.base} {what.en}", f"没有{verb.zh}{what.zh}")


def question(dice: Dice) -> Pair:
    who = subject(dice)
    verb, what = act(dice, who, known=True)
    if dice.chance(0.5):
        time = dice.pick(PAST)
        return Pair(f"did {who.en} {verb.base} {what.en} {time.en}?", f"{who.zh}{time.zh}{verb.zh_done}{what.zh}吗？")
    time = dice.pick(FUTURE)
    return Pair(f"will {who.en} {verb.base} {what.en} {time.en}?", f"{who.zh}{time.zh}会{verb.zh}{what.zh}吗？")


def because(dice: Dice) -> Pair:
    who, verb = subject(dice), dice.pick(ACTIVITIES)
    place, time = where(dice, verb), dice.pick([time for time in FUTURE if time.en != "next month"])
    en, zh = dice.pick(
        (
            ("it will rain", "要下雨"),
            ("it will be cold", "会很冷"),
            ("it will snow", "要下雪"),
            ("it will be windy", "会刮风"),
        )
    )
    return Pair(
        f"{who.en} will not {verb.base} {place.en} {time.en} because {en}.",
        f"因为{time.zh}{zh}，{who.zh}不会在{place.zh}{verb.zh}。",
    )


def counting(dice: Dice) -> Pair:
    number, place = (
        dice.pick(NUMBERS),
        PLACES[dice.pick(("park", "garden", "farm", "forest", "beach", "lake", "river"))].at(),
    )
    noun, adjective = dice.pick(ANIMALS), dice.pick(ANIMAL_ADJECTIVES)
    return Pair(
        f"there are {number.en} {adjective.en} {noun.plural} {place.en}.",
        f"{place.zh}有{number.zh}{noun.measure}{adjective.zh}{noun.zh}。",
    )


def contrast(dice: Dice) -> Pair:
    first, second = dice.sample(NAMES, 2)
    left, right = dice.sample(LIKES, 2)
    return Pair(
        f"{first.en} likes {left.en}, but {second.en} likes {right.en}.",
        f"{first.zh}喜欢{left.zh}，但是{second.zh}喜欢{right.zh}。",
    )


def possession(dice: Dice) -> Pair:
    who, what = subject(dice), thing(dice)
    pet = animal(dice)
    have = "has" if who.number == "one" else "have"
    return Pair(f"{who.en} {have} {what.en} and {pet.en}.", f"{who.zh}有{what.zh}和{pet.zh}。")


def comparison(dice: Dice) -> Pair:
    nouns = dice.sample([noun for noun in THINGS if noun.en != "letter"], 2)
    left, right = (definite(noun, dice.pick(COLOURS)) for noun in nouns)
    en, zh = dice.pick(
        (("cheaper", "便宜"), ("more expensive", "贵"), ("bigger", "大"), ("smaller", "小"), ("more beautiful", "漂亮"))
    )
    return Pair(f"{left.en} is {en} than {right.en}.", f"{left.zh}比{right.zh}{zh}。")


def home(dice: Dice) -> Pair:
    name, job, town, place = dice.pick(NAMES), dice.pick(JOBS), dice.pick(TOWNS), dice.pick(DESTINATIONS).name()
    return Pair(
        f"{name.en} is {article(job.en)} and lives near {place.en} in {town.en}.",
        f"{name.zh}是一名{job.zh}，住在{town.zh}的{place.zh}附近。",
    )


def together(dice: Dice) -> Pair:
    who, verb = subject(dice), dice.pick(ACTIVITIES)
    friend, time = other(dice, who), dice.pick(PAST)
    place = where(dice, verb)
    return Pair(
        f"{who.en} {verb.past} with {friend.en} {place.en} {time.en}.",
        f"{who.zh}{time.zh}和{friend.zh}一起在{place.zh}{verb.zh_done}。",
    )


def errand(dice: Dice) -> Pair:
    who, place, what = subject(dice), dice.pick(DESTINATIONS).name(), thing(dice, PORTABLE)
    return timed(dice, who, dice.pick(PAST), f"went to {place.en} with {what.en}", f"带着{what.zh}去了{place.zh}")


FRAMES: tuple[Callable[[Dice], Pair], ...] = (
    past_action,
    past_action,
    past_action,
    habit,
    going_on,
    plan,
    wish,
    gift,
    denial,
    question,
    because,
    counting,
    contrast,
    possession,
    comparison,
    home,
    together,
    errand,
)


def sentence(dice: Dice) -> Pair:
    """One bilingual sentence of 5 to 14 English words."""
    while True:
        pair = dice.pick(FRAMES)(dice).sentence()
        if 5 <= len(pair.en.split()) <= 14:
            return pair
