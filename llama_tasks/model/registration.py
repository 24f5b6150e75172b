"""Make transformers' Auto classes and peft know `native_llama`, and import none of them, nor torch, for it.

`llama_tasks.model` calls `register_on_import()`. Then

    import llama_tasks
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder)  # a folder that a native model was saved to

works, and the first line costs nothing. The configuration is registered as soon as transformers' registry exists; the
models follow when the first configuration is made (`NativeLlamaConfig.__post_init__`), because at the moment the
registry appears transformers may still be in the middle of its own imports. peft's tables say which layers a method adapts
where its configuration names none: those of `llama`.
"""

from __future__ import annotations

import functools
import warnings
from types import ModuleType

from .on_import import after_import

NEWEST = (5, 24)  # of transformers, tried (constraints.txt)
REGISTRY = "transformers.models.auto.configuration_auto"
PRESETS = "peft.utils.constants"


def register() -> None:
    """Register configuration and models now (imports torch); harmless when repeated."""
    register_config()
    register_models()


def register_on_import() -> None:
    """Register now with what is loaded already, with the others right after whoever loads them first."""
    after_import(REGISTRY, register_config)
    after_import(PRESETS, register_presets)


def register_presets(constants: ModuleType) -> None:
    """Let peft's methods adapt by default what they adapt of `llama`."""
    for table in vars(constants).values():
        if isinstance(table, dict) and "llama" in table:
            table.setdefault("native_llama", table["llama"])


def register_config(_: ModuleType | None = None) -> None:
    """Let AutoConfig read a `config.json` that says `native_llama`."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from .configuration_native_llama import MODEL_TYPE, NativeLlamaConfig

    AutoConfig.register(MODEL_TYPE, NativeLlamaConfig, exist_ok=True)


def register_models() -> None:
    """Let the AutoModel classes build the model, and its heads, of a `NativeLlamaConfig`."""
    import transformers
    from transformers.models.auto import modeling_auto

    warn_of_newer(transformers.__version__)

    from . import heads, modeling_native_llama
    from .configuration_native_llama import MODEL_TYPE, NativeLlamaConfig

    for auto, names, model in (
        ("AutoModel", "MODEL_MAPPING_NAMES", modeling_native_llama.NativeLlamaModel),
        ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", modeling_native_llama.NativeLlamaForCausalLM),
        (
            "AutoModelForSequenceClassification",
            "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
            heads.NativeLlamaForSequenceClassification,
        ),
        (
            "AutoModelForTokenClassification",
            "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
            heads.NativeLlamaForTokenClassification,
        ),
        (
            "AutoModelForQuestionAnswering",
            "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
            heads.NativeLlamaForQuestionAnswering,
        ),
    ):
        getattr(transformers, auto).register(NativeLlamaConfig, model, exist_ok=True)
        # Some of transformers goes by the class's name: Trainer shifts smoothed labels only for a causal LM of this table.
        getattr(modeling_auto, names)[MODEL_TYPE] = model.__name__


@functools.cache
def warn_of_newer(version: str) -> None:
    """Say it where transformers is newer than what was tried: a renamed argument once changed tokens without a word (5.24)."""
    if tuple(map(int, version.split(".")[:2])) > NEWEST:
        warnings.warn(
            f"The native LLaMA was tried with transformers up to {'.'.join(map(str, NEWEST))}, and this is {version}. "
            "`llama-tasks verify MODEL` compares it with transformers' own LLaMA.",
            stacklevel=3,
        )
