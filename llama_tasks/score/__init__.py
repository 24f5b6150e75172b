"""Likelihood instead of generation: of a text (`likelihood`), of choices (`choices`); what an output rests on (`attribution`)."""

from __future__ import annotations

from llama_tasks.score.likelihood import LOGITS, logprobs, rank_of_end, score_text, text_losses

__all__ = [
    "LOGITS",
    "logprobs",
    "rank_of_end",
    "score_text",
    "text_losses",
]
