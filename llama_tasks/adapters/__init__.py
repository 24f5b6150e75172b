"""The base model, and what is trained on it.

base.py          loading the base                       adapter.py           putting the adapter on, saving, loading it
quantization.py  4 and 8 bits                           inits.py             LoRA beginnings that need the base's weights
freezing.py      parameters that stay as they are       rank_allocation.py   AdaLoRA's ranks while it trains
integrity.py     files are what they were               config_file.py       adapter_config.json, the same bytes every time
effect.py        what would do nothing is refused
"""

from __future__ import annotations

from llama_tasks.adapters.adapter import (
    LINEAR_LAYERS,
    adapter_config,
    attach,
    auto_learning_rate,
    changes_base,
    check_reload,
    load_trained,
    put_on,
    reaches_vocabulary,
    sample_logits,
    save_as_llama,
    save_trained,
)
from llama_tasks.adapters.base import (
    Parameters,
    check_tokenizer,
    count_parameters,
    load_any,
    load_base,
    native_of,
    new_model,
    pin,
    resolve_dtype,
)
from llama_tasks.tokens.tokenizer import EMBEDDED, load_tokenizer, where_is

__all__ = [
    "EMBEDDED",
    "LINEAR_LAYERS",
    "Parameters",
    "adapter_config",
    "attach",
    "auto_learning_rate",
    "changes_base",
    "check_reload",
    "check_tokenizer",
    "count_parameters",
    "load_any",
    "load_base",
    "load_tokenizer",
    "load_trained",
    "native_of",
    "new_model",
    "pin",
    "put_on",
    "reaches_vocabulary",
    "resolve_dtype",
    "sample_logits",
    "save_as_llama",
    "save_trained",
    "where_is",
]
