"""Prompts as ids in, outputs as they end.

outputs.py   one seam for every engine         slots.py      the native model's own decoding
engines.py   transformers' beams and batches   sampling.py   how the next token is drawn
by_vllm.py   vLLM's engine
"""

from __future__ import annotations

from llama_tasks.generate.outputs import check_engine, engine_of, generate, stop_ids, stream

__all__ = [
    "check_engine",
    "engine_of",
    "generate",
    "stop_ids",
    "stream",
]
