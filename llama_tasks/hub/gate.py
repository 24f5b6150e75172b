"""The gate between a run and the world: an adapter folder leaves only if a stranger can use it.

A stranger has transformers and peft, not llama-tasks. So besides looking at names and bytes the gate starts a fresh
Python process in which importing llama_tasks is impossible (`probe.py`), lets it load base and adapter, and compares
its logits with those of the native model in this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks.contract import PromptContract
from llama_tasks.hub.checks import Check, names_a_secret

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4  # largest absolute difference of a float32 logit
NOT_RUN = Check("same logits", False, "not run: mend the above first")


def check_logits(folder: Path, reference_base: Path, published_base: Path) -> tuple[Check, ...]:
    """A fresh process with plain transformers + peft gives the native model's logits on the contract's sample."""
    sample = PromptContract.load(folder).sample
    reference = native_logits(reference_base, folder, sample["input_ids"])
    try:
        stranger = stranger_logits(published_base, folder)
    except RuntimeError as error:
        return (Check("same logits", False, f"plain transformers + peft failed: {error}"),)
    return compare(sample, reference, stranger)


def compare(sample: dict[str, Any], reference: torch.Tensor, stranger: dict[str, torch.Tensor]) -> tuple[Check, ...]:
    """What the stranger found, against the sample and the native model's logits [1, T, V]."""
    ids, length = sample["input_ids"], sample["prompt_length"]
    same_ids = stranger["prompt_ids"].tolist() == ids[:length]
    if stranger["adapter"].shape != reference.shape:
        shapes = f"{list(stranger['adapter'].shape)} and {list(reference.shape)}"
        return (Check("same logits", False, f"plain and native logits differ in shape: {shapes}"),)
    apart = float((stranger["adapter"] - reference).abs().max())
    effect = float((stranger["adapter"] - stranger["base"]).abs().max())
    how = f"{len(ids)} tokens, float32, unquantised base, process without llama_tasks"
    return (
        Check("same prompt ids", same_ids, f"{length} tokens, by the tokenizer in the folder"),
        Check("same logits", apart <= TOLERANCE, f"largest difference {apart:.1e}, allowed {TOLERANCE:.0e} ({how})"),
        Check("adapter is live", effect > 0, f"it moves the base's logits by up to {effect:.1e}"),
    )


def native_logits(base: Path, adapter: Path, ids: list[int]) -> torch.Tensor:
    """Float32 logits [1, T, V] of the native model with the adapter, on the CPU."""
    import torch
    from peft import PeftModel

    from llama_tasks.model import load_native

    model = PeftModel.from_pretrained(load_native(str(base), dtype=torch.float32), str(adapter)).eval()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits.float()


def stranger_logits(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What plain transformers + peft find: float32 logits [1, T, V] `adapter` and `base` (without it), and the sample's
    `prompt_ids` [P] as their tokenizer gives them.

    Raises:
        RuntimeError: with the last line that the process wrote.
    """
    from safetensors.torch import load_file

    environment = {key: value for key, value in os.environ.items() if not names_a_secret(key)}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONIOENCODING": "utf-8"}
    probe = Path(__file__).with_name("probe.py")
    with tempfile.TemporaryDirectory() as elsewhere:
        out = Path(elsewhere) / "logits.safetensors"
        done = subprocess.run(
            [sys.executable, "-P", str(probe), str(base.resolve()), str(adapter.resolve()), str(out)],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            raise RuntimeError(lines[-1][:300] if lines else f"exit code {done.returncode}")
        return load_file(out)
