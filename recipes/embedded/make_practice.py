"""Write practice text for the pre-training of the embedded base: python recipes/embedded/make_practice.py

Plain prose in the lexicon of the samples, never in the form of a task prompt: a language diary, reports that end
with "In short, …", stories whose facts are recalled in dialogue, newspaper columns, and copying games. No document
contains a sentence of a validation or test row that the training rows do not have, nor a whole document, context or
text of one.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import facts
import reports
import sentences
import topics
from lexicon import (
    ACTIVITIES,
    ANIMALS,
    COLOURS,
    DAYS,
    JOBS,
    LIKES,
    NAMES,
    PLACES,
    THING_ADJECTIVES,
    THING_VERBS,
    THINGS,
    TOWNS,
)
from make_samples import SAMPLES
from words import Dice, Noun, Pair, indefinite

ROOT = SAMPLES.parents[2]
END = "<|endoftext|>"
BOUNDARY = re.compile(r'(?<=[.?!])"? |(?<=[。？！])”?|\n')
HEADINGS = {"sports": "体育", "weather": "天气", "food": "美食", "travel": "旅行", "music": "音乐", "health": "健康"}
GLOSSARY = (*NAMES, *TOWNS, *JOBS, *THING_ADJECTIVES, *DAYS, *LIKES, *(place.name() for place in PLACES.values()))


class Filter:
    """Knows what a pre-training text may not contain: whatever only validation and test rows say."""

    def __init__(self, samples: Path) -> None:
        kept: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for split, texts in kept.items():
            for path in sorted(samples.glob(f"*/{split}.jsonl")):
                for line in path.read_text(encoding="utf-8").splitlines():
                    row = json.loads(line)
                    texts += [
                        row[field]
                        for field in ("source", "target", "document", "summary", "context", "text")
                        if field in row
                    ]
        known = {sentence for text in kept["train"] for sentence in split_sentences(text)}
        hidden = kept["validation"] + kept["test"]
        self.sentences = {sentence for text in hidden for sentence in split_sentences(text)} - known
        self.whole: dict[str, list[str]] = {}
        for text in hidden:
            self.whole.setdefault(split_sentences(text)[0], []).append(text.casefold())

    def allows(self, document: str) -> bool:
        found = split_sentences(document)
        if any(sentence in self.sentences for sentence in found):
            return False
        lowered = document.casefold()
        return not any(text in lowered for sentence in found for text in self.whole.get(sentence, ()))


def split_sentences(text: str) -> list[str]:
    """Sentences without case, quotes, and the words that lead into a summary."""
    pieces = (
        re.sub(r"^(in short, |总之，)", "", piece.strip(' "“”').casefold()) for piece in BOUNDARY.split(text) if piece
    )
    return [piece for piece in pieces if piece]


def side(dice: Dice) -> str:
    return "en" if dice.chance(0.5) else "zh"


def diary(dice: Dice) -> str:
    """A page of a language diary: each sentence in both languages, one order a page; now and then a few words first."""
    english_first, joint = dice.chance(0.5), dice.pick((" ", " ", "\n", " = ", " - "))
    makers: tuple[Callable[[Dice], Pair], ...] = (
        sentences.sentence,
        sentences.sentence,
        sentences.sentence,
        _report_line,
        _topic_line,
        _fact_line,
    )
    lines = [dice.pick(makers)(dice) for _ in range(4 + dice.below(6))]
    if dice.chance(0.3):
        lines = [*(words(dice) for _ in range(3 + dice.below(4))), *lines]
    return "\n".join(joint.join(line if english_first else line[::-1]) for line in lines)


def glossary(dice: Dice) -> str:
    english_first, joint = dice.chance(0.5), dice.pick((" - ", " ", ": "))
    lines = [words(dice) for _ in range(6 + dice.below(10))]
    return "\n".join(joint.join(line if english_first else line[::-1]) for line in lines)


def words(dice: Dice) -> Pair:
    """A word or a small phrase."""
    if dice.chance(0.4):
        return dice.pick(GLOSSARY)
    if dice.chance(0.4):
        verb, _ = dice.pick(THING_VERBS)
        return dice.pick((Pair(verb.base, verb.zh), Pair(verb.past, verb.zh_done)))
    if dice.chance(0.4):
        verb = dice.pick(ACTIVITIES)
        place = PLACES[dice.pick(verb.places)].at()
        return Pair(f"{verb.base} {place.en}", f"在{place.zh}{verb.zh}")
    noun: Noun = dice.pick(THINGS + ANIMALS)
    return indefinite(noun, dice.pick(COLOURS) if dice.chance(0.7) else None)


def _report_line(dice: Dice) -> Pair:
    report = reports.report(dice)
    return dice.pick((report.summary, *report.sentences))


def _topic_line(dice: Dice) -> Pair:
    return topics.note(dice, dice.pick(sorted(topics.TOPICS))).topical


def _fact_line(dice: Dice) -> Pair:
    return dice.pick(facts.story(dice).sentences)


def news(dice: Dice) -> str:
    """One to three reports, each with its event said again in short."""
    lang, short = side(dice), dice.chance(0.7)
    items = []
    for _ in range(1 + dice.below(3)):
        report = reports.report(dice)
        en, zh = report.summary
        brief = Pair(f"In short, {en[0].lower() + en[1:]}", f"总之，{zh}") if short else report.summary
        items.append(f"{getattr(report.document, lang)}\n{getattr(brief, lang)}")
    return "\n\n".join(items)


def recall(dice: Dice) -> str:
    """A small story, then what somebody asks about it and somebody else answers."""
    lang, story = side(dice), facts.story(dice)
    asker, teller = dice.sample([name for name in NAMES if all(name != who for who, _ in story.facts)], 2)
    asked = [dice.pick(fact.asked) for _, fact in story.facts]
    rounds = dice.shuffled([*asked, story.asked])[: 2 + dice.below(3)]
    brief = dice.chance(0.6)
    lines = [getattr(story.context, lang)]
    for question, answer, reply in rounds:
        said = (answer or reply) if brief else reply
        full = Pair(said.en[0].upper() + said.en[1:].rstrip("."), said.zh.rstrip("。"))
        lines.append(
            dice.pick(
                (
                    Pair(
                        f'"{question.en}" asked {asker.en}. "{full.en}," said {teller.en}.',
                        f"“{question.zh}”{asker.zh}问。“{full.zh}。”{teller.zh}说。",
                    ),
                    Pair(f"{question.en} {full.en}.", f"{question.zh}{full.zh}。"),
                )
            )._asdict()[lang]
        )
    return "\n".join(lines)


def drill(dice: Dice) -> str:
    """A small story, then everything that can be asked about it, each with its short answer."""
    lang, story = side(dice), facts.story(dice)
    rounds = dice.shuffled([round for _, fact in story.facts for round in fact.asked])
    lines = [getattr(story.context, lang)]
    for question, answer, reply in rounds:
        said = answer or reply
        lines.append(f"{question.en} {said.en.rstrip('.')}" if lang == "en" else f"{question.zh}{said.zh.rstrip('。')}")
    return "\n".join(lines)


def column(dice: Dice) -> str:
    """A newspaper column: the topic as a heading, or named at the end of each piece of news."""
    lang = side(dice)
    if dice.chance(0.4):
        label = dice.pick(sorted(HEADINGS))
        heading = f"{label}\n" if lang == "en" else f"{HEADINGS[label]} ({label})\n"
        return heading + "\n".join(getattr(topics.note(dice, label).text, lang) for _ in range(3 + dice.below(3)))
    lines = []
    for _ in range(3 + dice.below(4)):
        note = topics.note(dice, dice.pick(sorted(HEADINGS)))
        lines.append(
            f"{getattr(note.text, lang)} ({note.label})"
            if lang == "en"
            else f"{note.text.zh}（{HEADINGS[note.label]} {note.label}）"
        )
    return "\n".join(lines)


def copying(dice: Dice) -> str:
    """Somebody says made-up words, and somebody else says the same again."""
    lang = side(dice)
    first, second = dice.sample(NAMES, 2)
    lines = []
    for _ in range(2 + dice.below(4)):
        if lang == "en":
            said = " ".join(invented(dice) for _ in range(2 + dice.below(5)))
            lines.append(f'{first.en} says: "{said}." {second.en} says it again: "{said}."')
        else:
            said = "".join(dice.pick(GLOSSARY).zh for _ in range(2 + dice.below(4)))
            lines.append(f"{first.zh}说：“{said}。”{second.zh}再说一遍：“{said}。”")
    return "\n".join(lines)


def invented(dice: Dice) -> str:
    """A made-up word of two or three syllables, sometimes with a capital letter, or a word of the lexicon."""
    if dice.chance(0.3):
        return dice.pick(GLOSSARY).en
    word = "".join(dice.pick("bdfgklmnprstvz") + dice.pick("aeiou") for _ in range(2 + dice.below(2)))
    return word.capitalize() if dice.chance(0.4) else word


Kinds = tuple[tuple[Callable[[Dice], str], int], ...]
#: How often each kind of document is drawn, in parts of a hundred: practice text, and the drills of the second stage.
PRACTICE: Kinds = (
    (diary, 38),
    (glossary, 4),
    (news, 18),
    (recall, 24),
    (column, 11),
    (copying, 5),
)
DRILLS: Kinds = ((drill, 60), (diary, 20), (news, 15), (column, 5))


def write(path: Path, seed: str, size: int, hidden: Filter, mix: Kinds) -> tuple[int, int]:
    """Write documents until there are `size` bytes; returns how many were written and how many the filter refused."""
    dice, written, refused, documents = Dice(seed), 0, 0, []
    kinds = [kind for kind, weight in mix for _ in range(weight)]
    while written < size:
        document = dice.pick(kinds)(dice)
        if hidden.allows(document):
            documents.append(f"{document}\n{END}\n")
            written += len(documents[-1].encode())
        else:
            refused += 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(documents).encode())
    return len(documents), refused


def main() -> None:
    parser = argparse.ArgumentParser(description="Write practice text for pre-training.")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "pretrain")
    parser.add_argument(
        "--size", type=float, default=9.0, help="megabytes of training text; validation has a fortieth of it"
    )
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    hidden = Filter(SAMPLES)
    for name, mix in (("practice", PRACTICE), ("drills", DRILLS)):
        for split, size in (("train", arguments.size), ("validation", arguments.size / 40)):
            path = arguments.output / f"{name}.{split}.txt"
            documents, refused = write(path, f"{name}-{split}:{arguments.seed}", int(size * 1e6), hidden, mix)
            print(f"{path.name}: {documents:,} documents, {path.stat().st_size:,} bytes, {refused:,} refused")


if __name__ == "__main__":
    main()
