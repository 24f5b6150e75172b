"""The stranger at the gate: a script run by path in a process of its own, with plain transformers + peft.

`python -P probe.py BASE ADAPTER OUT` loads the base from the folder BASE, the adapter from the folder ADAPTER, and
writes to the safetensors file OUT, for the contract's sample: float32 logits [1, T, V] `adapter` and `base` (without
it), and `prompt_ids` [P] as the folder's tokenizer gives them.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


class Without(MetaPathFinder):
    """Makes a package impossible to import, wherever it may be installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse the package, leave the rest to the other finders."""
        if fullname.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"{fullname} is not here: a reader of the adapter does not have it")
        return None


def main(base: str, adapter: str, out: str) -> None:
    """Load as a reader of the model card would, and write the logits."""
    import torch
    from peft import PeftModel
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sample = json.loads(Path(adapter, "prompt_contract.json").read_text(encoding="utf-8"))["sample"]
    ids = torch.tensor([sample["input_ids"]])
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    starts = sample["input_ids"][:1] == [tokenizer.bos_token_id]  # as the model card says
    pieces = sample.get("prompt_pieces") or [*([tokenizer.bos_token_id] if starts else []), sample["prompt"]]
    encoded = [p if isinstance(p, int) else tokenizer.encode(p, add_special_tokens=False, split_special_tokens=True)
               for p in pieces]  # fmt: skip
    prompt = [i for ids in encoded for i in ([ids] if isinstance(ids, int) else ids)]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():  # peft only warns when weights of the adapter are missing
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        model = PeftModel.from_pretrained(plain, adapter).eval()
    with torch.inference_mode():
        found = {"prompt_ids": torch.tensor(prompt), "adapter": model(input_ids=ids).logits.float().contiguous()}
        with model.disable_adapter():
            found["base"] = model(input_ids=ids).logits.float().contiguous()
    if "llama_tasks" in sys.modules:
        raise RuntimeError("llama_tasks was imported")
    save_file(found, out)


if __name__ == "__main__":
    sys.meta_path.insert(0, Without("llama_tasks"))
    main(*sys.argv[1:])
