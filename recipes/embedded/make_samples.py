"""Write the sample sets of the four tasks that ship inside the package: python recipes/embedded/make_samples.py

Everything follows from the seed, byte for byte, on any machine. Test and validation rows are new combinations of
words that training has shown: no test sentence, document, summary, context, text or topical sentence occurs in
another split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import facts
import reports
import sentences
import topics
from words import Dice

SAMPLES = Path(__file__).resolve().parents[2] / "llama_tasks" / "embedded" / "samples"
SIZES = {"test": 300, "validation": 120, "train": 2400}  # in the order in which the splits are drawn
LANGUAGES = ("en", "zh")
Row = dict[str, Any]


def translate(dice: Dice, index: int) -> tuple[Row, list[str]]:
    pair = sentences.sentence(dice)
    source, target = LANGUAGES if index % 2 == 0 else LANGUAGES[::-1]
    row = {
        "source": getattr(pair, source),
        "target": getattr(pair, target),
        "source_lang": source,
        "target_lang": target,
    }
    return row, list(pair)


def summarize(dice: Dice, index: int) -> tuple[Row, list[str]]:
    report, lang = reports.report(dice), LANGUAGES[index % 2]
    return {"document": getattr(report.document, lang), "summary": getattr(report.summary, lang), "lang": lang}, [
        *report.document,
        *report.summary,
    ]


def qa(dice: Dice, index: int) -> tuple[Row, list[str]]:
    story, lang = facts.story(dice), LANGUAGES[index % 2]
    answers = [getattr(story.asked.answer, lang)] if story.asked.answer else []
    row = {
        "context": getattr(story.context, lang),
        "question": getattr(story.asked.question, lang),
        "answers": answers,
        "lang": lang,
    }
    return row, list(story.context)


def classify(dice: Dice, index: int) -> tuple[Row, list[str]]:
    labels = sorted(topics.TOPICS)
    note, lang = topics.note(dice, labels[index // 2 % len(labels)]), LANGUAGES[index % 2]
    return {"text": getattr(note.text, lang), "label": note.label, "lang": lang}, [*note.text, *note.topical]


TASKS: dict[str, Callable[[Dice, int], tuple[Row, list[str]]]] = {
    "translate": translate,
    "summarize": summarize,
    "qa": qa,
    "classify": classify,
}


def draw(task: str, seed: int) -> Iterator[tuple[str, list[Row]]]:
    """The splits of one task.

    A row is drawn again while anything it may not share has occurred before, in either language.
    """
    dice, seen = Dice(f"{task}:{seed}"), set[str]()
    for split, size in SIZES.items():
        rows, taken = list[Row](), set[str]()
        while len(rows) < size:
            row, keys = TASKS[task](dice, len(rows))
            if not any(key in seen for key in keys) and keys[0] not in taken:
                taken.update(keys)
                rows.append(row)
        seen |= taken
        yield split, dice.shuffled(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the embedded sample sets.")
    parser.add_argument("--output", type=Path, default=SAMPLES)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    for task in TASKS:
        folder = arguments.output / task
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in draw(task, arguments.seed):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_bytes(lines.encode())
            print(f"{task}/{split}.jsonl: {len(rows)} rows, {len(lines.encode()):,} bytes")


if __name__ == "__main__":
    main()
