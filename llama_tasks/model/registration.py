"""Make transformers' Auto classes know `native_llama`, and import neither transformers nor torch for it.

`llama_tasks.model` calls `register_on_import()`. Then

    import llama_tasks
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder)  # a folder that a native model was saved to

works, and the first line costs nothing. The configuration is registered as soon as transformers' registry exists; the
models follow when the first configuration is made (`NativeLlamaConfig.__post_init__`), because at the moment the
registry appears transformers may still be in the middle of its own imports.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

REGISTRY = "transformers.models.auto.configuration_auto"


def register() -> None:
    """Register configuration and models now (imports torch); harmless when repeated."""
    register_config()
    register_models()


def register_on_import() -> None:
    """Register now if transformers' registry is loaded already, else right after whoever loads it first."""
    if REGISTRY in sys.modules:
        register_config()
    elif not any(isinstance(finder, _AfterRegistry) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterRegistry())


def register_config() -> None:
    """Let AutoConfig read a `config.json` that says `native_llama`."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from .configuration_native_llama import MODEL_TYPE, NativeLlamaConfig

    AutoConfig.register(MODEL_TYPE, NativeLlamaConfig, exist_ok=True)


def register_models() -> None:
    """Let the AutoModel classes build the model, and its heads, of a `NativeLlamaConfig`."""
    import transformers
    from transformers.models.auto import modeling_auto

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


class _AfterRegistry:
    """A finder that finds nothing itself: it waits for one module, steps aside, and adds a call after its execution."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != REGISTRY:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            register_config()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
