"""Published shapes of rows that are understood with no mapping, as one table: columns -> the fields of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from llama_tasks.sources.rows import BadRows, Row, kind_of, listed

Values = Mapping[str, Any]
Convert = Callable[[Values, Mapping[str, str]], list[dict[str, Any]]]  # (values, data.constants) -> rows

_LOOKED_AT = 100  # first rows of a file, which decide how all of it is read


class Odd(ValueError):
    """A row that has the columns of a shape but not its form; `str(error)` is a sentence without its full stop."""


@dataclass(frozen=True)
class Shape:
    """One published shape.

    Attributes:
        name: what the run's output calls it.
        task: the task whose fields it gives; `*` for a task of the user's own.
        columns: all of them must be there; `answers.text` is the key `text` of an object `answers`.
        convert: one row -> the task's rows; several from a row that holds a whole article.
        in_place: whether the columns are the task's own fields in another form, not others under other names.
    """

    name: str
    task: str
    columns: tuple[str, ...]
    convert: Convert
    in_place: bool = False

    def lacking(self, values: Values) -> str | None:
        """The first of the columns that a row does not have, or None."""
        return next((column for column in self.columns if not _has(values, column)), None)


def _has(values: Values, column: str) -> bool:
    outer, _, inner = column.partition(".")
    return outer in values and (not inner or (isinstance(values[outer], Mapping) and inner in values[outer]))


def columns_to(**fields: str) -> Convert:
    """A conversion that only renames: field=column."""
    taken = set(fields.values())

    def convert(values: Values, constants: Mapping[str, str]) -> list[dict[str, Any]]:
        kept = {name: value for name, value in values.items() if name not in taken and name not in fields}
        return [{**{field: values[column] for field, column in fields.items()}, **kept}]

    return convert


def _pair(text: str, text_pair: str) -> Convert:
    return columns_to(text=text, text_pair=text_pair, label="label")


def _squad_hub(values: Values, constants: Mapping[str, str]) -> list[dict[str, Any]]:
    """`answers` as {"text": [...], "answer_start": [...]} -> a list of texts."""
    return [{**values, "answers": _answers(values["answers"], values.get("is_impossible"))}]


def _squad_nested(values: Values, constants: Mapping[str, str]) -> list[dict[str, Any]]:
    """An article -> a row for each question."""
    rows = []
    for paragraph in _objects(values["paragraphs"], "paragraphs"):
        for question in _objects(paragraph.get("qas"), "qas"):
            about = {"context": paragraph.get("context"), "question": question.get("question")}
            answers = _answers(question.get("answers"), question.get("is_impossible"))
            extra = {"qid": question["id"]} if "id" in question else {}
            rows.append({**about, "answers": answers, **extra})
    return rows


def _answers(value: Any, impossible: Any) -> Any:
    """The texts of SQuAD answers; none where the question is marked impossible."""
    if impossible is True:
        return []
    if isinstance(value, Mapping):
        return value["text"]
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return [item.get("text") for item in value]
    return value


def _translation(values: Values, constants: Mapping[str, str]) -> list[dict[str, Any]]:
    """{"translation": {"de": ..., "en": ...}}: the direction from data.constants, else the order of the keys."""
    pair = values["translation"]
    if not isinstance(pair, Mapping) or len(pair) < 2:
        raise Odd('\'translation\' must be an object of two languages, such as {"de": ..., "en": ...}')
    languages = list(pair)
    source = constants.get("source_lang") or next(
        (lang for lang in languages if lang != constants.get("target_lang")), languages[0]
    )
    target = constants.get("target_lang") or next(lang for lang in languages if lang != source)
    for lang in (source, target):
        if lang not in pair:
            raise Odd(f"'translation' holds {' and '.join(languages)}, but data.constants asks for {lang!r}")
    kept = {name: value for name, value in values.items() if name != "translation"}
    return [{"source": pair[source], "target": pair[target], "source_lang": source, "target_lang": target, **kept}]


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def _sharegpt(values: Values, constants: Mapping[str, str]) -> list[dict[str, Any]]:
    """{"conversations": [{"from": "human", "value": ...}, ...]} -> messages; `system` beside them comes first."""
    turns = [
        {"role": _role(turn.get("from", turn.get("role"))), "content": _content(turn.get("value", turn.get("content")))}
        for turn in _objects(values["conversations"], "conversations")
    ]
    system = values.get("system")
    first = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    kept = {name: value for name, value in values.items() if name not in ("conversations", "system")}
    return [{"messages": first + turns, **kept}]


def _openai(values: Values, constants: Mapping[str, str]) -> list[dict[str, Any]]:
    """{"messages": [{"role": ..., "content": ...}, ...]}, content as text or as a list of text parts."""
    turns = [
        {"role": _role(turn.get("role")), "content": _content(turn.get("content"))}
        for turn in _objects(values["messages"], "messages")
    ]
    return [{**values, "messages": turns}]


def _role(value: Any) -> str:
    if value not in _ROLES:
        raise Odd(f"the role {value!r} of a message is not known; known: {', '.join(_ROLES)}")
    return _ROLES[value]


def _content(value: Any) -> Any:
    if isinstance(value, list):
        other = next((part for part in value if not isinstance(part, Mapping) or part.get("type") != "text"), None)
        if other is not None:
            raise Odd("a message holds a part that is not text")
        return "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise Odd(f"the content of a message is {kind_of(value)}, not text")
    return value


def _objects(value: Any, name: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise Odd(f"{name!r} must be a list of objects, not {kind_of(value)}")
    return value


def _alpaca(values: Values, constants: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{**values, "input": values.get("input") or ""}]


#: The first line whose task and columns fit is taken. Rows with the task's own fields (AG News, IMDb, XSum) need none.
SHAPES = (
    Shape("SQuAD (nested JSON)", "qa", ("paragraphs",), _squad_nested),
    Shape("SQuAD", "qa", ("context", "question", "answers.text"), _squad_hub, in_place=True),
    Shape("WMT/OPUS translation", "translate", ("translation",), _translation),
    Shape("CNN/DailyMail", "summarize", ("article", "highlights"), columns_to(document="article", summary="highlights")),
    Shape("SAMSum/DialogSum", "summarize", ("dialogue", "summary"), columns_to(document="dialogue", summary="summary")),
    Shape("arXiv/PubMed", "summarize", ("article", "abstract"), columns_to(document="article", summary="abstract")),
    Shape("BillSum/LCSTS", "summarize", ("text", "summary"), columns_to(document="text", summary="summary")),
    Shape("CLUE TNEWS", "classify", ("sentence", "label_desc"), columns_to(text="sentence", label="label_desc")),
    Shape("CLUE IFLYTEK", "classify", ("sentence", "label_des"), columns_to(text="sentence", label="label_des")),
    Shape("GLUE/CLUE sentence pair", "classify", ("sentence1", "sentence2", "label"), _pair("sentence1", "sentence2")),
    Shape("GLUE NLI", "classify", ("premise", "hypothesis", "label"), _pair("premise", "hypothesis")),
    Shape("GLUE QQP", "classify", ("question1", "question2", "label"), _pair("question1", "question2")),
    Shape("GLUE QNLI", "classify", ("question", "sentence", "label"), _pair("question", "sentence")),
    Shape("GLUE single sentence", "classify", ("sentence", "label"), columns_to(text="sentence", label="label")),
    Shape("alpaca", "*", ("instruction", "output"), _alpaca, in_place=True),
    Shape("sharegpt", "*", ("conversations",), _sharegpt),
    Shape("OpenAI messages", "*", ("messages",), _openai, in_place=True),
)  # fmt: skip
BUILT_IN = {shape.task for shape in SHAPES} - {"*"} | {"text"}


def find(values: Values, task: str, fields: Sequence[str] = ()) -> Shape | None:
    """The shape that a row has for this task, or None; a row with all of the task's `fields` is not renamed."""
    wanted = task if task in BUILT_IN else "*"
    own = _is_own(values, fields)
    fitting = (shape for shape in SHAPES if shape.task == wanted and not shape.lacking(values))
    return next((shape for shape in fitting if shape.in_place or not own), None)


