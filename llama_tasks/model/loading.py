"""Load any `llama` checkpoint into the native model, or say in one sentence why not and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from llama_tasks.errors import ModelError

from .configuration_native_llama import MODEL_TYPE, NativeLlamaConfig
from .modeling_native_llama import NativeLlamaForCausalLM

# Architectures that look like LLaMA from outside, and what sets them apart.
NEAR_MISSES = {
    "mistral": "sliding-window attention",
    "mixtral": "a mixture of experts",
    "qwen2": "biases on some projections only",
    "qwen3": "normalised queries and keys",
    "gemma": "scaled embeddings and another normalisation",
    "gemma2": "scaled embeddings and another normalisation",
    "gemma3_text": "scaled embeddings and another normalisation",
    "phi3": "fused projections",
    "llama4": "a mixture of experts",
    "llama4_text": "a mixture of experts",
    "mllama": "vision layers",
    "smollm3": "layers without rotary positions",
}


def load_native(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    quantization_config: Any = None,
    attn_implementation: str = "sdpa",
    device_map: Any = None,
    token: str | bool | None = None,
) -> NativeLlamaForCausalLM:
    """The model of a folder or a Hub repository, in evaluation mode.

    Only safetensors are read and no code from the repository is run. `dtype="auto"` is that of the checkpoint.

    Raises:
        ModelError: nothing there, access refused, not a LLaMA, or weights that are missing, spare, misshapen or not
            finite.
    """
    name, local = str(path_or_id), Path(path_or_id).is_dir()
    source: dict[str, Any] = {"revision": revision, "token": token}
    with _quiet(hide_bars=local):
        config = read_config(name, **source)
        _require_safetensors(name, local, source)
        try:
            model, info = NativeLlamaForCausalLM.from_pretrained(
                name,
                config=config,
                dtype=dtype,
                quantization_config=quantization_config,
                attn_implementation=attn_implementation,
                device_map=device_map,
                use_safetensors=True,
                output_loading_info=True,
                **source,
            )
        except (OSError, RuntimeError, SafetensorError, ImportError) as error:
            raise ModelError(_explain(error, name, revision)) from error
    _check_weights(model, info, name)
    return model


def read_config(name: str, revision: str | None = None, token: str | bool | None = None) -> NativeLlamaConfig:
    """The configuration of a `llama` or `native_llama` checkpoint. Raises ModelError for any other."""
    try:
        fields, _ = PreTrainedConfig.get_config_dict(name, revision=revision, token=token)
    except (OSError, HFValidationError) as error:
        raise ModelError(_explain(error, name, revision)) from error
    if not fields:
        raise ModelError(f"{name} holds no config.json; give a folder that save_pretrained wrote, or a Hub id.")
    kind = fields.pop("model_type", None)
    if kind not in ("llama", MODEL_TYPE):
        found = f"a model of type {kind!r}" if kind else "a configuration without model_type"
        why = f", which differs from LLaMA by {NEAR_MISSES[kind]}" if kind in NEAR_MISSES else ""
        raise ModelError(f"{name} is {found}{why}; only LLaMA checkpoints (model_type 'llama') can be loaded.")
    try:
        return NativeLlamaConfig.from_dict(fields)
    except (StrictDataclassError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ModelError(f"The config.json of {name} is not a valid LLaMA configuration: {reason}.") from error


def _require_safetensors(name: str, local: bool, source: dict[str, Any]) -> None:
    """Pickled weights can run code when read, so a checkpoint that has only those is refused."""
    unreachable: OSError | None = None
    for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME):
        if local:
            if (Path(name) / file).is_file():
                return
            continue
        try:
            hf_hub_download(name, file, **source)
            return
        except LocalEntryNotFoundError as error:  # not in the cache, and the Hub was not asked
            unreachable = error
        except EntryNotFoundError:
            continue
        except (OSError, HfHubHTTPError) as error:
            raise ModelError(_explain(error, name, source["revision"])) from error
    if unreachable is not None:
        raise ModelError(_explain(unreachable, name, source["revision"])) from unreachable
    raise ModelError(
        f"{name} holds no {SAFE_WEIGHTS_NAME}; pickled weights are not read, convert them with transformers' "
        f"save_pretrained first."
    )


def _check_weights(model: NativeLlamaForCausalLM, info: dict[str, Any], name: str) -> None:
    for kind in ("missing", "unexpected", "mismatched"):
        if keys := sorted(str(key) for key in info.get(f"{kind}_keys") or ()):
            shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise ModelError(f"The weights of {name} do not fit its config.json: {kind} {shown}.")
    for key, weight in model.named_parameters():
        packed = hasattr(weight, "quant_state")  # its bits may be kept as floats, which they are not
        if weight.is_floating_point() and not (weight.is_meta or packed or _is_finite(weight)):
            raise ModelError(f"The weights of {name} are damaged: {key} holds values that are not finite numbers.")


def _is_finite(weight: torch.Tensor) -> bool:
    # Quantisers have tensor classes of their own, and those know few operations; 8-bit floats have no `isfinite`.
    plain = weight if type(weight) is torch.nn.Parameter else weight.dequantize()
    return bool((plain.float() if plain.itemsize == 1 else plain).isfinite().all())


def _explain(error: BaseException, name: str, revision: str | None) -> str:
    """One sentence: what is wrong, and what to do."""
    causes = list(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if Path(name).is_dir():
        return f"The model in the folder {name} cannot be read: {_first_line(error)}"
    if caused_by(GatedRepoError):
        return f"{name} is gated: accept its licence at {constants.ENDPOINT}/{name}, then log in with `hf auth login`."
    if caused_by(RevisionNotFoundError):
        return f"{name} has no revision {revision!r}; give a branch, a tag or a commit that its page lists."
    if caused_by(HFValidationError) or name.startswith((".", "/", "~")):
        return f"There is no folder {name}, and it is not a Hub id of the form owner/name."
    if caused_by(RepositoryNotFoundError):
        return f"There is no folder and no Hub model {name}; check the spelling, or `hf auth login` if it is private."
    if constants.HF_HUB_OFFLINE or "connect" in str(error).lower():
        return f"{name} is not in the local cache and the Hub cannot be reached; go online once, or give a folder."
    return f"{name} cannot be loaded: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _quiet(hide_bars: bool) -> Iterator[None]:
    """transformers' remarks off (what they would say is checked here); bars off where nothing is downloaded."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if hide_bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if hide_bars and bars:
            logging.enable_progress_bar()
