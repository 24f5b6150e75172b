"""Sentiment of a review in three steps: the built-in classification with prompts and a metric of its own."""

from collections.abc import Sequence

from llama_tasks.tasks import Classify

STEPS = ("negative", "mixed", "positive")


def closeness(prediction: str, references: Sequence[str]) -> float:
    """1 for the right step, one half for its neighbour, 0 for the opposite and for anything else."""
    if prediction not in STEPS:
        return 0.0
    return 1 - abs(STEPS.index(prediction) - STEPS.index(references[0])) / 2


class Sentiment(Classify):
    """Rows {text, label: negative | mixed | positive, lang?}."""

    name = "sentiment"
    templates = {
        "default": "Review: {text}\nSentiment:",
        "zh": "评论：{text}\n情感：",
        "default.described": "{labels}\n\nReview: {text}\nSentiment:",  # with prompt.label_descriptions
        "zh.described": "{labels}\n\n评论：{text}\n情感：",
    }
    metrics = {"closeness": closeness}
