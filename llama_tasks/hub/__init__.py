"""Publishing an adapter, and the gate before it.

publish.py   staged, normalised, gated, one commit      client.py   the Hub, with retries and plain errors
card.py      the model card, from card.md.jinja         gate.py     do plain transformers + peft get the same logits
checks.py    names and bytes of a folder                probe.py    the process that asks, without llama_tasks
"""

from __future__ import annotations

from llama_tasks.hub.publish import push

__all__ = [
    "push",
]
