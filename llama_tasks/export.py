"""Merging an adapter into its base: one plain `llama` checkpoint, which any tool for LLaMA models loads.

An adapter that was trained on a 4-bit base can be merged in two ways: into the dequantised base, which is what it was
trained on, or into the original full-precision weights, which it has never seen. Both are measured against the model
as trained; the nearer one is written, and `export.json` says by how much each differs.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import BitsAndBytesConfig, GenerationConfig, LlamaForCausalLM, PreTrainedModel

from llama_tasks.adapters import load_tokenizer, where_is
from llama_tasks.adapters.integrity import check, check_base, check_trained
from llama_tasks.adapters.quantization import compute_4bit_as_trained, quantizer
from llama_tasks.contract import PromptContract
from llama_tasks.errors import ModelError, RunError
from llama_tasks.files import staged
from llama_tasks.hub.checks import OPTIONAL
from llama_tasks.hub.gate import TOLERANCE
from llama_tasks.recipe import BaseConfig
from llama_tasks.rundir import RunDirectory, write_json

DTYPES = ("auto", "float32", "bfloat16", "float16")
_COPIED = ("prompt_contract.json", "tokenizer.json", "tokenizer_config.json", *OPTIONAL)


@dataclass(frozen=True)
class Difference:
    """Absolute difference of float32 logits to the model as trained, on the contract's sample."""

    largest: float
    mean: float


@dataclass(frozen=True)
class Merged:
    """What was written: `policy` is the key of `policies` that was nearest to the model as trained."""

    policy: str
    policies: dict[str, Difference]
    written: Difference
    dtype: str
    base_model: str
    base_revision: str | None
    adapter_sha256: str
    sample_tokens: int


@dataclass(frozen=True)
class _Place:
    """Where the base is, and how it was quantised for training."""

    path: str
    revision: str | None
    base: BaseConfig

    def load(self, quantization: BitsAndBytesConfig | None = None) -> PreTrainedModel:
        return LlamaForCausalLM.from_pretrained(
            self.path,
            revision=self.revision,
            dtype=torch.float32,
            quantization_config=quantization,
            use_safetensors=True,
        )

    def load_as_trained(self) -> PreTrainedModel:
        model = self.load(quantizer(self.base, torch.float32))
        compute_4bit_as_trained(model)
        return model


def merge(run_dir: Path, output: Path, *, dtype: str = "auto", base_path: Path | None = None) -> Merged:
    """Merge the adapter of a run into its base and write the folder `output`, whole or not at all.

    dtype: of the written weights; `auto` is the base's own.
    base_path: where a local base lies now, if it moved since the run.

    Raises:
        RunError: `output` exists, or the run has no adapter.
        ModelError: an unknown dtype, another base than the run's, an adapter that cannot be merged, or the written model does not
            give the adapter model's logits.
    """
    run_dir, output = Path(run_dir), Path(output)
    adapter = run_dir / "adapter"
    if output.exists():
        raise RunError(f"{output} exists; nothing was changed. Name another folder.")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise RunError(f"{run_dir} has no adapter to merge.")
    check_trained(run_dir, adapter)
    if dtype not in DTYPES:
        raise ModelError(f"There is no dtype {dtype!r}; choose one of {', '.join(DTYPES)}.")
    recipe = RunDirectory(run_dir).recipe()
    recorded = recipe.base
    place = _Place(str(base_path or where_is(recorded.model)), recorded.revision, recorded)
    _check_place(place, RunDirectory(run_dir).environment().get("base") or {})
    contract = PromptContract.load(adapter)
    contract.check(load_tokenizer(BaseConfig(str(adapter))), adapter, recipe, witness=place.path)
    ids = torch.tensor([contract.sample["input_ids"]])

    reference = _logits(_with_adapter(place.load_as_trained(), adapter), ids)
    policies, policy, model = _nearest(place, adapter, ids, reference)
    if not recorded.is_quantized and policies[policy].largest > TOLERANCE * max(1.0, float(reference.abs().max())):
        raise ModelError(
            f"The merged model's logits would differ from the run's by up to {policies[policy].largest:.2g}: this adapter cannot "
            "be merged (one on the head or the embedding cannot where they are the same weights). Use it beside its base."
        )
    with staged(output) as staging:
        saved = _save(model, staging, dtype, place, contract)
        for name in _COPIED:
            if (adapter / name).is_file():
                shutil.copy(adapter / name, staging / name)
        written = _reload(staging, model, ids, reference, policies[policy])
        made = Merged(
            policy=policy,
            policies=policies,
            written=written,
            dtype=str(saved).removeprefix("torch."),
            base_model=recorded.model if recorded.revision else Path(recorded.model).name,
            base_revision=recorded.revision,
            adapter_sha256=hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest(),
            sample_tokens=ids.numel(),
        )
        write_json(staging / "export.json", {"format": 1, **asdict(made)})
    return made


