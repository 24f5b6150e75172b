"""What a task is: a row of plain fields becomes an Example; a generated text becomes a prediction."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from llama_tasks.errors import DataError
from llama_tasks.recipe import PromptConfig
from llama_tasks.sources import Row
from llama_tasks.sources.rows import no_column

_SURROGATE = re.compile("[\ud800-\udfff]")
_HAN = re.compile("[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Turn:
    """An earlier exchange of a dialogue: the template's fields, and what was answered."""

    fields: dict[str, str]
    answer: str


@dataclass(frozen=True)
class Example:
    """One row, understood by its task.

    Attributes:
        id: of the row (`test:17`).
        fields: what the prompt template may name.
        target: the response to learn.
        references: acceptable answers, for scoring; `()` where none is right (an unanswerable question).
        lang: language of the response (ISO 639-1), which chooses template and metric tokenizer.
        choices: the candidates, where the answer is one of a set.
        turns: earlier exchanges of a dialogue, oldest first; their answers are learned too.
        variant: chooses among the task's templates beside the language (`pair`: `default.pair`, `zh.pair`).
        weight: of the example's loss.
        meta: what else the row says of itself (`domain: sports`), by which scores can be sliced.
        spans: what the answer takes out of the main field. An example whose shortened field lost one is not trained on.
    """

    id: str
    fields: dict[str, str]
    target: str
    references: tuple[str, ...]
    lang: str
    choices: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    variant: str = ""
    weight: float = 1.0
    meta: Mapping[str, Any] = field(default_factory=dict)
    spans: tuple[str, ...] = ()


class Task:
    """Base of the tasks. A task of your own names its fields and templates and says how a row becomes an Example.

    labels: the label set, where the task is `labelled`; config: the recipe's `prompt` section.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    """Fields that every row must have."""
    main_field: ClassVar[str]
    """The field that is long: it groups rows when splits are carved, and it is what `truncate_prompt` shortens."""
    target_column: ClassVar[str]
    """The column that holds what is to be predicted; rows to predict may lack it."""
    blank_target: ClassVar[Any] = "-"
    """What stands in the target column of a row to predict."""
    templates: ClassVar[Mapping[str, str]]
    """Language code (or `default`), with `.variant` where an Example names one: prompt template."""
    labelled: ClassVar[bool] = False
    """Whether the answers are labels, which `data.labels` or the training rows give."""
    chooses: ClassVar[bool] = False
    """Whether every Example has choices, so that `eval.scoring: likelihood` can rank them."""
    options: ClassVar[tuple[str, ...]] = ()
    """Keys of the recipe's `prompt` section that belong to this task."""
    metrics: ClassVar[Mapping[str, Any]] = {}
    """Metrics of the task's own, by the name that a suite may give (see docs/tasks.md)."""

    def __init__(self, labels: Sequence[str] = (), config: PromptConfig | None = None) -> None:
        self.labels = tuple(labels)
        self.config = config or PromptConfig()
        self.weights: Mapping[str, float] = {}  # of labels, in the loss; set where the recipe asks for them

    def example(self, row: Row) -> Example:
        """Turn a row into an Example. Raises DataError that names file, line and field."""
        raise NotImplementedError

    def examples(self, row: Row, *, training: bool) -> list[Example]:
        """All Examples of a row, in a split to train on or to score. Raises DataError."""
        return [self.example(row)]

    def parse(self, text: str, lang: str) -> str:
        """The prediction in a generated text."""
        return text.strip()

    def choose(self, scores: Mapping[str, float]) -> str:
        """The prediction from the choices' log-probabilities: the likeliest one."""
        return max(scores, key=lambda choice: scores[choice])

    def failure(self, prediction: str, example: Example) -> str | None:
        """The name of the way in which an answer fails this task whatever its score is (`copied`), or None."""
        return None

    def check_columns(self, row: Row, *, to_predict: bool = False) -> None:
        """Raise DataError unless the row has the task's columns; the error lists what was found and the likely match.

        to_predict: whether the row may lack the column that is to be predicted.
        """
        for column in self.columns:
            if column not in row.values and not (to_predict and column == self.target_column):
                raise DataError(no_column(column, row.values, self.columns, row.where, self.name))


def meta_of(row: Row, task: Task) -> dict[str, Any]:
    """What a row says beside its task's fields: numbers, yes or no, and short texts."""
    known = {*task.columns, task.target_column, "lang"}
    return {
        key: value
        for key, value in row.values.items()
        if key not in known and (isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 80))
    }


def text_of(row: Row, field: str) -> str:
    """The row's field as text. Raises DataError for null, other types and empty text."""
    value = row.values.get(field)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(
            f"{row.where}: the field {field!r} must be text, not {'null' if value is None else type(value).__name__}."
        )
    if not value.strip():
        raise DataError(f"{row.where}: the field {field!r} is empty.")
    if _SURROGATE.search(value):
        raise DataError(f"{row.where}: the field {field!r} holds half a character (a lone surrogate); mend the text.")
    return value


def texts_of(row: Row, field: str) -> tuple[str, ...]:
    """The row's field as a list of texts. Raises DataError for anything else."""
    value = row.values.get(field)
    if isinstance(value, Mapping) and "text" in value:  # SQuAD's own form: {"text": [...], "answer_start": [...]}
        value = value["text"]
    if isinstance(value, str):  # CSV and TSV know no lists: one text is one answer, none is none
        value = [value] if value.strip() else []
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{row.where}: the field {field!r} must be a list of texts, not {value!r}.")
    return tuple(value)


def lang_of(row: Row, *fields: str) -> str:
    """The row's language code (`zh-CN` is `zh`); a row that does not say is looked at, in these fields of its input alone, so
    that it gets the same prompt with and without its answer. It is Chinese where one of them is: a passage full of foreign
    names with a Chinese question is."""
    value: Any = row.values.get("lang")
    if value is None:
        return "zh" if "zh" in [guess_lang(text_of(row, field)) for field in fields] else "en"
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{row.where}: the field 'lang' must be a language code such as en or zh, not {value!r}.")
    return primary(value)


def primary(code: str) -> str:
    """The language of a code with script or region: `zh-Hans-CN` -> `zh`."""
    return re.split("[-_]", code.strip().lower())[0]


def guess_lang(text: str) -> str:
    """`zh` where a third or more of the letters are Han characters, else `en`."""
    letters, han = sum(map(str.isalpha, text)), len(_HAN.findall(text))
    return "zh" if letters and han * 3 >= letters else "en"
