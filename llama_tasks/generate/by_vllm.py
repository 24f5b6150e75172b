"""vLLM behind the seam of `generate`: a base by its own files, a LoRA adapter beside it, and what vLLM would get wrong refused."""

from __future__ import annotations

import functools
import importlib.util
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks.errors import ModelError

if TYPE_CHECKING:
    from llama_tasks.generate.engines import Job
    from llama_tasks.recipe import Suite

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what it makes room for (vllm.config.lora)
BEYOND_VLLM = ("modules_to_save", "trainable_token_indices", "use_dora", "layer_replication", "target_parameters")


def check_vllm(model: Any) -> None:
    """Raise ModelError where vLLM is not installed, the model does not come from files or not as they are (4 bits, say), or the
    adapter is more than LoRA."""
    if importlib.util.find_spec("vllm") is None:
        raise ModelError(
            "eval.engine: vllm needs vLLM, which is not installed (pip install vllm); or leave eval.engine out."
        )
    _files(model)
    _lora(model)


def by_vllm(job: Job) -> Iterator[tuple[int, list[int]]]:
    """By vLLM's `LLM.generate`, which loads the model's own files once more, and the adapter's beside them; for a model that
    `check_vllm` lets pass."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    settings = [SamplingParams(**vllm_settings(job.suite, job.ends, name)) for name in job.names]
    prompts = [{"prompt_token_ids": ids} for ids in job.prompts]
    with tempfile.TemporaryDirectory() as folder:
        rank = _save_adapter(job.model, Path(folder))
        lora = LoRARequest("adapter", 1, folder) if rank else None
        llm = _llm(*_files(job.model), str(job.model.dtype).removeprefix("torch."), rank)
        results = llm.generate(prompts, settings, use_tqdm=False, lora_request=lora)
    for index, result in enumerate(results):
        output = result.outputs[0]
        ids = list(output.token_ids)
        if output.finish_reason == "stop" and not (ids and ids[-1] in job.ends):
            ids.append(job.ends[0])
        yield index, ids


@functools.lru_cache(maxsize=1)
def _llm(base: str, revision: str | None, dtype: str, rank: int) -> Any:
    """vLLM's engine for a base, loaded once, of the commit that was pinned, with the numbers it was trained in: left to itself vLLM
    takes the Hub's newest, and half of float32."""
    from vllm import LLM

    room = {"max_lora_rank": next((size for size in VLLM_RANKS if size >= rank), rank)} if rank else {}
    return LLM(
        model=base, revision=revision, tokenizer_revision=revision, dtype=dtype, enable_lora=rank > 0, **room
    )  # fmt: skip


def vllm_settings(suite: Suite, ends: Sequence[int], name: str) -> dict[str, Any]:
    """vLLM's SamplingParams for a row of a suite: temperature 0 is greedy, top_k -1 is all; the row has a seed of its own."""
    drawn: dict[str, Any] = {"temperature": 0.0}
    if suite.do_sample:
        seed = random.Random(f"{suite.seed}/{name}").getrandbits(31)
        drawn = {"temperature": suite.temperature, "top_k": suite.top_k or -1, "top_p": suite.top_p, "seed": seed}
    return {
        "max_tokens": suite.max_new_tokens, "min_tokens": suite.min_new_tokens, "repetition_penalty": suite.repetition_penalty,
        "stop_token_ids": list(ends), "skip_special_tokens": False, "detokenize": False, **drawn,
    }  # fmt: skip


def _save_adapter(model: Any, folder: Path) -> int:
    """Write the active LoRA of a model into a folder; its largest rank, 0 where there is none or it is switched off.

    Raises:
        ModelError: vLLM would leave out part of it.
    """
    config = _lora(model)
    if config is None:
        return 0
    model.save_pretrained(folder)
    return max(config.r, *config.rank_pattern.values(), 0)


def _lora(model: Any) -> Any:
    """peft's configuration of the active LoRA, None where there is none. Raises ModelError as `_save_adapter`."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    # Of peft's layers alone: transformers' models have a method of this name.
    if not isinstance(model, PeftModel) or any(
        m.disable_adapters for m in model.modules() if isinstance(m, BaseTunerLayer)
    ):
        return None
    config = model.peft_config[model.active_adapter]
    more = [name for name in BEYOND_VLLM if getattr(config, name, None)]
    if config.peft_type != "LORA" or more:
        raise ModelError(
            f"eval.engine: vllm takes plain LoRA alone, and this adapter is {', '.join(more) or config.peft_type}; leave "
            "eval.engine out."
        )
    return config


def _files(model: Any) -> tuple[str, str | None]:
    """The folder or Hub id that a model's base was loaded from, and the commit of the latter."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    if not inner.config.name_or_path:
        raise ModelError("eval.engine: vllm reads a model from its files, and this one was made in memory.")
    if getattr(inner.config, "quantization_config", None) is not None:
        raise ModelError(
            "eval.engine: vllm reads the base as its files hold it, not in 4 or 8 bits; leave eval.engine out."
        )
    return str(inner.config.name_or_path), getattr(inner.config, "_commit_hash", None)
