"""Summarisation: a document and its summary, of a length that may be asked for."""

from __future__ import annotations

import re

from llama_tasks.errors import DataError
from llama_tasks.sources import Row
from llama_tasks.tasks.base import Example, Task, lang_of, text_of, texts_of

BUCKETS = (5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640)
SENTENCE_BUCKETS = (1, 2, 3, 4, 5, 7, 10, 15, 20)
UNITS = {
    "default": {"words": "words", "characters": "characters", "sentences": "sentences"},
    "zh": {"words": "个词", "characters": "个字", "sentences": "句话"},
}
_CHARACTERS = ("ja", "km", "lo", "my", "th", "zh")  # no spaces between words: `auto` counts characters
_SENTENCE_END = re.compile(r"[。！？；]+|[.!?]+(?=\s|$)")


class Summarize(Task):
    """Rows {document, summary, lang?, references?, length?}; `references` are further summaries that count in scoring too.

    With `prompt.length` the prompt asks for a length. In training it is the summary's own, in coarse steps, so that the
    model learns what the number means; where rows are answered it is the row's `length`, else `prompt.length`.
    """

    name = "summarize"
    columns = ("document", "summary")
    main_field = "document"
    target_column = "summary"
    options = ("length", "length_unit")
    templates = {
        "default": "Summarize the text.\n\n{document}\n\nSummary:",
        "zh": "概括下面的文字。\n\n{document}\n\n摘要：",
        "default.length": "Summarize the text in about {length}.\n\n{document}\n\nSummary:",
        "zh.length": "用大约{length}概括下面的文字。\n\n{document}\n\n摘要：",
    }

    def example(self, row: Row) -> Example:
        """Row -> Example, to be answered."""
        return self._example(row, training=False)

    def examples(self, row: Row, *, training: bool) -> list[Example]:
        """The Example of a row; in training it asks for the length that the summary has."""
        return [self._example(row, training)]

    def failure(self, prediction: str, example: Example) -> str | None:
        """`copied`: the document itself; `too_long`: more than twice the length that was asked for."""
        if prediction == example.fields["document"]:
            return "copied"
        if "length" in example.fields:
            asked = int(re.findall(r"\d+", example.fields["length"])[0])
            return "too_long" if measure(prediction, self._unit(example.lang)) > 2 * asked else None
        return None

    def _example(self, row: Row, training: bool) -> Example:
        self.check_columns(row)
        summary = text_of(row, "summary")
        further = texts_of(row, "references") if row.values.get("references") else ()
        references = tuple(dict.fromkeys((summary, *further)))
        lang = lang_of(row, self.main_field)
        fields = {"document": text_of(row, "document")}
        if self.config.length is None:
            return Example(row.id, fields, summary, references, lang)
        unit = self._unit(lang)
        count = bucket(measure(summary, unit), unit) if training else self._asked(row)
        name = UNITS.get(lang, UNITS["default"])[unit]
        if count == 1 and lang not in UNITS:
            name = name.removesuffix("s")
        fields["length"] = f"{count}{'' if lang in UNITS else ' '}{name}"
        return Example(row.id, fields, summary, references, lang, variant="length")

    def _unit(self, lang: str) -> str:
        unit = self.config.length_unit
        return unit if unit != "auto" else "characters" if lang in _CHARACTERS else "words"

    def _asked(self, row: Row) -> int:
        value = row.values.get("length", self.config.length)
        if not re.fullmatch(r"[1-9]\d*", str(value)):
            raise DataError(f"{row.where}: the field 'length' must be a whole number above 0, not {value!r}.")
        return int(str(value))


def measure(text: str, unit: str) -> int:
    """Words (between spaces), characters (without spaces) or sentences of a text; at least 1."""
    if unit == "words":
        return max(1, len(text.split()))
    if unit == "characters":
        return max(1, len("".join(text.split())))
    return max(1, sum(bool(part.strip()) for part in _SENTENCE_END.split(text)))


def bucket(count: int, unit: str) -> int:
    """The nearest of the coarse steps in which lengths are asked for."""
    steps = SENTENCE_BUCKETS if unit == "sentences" else BUCKETS
    return min(steps, key=lambda step: abs(step - count))