def _is_own(values: Values, fields: Sequence[str]) -> bool:
    return bool(fields) and all(name in values for name in fields)


def hint(values: Values, task: str) -> str:
    """Whether a row that does not fit the task has the shape of another one, as a sentence."""
    shape = next((shape for shape in SHAPES if shape.task not in (task, "*") and not shape.lacking(values)), None)
    return f" (These look like {shape.name}, which is for task: {shape.task}.)" if shape else ""


def understood(
    rows: Iterable[Row],
    task: str,
    constants: Mapping[str, str],
    bad: BadRows,
    names: list[str],
    fields: Sequence[str] = (),
) -> Iterator[Row]:
    """The rows of one file in the task's fields; all are read alike, as the first row that fits the task or a shape.

    The shape's name is appended to `names`; rows that do not have its form go to `bad`.
    """
    rows = iter(rows)
    first: list[Row] = []
    shape: Shape | None = None
    for row in islice(rows, _LOOKED_AT):
        first.append(row)
        shape = find(row.values, task, fields)
        if shape or _is_own(row.values, fields):
            break
    if shape is None:
        yield from chain(first, rows)
        return
    like = first[-1].where
    if shape.name not in names:
        names.append(shape.name)
    for row in chain(first, rows):
        yield from _converted(shape, row, constants, bad, like)


def _converted(shape: Shape, row: Row, constants: Mapping[str, str], bad: BadRows, like: str) -> Iterator[Row]:
    lacking = shape.lacking(row.values)
    if lacking:
        bad.add(
            row.where,
            f"the field {lacking!r} is missing (the row has: {listed(row.values)}); the file is read as {shape.name}, which "
            f"{like} is; all of its rows must be alike",
        )
        return
    try:
        converted = shape.convert(row.values, constants)
    except Odd as error:
        bad.add(row.where, str(error))
        return
    for number, values in enumerate(converted, 1):
        where = row.where if len(converted) == 1 else f"{row.where}, question {number}"
        yield replace(row, values=values, where=where)
