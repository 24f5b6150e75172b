"""Meta's own LLaMA checkpoints (`consolidated.*.pth`, `params.json`, `tokenizer.model`) -> a Hugging Face folder.

source                          meta.py       the tensors of all shards, a block of rows at a time
  -> config.json                              sizes from params.json and from the weights
  -> model*.safetensors         writer.py     written as they are read; no tensor is ever whole in memory
  -> tokenizer.json             tokenizer.py  from SentencePiece (Llama 1, 2) or tiktoken (Llama 3)
  -> conversion.json            check.py      the logits of both, computed layer by layer, agree
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import GenerationConfig, LlamaConfig

from llama_tasks.errors import ModelError
from llama_tasks.files import staged
from llama_tasks.rundir import write_json

from .check import Agreement, compare
from .meta import MetaCheckpoint
from .tokenizer import LLAMA_3_1_SPECIAL, LLAMA_3_SPECIAL, Fidelity, convert_tokenizer
from .writer import DTYPES, parse_size, write_weights

__all__ = ["DTYPES", "Conversion", "convert"]


@dataclass(frozen=True)
class Conversion:
    """What was written, and how near it is to the original. `tokenizer` is None where the source has none."""

    source: str
    shards: int
    parameters: int
    dtype: str
    tied: bool
    max_position_embeddings: int
    logits: Agreement
    tokenizer: Fidelity | None


def convert(
    source: Path,
    output: Path,
    *,
    dtype: str = "auto",
    max_shard_size: str = "5GB",
    max_position_embeddings: int | None = None,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Conversion:
    """Write the checkpoint of the folder `source` as the new folder `output`, whole or not at all.

    Weights stay in their dtype unless `dtype` names another. `params.json` does not say how long a context may be; it
    is known by the generation of the model unless given. `progress` hears what is done and which share of it.

    Raises:
        ModelError: a file is missing, broken or does not fit the others, `output` exists, or the logits of what was
            written differ from those of the source.
    """
    source, output = Path(source), Path(output)
    if output.exists():
        raise ModelError(f"{output} exists; nothing was changed. Name another folder.")
    limit = parse_size(max_shard_size)
    meta = MetaCheckpoint(source)
    fields = meta.config_fields()
    if max_position_embeddings is not None:
        if max_position_embeddings < 1:
            raise ModelError(
                f"--max-position-embeddings is {max_position_embeddings}; a model reads one token at least."
            )
        fields["max_position_embeddings"] = max_position_embeddings
    with staged(output) as staging:
        names = LLAMA_3_1_SPECIAL if meta.params.use_scaled_rope else LLAMA_3_SPECIAL
        fidelity, special = convert_tokenizer(
            source, staging, fields["vocab_size"], fields["max_position_embeddings"], names
        )
        fields |= {"bos_token_id": special.bos, "eos_token_id": special.eos}
        written = write_weights(meta, staging, dtype, limit, progress)
        config = LlamaConfig(**fields, dtype=written.dtype, architectures=["LlamaForCausalLM"])
        config.save_pretrained(staging)
        GenerationConfig(bos_token_id=special.bos, eos_token_id=special.ends).save_pretrained(staging)
        agreement = compare(meta, staging, progress)
        conversion = Conversion(
            source=source.name,
            shards=len(meta.paths),
            parameters=written.parameters,
            dtype=str(written.dtype).removeprefix("torch."),
            tied=meta.tied,
            max_position_embeddings=fields["max_position_embeddings"],
            logits=agreement,
            tokenizer=fidelity,
        )
        write_json(staging / "conversion.json", {"format": 1, **asdict(conversion)})
    return conversion
