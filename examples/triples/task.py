"""Knowledge-graph triples from text: subject, relation and object, a triple a line."""

from collections.abc import Sequence

from llama_tasks.errors import DataError
from llama_tasks.tasks import Example, Task, lang_of, text_of

Triple = tuple[str, str, str]


def triples_of(text: str) -> set[Triple]:
    """The well-formed triples of an output, without regard to order, case and doubles."""
    parts = [tuple(part.strip().lower() for part in line.split("|")) for line in text.split("\n")]
    return {part for part in parts if len(part) == 3 and all(part)}


def triple_f1(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Micro F1 over triples: 2 x right, found + wanted."""
    found, wanted = triples_of(prediction), triples_of(references[0])
    return 2 * len(found & wanted), len(found) + len(wanted)


def well_formed(prediction: str, references: Sequence[str]) -> float:
    """Whether every line of the output is a triple."""
    lines = [line for line in prediction.split("\n") if line.strip()]
    return float(bool(lines) and all(line.count("|") == 2 for line in lines))


class Triples(Task):
    """Rows {text, triples: [[subject, relation, object], ...], lang?}."""

    name = "triples"
    columns = ("text", "triples")
    main_field = "text"
    target_column = "triples"
    blank_target = (("-", "-", "-"),)
    templates = {"default": "Text: {text}\n\nTriples:\n", "zh": "文字：{text}\n\n三元组：\n"}
    metrics = {"triple_f1": triple_f1, "well_formed": well_formed}

    def example(self, row):
        self.check_columns(row)
        triples = row.values["triples"]
        if not triples or any(len(triple) != 3 for triple in triples):
            raise DataError(f"{row.where}: the field 'triples' must be a list of [subject, relation, object].")
        target = "\n".join(" | ".join(triple) for triple in triples)
        return Example(row.id, {"text": text_of(row, "text")}, target, (target,), lang_of(row, "text"))

    def parse(self, text, lang):
        """The output's lines, each trimmed; what follows an empty line is no longer the answer."""
        return "\n".join(line.strip() for line in text.strip().split("\n\n")[0].split("\n"))
