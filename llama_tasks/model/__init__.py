"""The native LLaMA. Importing this package makes it known to transformers' Auto classes; torch is imported on use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register, register_on_import

if TYPE_CHECKING:
    from .configuration_native_llama import NativeLlamaConfig
    from .heads import (
        NativeLlamaForQuestionAnswering,
        NativeLlamaForSequenceClassification,
        NativeLlamaForTokenClassification,
    )
    from .loading import load_native
    from .modeling_native_llama import NativeLlamaForCausalLM, NativeLlamaModel, NativeLlamaPreTrainedModel

__all__ = [
    "NativeLlamaConfig",
    "NativeLlamaForCausalLM",
    "NativeLlamaForQuestionAnswering",
    "NativeLlamaForSequenceClassification",
    "NativeLlamaForTokenClassification",
    "NativeLlamaModel",
    "NativeLlamaPreTrainedModel",
    "load_native",
    "register",
]

_HOMES = {
    "NativeLlamaConfig": ".configuration_native_llama",
    "NativeLlamaForCausalLM": ".modeling_native_llama",
    "NativeLlamaForQuestionAnswering": ".heads",
    "NativeLlamaForSequenceClassification": ".heads",
    "NativeLlamaForTokenClassification": ".heads",
    "NativeLlamaModel": ".modeling_native_llama",
    "NativeLlamaPreTrainedModel": ".modeling_native_llama",
    "load_native": ".loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


register_on_import()
