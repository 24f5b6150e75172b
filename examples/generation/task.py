"""Free text generation: a short text in which given keywords occur."""

from collections.abc import Sequence
from itertools import pairwise

from llama_tasks.tasks import Example, Task, guess_lang, text_of, texts_of


def coverage(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Keywords that the text uses, of all keywords; the first reference lists them, a line each."""
    keywords = references[0].split("\n")
    return sum(word.lower() in prediction.lower() for word in keywords), len(keywords)


def distinct_2(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Different pairs of neighbouring words, of all pairs (Li et al. 2016): low where a text repeats itself."""
    tokens = prediction.split() if " " in prediction.strip() else list(prediction)
    pairs = list(pairwise(tokens))
    return len(set(pairs)), len(pairs)


class Generation(Task):
    """Rows {keywords: [text, ...], text, lang?}. There is no right text: keywords are what a text is held against."""

    name = "generation"
    columns = ("keywords", "text")
    main_field = "keywords"
    target_column = "text"
    templates = {
        "default": "Write a short text with these words: {keywords}\n\nText:",
        "zh": "用这些词写一小段话：{keywords}\n\n短文：",
    }
    metrics = {"coverage": coverage, "distinct_2": distinct_2}

    def example(self, row):
        self.check_columns(row)
        keywords = texts_of(row, "keywords")
        lang = row.values.get("lang") or guess_lang("".join(keywords))  # not of the text, which a row to predict lacks
        fields = {"keywords": ("、" if lang == "zh" else ", ").join(keywords)}
        return Example(row.id, fields, text_of(row, "text"), ("\n".join(keywords),), lang)
