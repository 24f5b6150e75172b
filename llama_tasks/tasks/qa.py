"""Extractive question answering with unanswerable questions (SQuAD 2.0: Rajpurkar et al. 2018)."""

from __future__ import annotations

from llama_tasks.sources import Row
from llama_tasks.tasks.base import Example, Task, lang_of, text_of, texts_of

UNANSWERABLE = {"default": "unanswerable", "zh": "无法回答"}


class QA(Task):
    """Rows {context, question, answers, lang?}; an empty list of answers is an unanswerable question."""

    name = "qa"
    columns = ("context", "question", "answers")
    main_field = "context"
    target_column = "answers"
    blank_target = ()
    templates = {
        "default": "Answer the question from the text.\n\n{context}\n\nQuestion: {question}\nAnswer:",
        "zh": "根据文章回答问题。\n\n{context}\n\n问题：{question}\n答案：",
    }

    def example(self, row: Row) -> Example:
        """Row -> Example; the first answer is the target, all of them count when scoring."""
        self.check_columns(row)
        lang = lang_of(row, self.main_field)
        answers = tuple(dict.fromkeys(answer for answer in texts_of(row, "answers") if answer.strip()))
        fields = {"context": text_of(row, "context"), "question": text_of(row, "question")}
        return Example(row.id, fields, answers[0] if answers else no_answer(lang), answers, lang)

    def parse(self, text: str, lang: str) -> str:
        """The answer; empty for "unanswerable", as SQuAD 2.0's script expects it."""
        answer = text.strip()
        return "" if answer == no_answer(lang) else answer


def no_answer(lang: str) -> str:
    """What the model says where the text holds no answer."""
    return UNANSWERABLE.get(lang, UNANSWERABLE["default"])
