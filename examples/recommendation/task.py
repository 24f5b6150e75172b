"""Recommendation: from what a user chose before, rank candidates for what comes next by their likelihood."""

from collections.abc import Mapping, Sequence

from llama_tasks.errors import DataError
from llama_tasks.tasks import Example, Task, guess_lang, text_of, texts_of


def reciprocal_rank(prediction: str, references: Sequence[str]) -> float:
    """1 / place of the right item in the ranking, 0 where it is not ranked; their mean is the MRR."""
    ranking = prediction.split("\n")
    return 1 / (1 + ranking.index(references[0])) if references[0] in ranking else 0.0


def hit_at_1(prediction: str, references: Sequence[str]) -> float:
    """Whether the right item stands first."""
    return float(references[0] in prediction.split("\n")[:1])


def hit_at_3(prediction: str, references: Sequence[str]) -> float:
    """Whether the right item is among the first three."""
    return float(references[0] in prediction.split("\n")[:3])


class Recommendation(Task):
    """Rows {history: [item, ...], candidates: [item, ...], next: item, lang?}; every row has candidates of its own."""

    name = "recommendation"
    columns = ("history", "candidates", "next")
    main_field = "history"
    target_column = "next"
    chooses = True
    templates = {"default": "Read so far:\n{history}\nNext:", "zh": "已经读过：\n{history}\n接下来："}
    metrics = {"mrr": reciprocal_rank, "hit@1": hit_at_1, "hit@3": hit_at_3}

    def example(self, row):
        self.check_columns(row)
        history, candidates = texts_of(row, "history"), texts_of(row, "candidates")
        item = text_of(row, "next")
        if item == self.blank_target:  # a row to predict
            item = candidates[0]
        if item not in candidates:
            raise DataError(f"{row.where}: the next item {item!r} is not among the candidates.")
        lang = row.values.get("lang") or guess_lang(history[0])
        return Example(row.id, {"history": "\n".join(history)}, item, (item,), lang, choices=candidates)

    def choose(self, scores: Mapping[str, float]) -> str:
        """The whole ranking, an item a line, the likeliest first."""
        return "\n".join(sorted(scores, key=lambda item: -scores[item]))
