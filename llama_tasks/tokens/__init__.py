"""Prompt -> Tokens, and whether they are right.

encoding.py   prompt and response as ids and labels     chat.py        a tokenizer's chat template, answer by answer
audit.py      what stops a training before step 1       tokenizer.py   loading it, and where the embedded base is
"""

from __future__ import annotations

from llama_tasks.tokens.encoding import IGNORE, Encoded, Encoder, Fitted, Tokens, loses_answer

__all__ = [
    "IGNORE",
    "Encoded",
    "Encoder",
    "Fitted",
    "Tokens",
    "loses_answer",
]
