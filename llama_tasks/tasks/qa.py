"""Extractive question answering with unanswerable questions (SQuAD 2.0: Rajpurkar et al. 2018)."""

from __future__ import annotations

from llama_tasks.errors import DataError
from llama_tasks.sources import Row
from llama_tasks.tasks.base import Example, Task, lang_of, text_of, texts_of

UNANSWERABLE = {"default": "unanswerable", "zh": "无法回答"}
JOINED = {"default": "; ", "zh": "；"}


class QA(Task):
    """Rows {context, question, answers, lang?}; an empty list of answers is an unanswerable question.

    The answers of a row are several ways to say one answer; with `prompt.all_answers` they are its parts, which the
    model lists, and whose order does not count.
    """

    name = "qa"
    columns = ("context", "question", "answers")
    main_field = "context"
    target_column = "answers"
    blank_target = ()
    options = ("extractive", "all_answers")
    templates = {
        "default": "Answer the question from the text.\n\n{context}\n\nQuestion: {question}\nAnswer:",
        "zh": "根据文章回答问题。\n\n{context}\n\n问题：{question}\n答案：",
    }

    def example(self, row: Row) -> Example:
        """Row -> Example; the first answer is the target, all of them count when scoring."""
        self.check_columns(row)
        lang = lang_of(row, "question", "context")
        answers = tuple(dict.fromkeys(answer for answer in texts_of(row, "answers") if answer.strip()))
        fields = {"context": text_of(row, "context"), "question": text_of(row, "question")}
        if self.config.extractive:
            self._check_spans(row, fields["context"], answers)
        if self.config.all_answers and answers:
            parts = JOINED.get(lang, JOINED["default"]).join(answers)
            return Example(row.id, fields, parts, (self.parse(parts, lang),), lang, spans=answers)
        return Example(row.id, fields, answers[0] if answers else no_answer(lang), answers, lang, spans=answers[:1])

    def parse(self, text: str, lang: str) -> str:
        """The answer; empty for "unanswerable", as SQuAD 2.0's script expects it; several parts in the order of the
        alphabet, so that their order does not count."""
        answer = text.strip()
        if answer == no_answer(lang):
            return ""
        if not self.config.all_answers:
            return answer
        mark = JOINED.get(lang, JOINED["default"])
        return mark.join(sorted({part.strip() for part in answer.split(mark.strip())} - {""}))

    def failure(self, prediction: str, example: Example) -> str | None:
        """`not_in_context`: with `prompt.extractive`, an answer (or a part of one) that the text does not hold."""
        if not self.config.extractive or not prediction:
            return None
        mark = JOINED.get(example.lang, JOINED["default"]).strip()
        parts = prediction.split(mark) if self.config.all_answers else [prediction]
        return None if all(part.strip() in example.fields["context"] for part in parts) else "not_in_context"

    def _check_spans(self, row: Row, context: str, answers: tuple[str, ...]) -> None:
        for answer in answers:
            if answer not in context:
                raise DataError(
                    f"{row.where}: the answer {answer[:60]!r} does not stand in the context; mend the row, or leave out "
                    "prompt.extractive."
                )


def no_answer(lang: str) -> str:
    """What the model says where the text holds no answer."""
    return UNANSWERABLE.get(lang, UNANSWERABLE["default"])
