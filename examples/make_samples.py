"""Writes the samples of the examples: `python examples/make_samples.py`. The same bytes every time."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

SIZES = {"train": 48, "validation": 12, "test": 16}

NAMES = [
    ("Anna", "安娜"),
    ("Ben", "本"),
    ("Clara", "克拉拉"),
    ("David", "大卫"),
    ("Emma", "艾玛"),
    ("Felix", "费利克斯"),
]
CITIES = [("Oakfield", "橡树镇"), ("Rivertown", "河畔城"), ("Hillford", "山口村"), ("Seaview", "望海城")]
ANIMALS = [("dog", "狗"), ("cat", "猫"), ("horse", "马"), ("bird", "鸟"), ("rabbit", "兔子")]
PLACES = [("park", "公园"), ("garden", "花园"), ("forest", "森林"), ("market", "市场"), ("river", "河边")]
TIMES = [("morning", "早上"), ("evening", "晚上"), ("night", "夜里")]
JOBS = [("teacher", "老师"), ("baker", "面包师"), ("doctor", "医生"), ("farmer", "农民")]
THINGS = [("film", "电影"), ("book", "书"), ("meal", "饭菜"), ("hotel", "酒店"), ("song", "歌")]
GOOD = [("great", "很棒"), ("lovely", "很可爱"), ("wonderful", "非常好")]
BAD = [("dull", "很无聊"), ("terrible", "很糟糕"), ("too long", "太长了")]
BOOKS = {
    "sea": [("The Old Boat", "老船"), ("Waves at Night", "夜里的浪"), ("The Lighthouse", "灯塔"), ("Salt Wind", "咸风")],
    "stars": [("Moon Road", "月亮路"), ("The Last Planet", "最后的行星"), ("Silent Stars", "沉默的星"), ("Rockets", "火箭")],
    "food": [("Bread and Honey", "面包与蜂蜜"), ("The Soup Shop", "汤店"), ("Seven Teas", "七种茶"), ("Rice Days", "米饭日子")],
}  # fmt: skip


def dialogue(dice: random.Random, zh: int) -> dict:
    """A user says two things about themselves and asks for one of them later."""
    name, city, animal = (dice.choice(words)[zh] for words in (NAMES, CITIES, ANIMALS))
    hello = (f"Hi, I am {name} and I live in {city}.", f"你好，我是{name}，我住在{city}。")
    answer = (f"Hello {name}! What do you like?", f"你好，{name}！你喜欢什么？")
    like = (f"I like my {animal}.", f"我喜欢我的{animal}。")
    nice = (f"A {animal} is a good friend.", f"{animal}是好朋友。")
    questions = [
        (("Where do I live?", "我住在哪里？"), (f"You live in {city}.", f"你住在{city}。")),
        (("What is my name?", "我叫什么名字？"), (f"Your name is {name}.", f"你叫{name}。")),
        (("What do I like?", "我喜欢什么？"), (f"You like your {animal}.", f"你喜欢你的{animal}。")),
    ]
    said = [hello, answer, like, nice, *dice.choice(questions)]
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text[zh]} for i, text in enumerate(said)]}


def generation(dice: random.Random, zh: int) -> dict:
    """Three keywords and a text that uses them."""
    name = dice.choice(NAMES)[zh]
    animal, place, time = (dice.choice(words)[zh] for words in (ANIMALS, PLACES, TIMES))
    texts = [
        (f"One {time} {name} saw a {animal} near the {place}. The {animal} was tired, so {name} took it home.",
         f"一天{time}，{name}在{place}看见一只{animal}。{animal}累了，{name}把它带回家。"),
        (f"{name} walks to the {place} every {time}. A small {animal} always waits there.",
         f"{name}每天{time}去{place}。一只小{animal}总在那里等着。"),
    ]  # fmt: skip
    return {"keywords": [animal, place, time], "text": dice.choice(texts)[zh]}


def sentiment(dice: random.Random, zh: int) -> dict:
    """A review with one judgement, or with two that differ."""
    thing = dice.choice(THINGS)[zh]
    good, bad = dice.choice(GOOD)[zh], dice.choice(BAD)[zh]
    label = dice.choice(["negative", "mixed", "positive"])
    reviews = {
        "negative": (f"The {thing} was {bad}. I would not go again.", f"这个{thing}{bad}，我不会再来了。"),
        "mixed": (f"The {thing} was {good} at first, but the end was {bad}.", f"这个{thing}开始{good}，后来{bad}。"),
        "positive": (f"The {thing} was {good}. I loved it.", f"这个{thing}{good}，我很喜欢。"),
    }
    return {"text": reviews[label][zh], "label": label}


def recommendation(dice: random.Random, zh: int) -> dict:
    """Three books of one kind were read; the fourth of that kind is right among books of other kinds."""
    kind = dice.choice(sorted(BOOKS))
    books = [book[zh] for book in dice.sample(BOOKS[kind], 4)]
    others = [book[zh] for other in sorted(BOOKS) if other != kind for book in BOOKS[other]]
    candidates = [books[3], *dice.sample(others, 4)]
    dice.shuffle(candidates)
    return {"history": books[:3], "candidates": candidates, "next": books[3]}


def triples(dice: random.Random, zh: int) -> dict:
    """A sentence of two or three facts, and the facts."""
    name, city = dice.choice(NAMES)[zh], dice.choice(CITIES)[zh]
    job, animal = dice.choice(JOBS)[zh], dice.choice(ANIMALS)[zh]
    facts = [
        (name, ("lives in", "住在")[zh], city),
        (name, ("works as", "职业")[zh], job),
        (name, ("owns", "拥有")[zh], animal),
    ]
    if dice.random() < 0.5:
        text = (f"{name} lives in {city} and works as a {job}.", f"{name}住在{city}，是一名{job}。")
        return {"text": text[zh], "triples": [list(fact) for fact in facts[:2]]}
    text = (f"{name}, a {job} from {city}, has a {animal}.", f"{name}是{city}的{job}，有一只{animal}。")
    return {"text": text[zh], "triples": [list(fact) for fact in facts]}


def rows(make: Callable[[random.Random, int], dict], count: int, seen: set[str], seed: str) -> list[dict]:
    """English and Chinese rows in turn, no prompt (the first field) twice in any split."""
    dice, made = random.Random(seed), []
    while len(made) < count:
        zh = len(made) % 2
        row = make(dice, zh)
        key = json.dumps(next(iter(row.values())), ensure_ascii=False)
        if key not in seen:
            seen.add(key)
            made.append({**row, "lang": ("en", "zh")[zh]})
    return made


def main() -> None:
    """Write train, validation and test rows of every example."""
    for make in (dialogue, generation, sentiment, recommendation, triples):
        seen: set[str] = set()
        for split, size in SIZES.items():
            lines = rows(make, size, seen, f"{make.__name__}/{split}")
            path = Path(__file__).parent / make.__name__ / f"{split}.jsonl"
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