def _check_place(place: _Place, known: dict[str, str]) -> None:
    """Raise ModelError where the base is not there, or is not the one whose hashes the run wrote down."""
    if Path(place.path).is_dir():
        check(Path(place.path), known, "name the base that the run was trained on (--base-path)")
    elif place.revision is None:
        raise ModelError(f"The base of this run is not in {place.path}; say where it is (--base-path).")
    else:
        check_base(place.base, known)


def _nearest(
    place: _Place, adapter: Path, ids: torch.Tensor, reference: torch.Tensor
) -> tuple[dict[str, Difference], str, PreTrainedModel]:
    """Merge by every policy; returns all differences, the best policy's name and its model."""
    found: dict[str, Difference] = {}
    best: PreTrainedModel | None = None
    chosen = ""
    for name, base in _policies(place):
        try:
            merged = _with_adapter(base, adapter).merge_and_unload(safe_merge=True)
        except (ValueError, NotImplementedError) as error:  # NaN, or a method without a merge: in words of peft
            raise ModelError(f"{adapter} cannot be merged: {error}") from None
        found[name] = _difference(_logits(merged, ids), reference)
        if best is None or found[name].mean < found[chosen].mean:
            best, chosen = merged, name
    assert best is not None
    return found, chosen, best


def _policies(place: _Place) -> Iterator[tuple[str, PreTrainedModel]]:
    """Bases to merge into, loaded one at a time."""
    if place.base.is_quantized:
        yield "dequantized", place.load_as_trained().dequantize()
    yield "original", place.load()


def _with_adapter(base: PreTrainedModel, adapter: Path) -> Any:
    return PeftModel.from_pretrained(base, str(adapter)).eval()


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Float32 logits [1, T, V]."""
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits.float()


def _difference(logits: torch.Tensor, reference: torch.Tensor) -> Difference:
    apart = (logits - reference).abs()
    return Difference(float(apart.max()), float(apart.mean()))


def _save(model: PreTrainedModel, folder: Path, dtype: str, place: _Place, contract: PromptContract) -> torch.dtype:
    """Write weights, config and generation settings; returns the dtype of the weights."""
    stored = LlamaForCausalLM.config_class.from_pretrained(place.path, revision=place.revision).dtype
    target = getattr(torch, dtype) if dtype != "auto" else (stored or torch.float32)
    for parameter in model.parameters():  # not `model.to`: the rotary frequencies stay float32
        parameter.data = parameter.data.to(target)
    model.config.dtype = target
    special = contract.special_ids
    model.generation_config = GenerationConfig(
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
        pad_token_id=special["eos"] if special["pad"] is None else special["pad"],
        do_sample=False,
        **{key: value for key, value in contract.decoding.items() if key in ("max_new_tokens", "num_beams")},
    )
    model.save_pretrained(folder)
    return target


def _reload(
    folder: Path, model: PreTrainedModel, ids: torch.Tensor, reference: torch.Tensor, merged: Difference
) -> Difference:
    """Load what was written and compare: weights bit for bit, logits in float32 with the model as trained.

    Raises:
        ModelError: a weight differs, or float32 logits are further away than the merge itself was.
    """
    again = LlamaForCausalLM.from_pretrained(folder, dtype="auto")
    kept = dict(model.named_parameters())
    changed = [name for name, weight in again.named_parameters() if not torch.equal(weight, kept[name])]
    if changed:
        raise ModelError(f"The merged model did not survive saving ({changed[0]} and {len(changed) - 1} more differ).")
    exact = again.dtype == torch.float32
    difference = _difference(_logits(again.float(), ids), reference)
    if exact and difference.largest > merged.largest + TOLERANCE:
        raise ModelError(f"The reloaded model differs from the adapter model by {difference.largest:.1e}.")
    return difference
