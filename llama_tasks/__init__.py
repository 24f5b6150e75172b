"""llama-tasks: fine-tune and evaluate LLaMA models, with numbers to trust.

Importing this package makes transformers' Auto classes know the native LLaMA (`native_llama`), without importing
transformers or torch itself. The names below are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import llama_tasks.model  # noqa: F401 - importing it registers the native LLaMA; torch stays out until it is used

__version__ = "0.1.0"

_PLACES = {
    "LlamaTasksError": "llama_tasks.errors",
    "NativeLlamaConfig": "llama_tasks.model",
    "NativeLlamaForCausalLM": "llama_tasks.model",
    "NativeLlamaModel": "llama_tasks.model",
    "Recipe": "llama_tasks.recipe",
    "Suite": "llama_tasks.recipe",
    "evaluate": "llama_tasks.evaluation",
    "finetune": "llama_tasks.finetune",
    "load_native": "llama_tasks.model",
    "load_recipe": "llama_tasks.recipe",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'llama_tasks' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
