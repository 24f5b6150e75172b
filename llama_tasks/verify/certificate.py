"""`llama-tasks verify MODEL`: a certificate that the native LLaMA computes what transformers' own does on a checkpoint.

Each line is a number, what it may be at most, and a verdict. Against transformers: logits, loss and gradients in every
precision, and greedy generation. Against itself: each way to lay out a batch (cache, padding, packing, shared
prefixes, many rows) must give what one text at a time gives.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import torch
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from llama_tasks.adapters import where_is
from llama_tasks.adapters.base import keep_only_ends
from llama_tasks.adapters.quantization import compute_4bit_as_trained, four_bits
from llama_tasks.errors import ModelError
from llama_tasks.generate.slots import decode_by_slots
from llama_tasks.model import load_native
from llama_tasks.model.caches import CACHE
from llama_tasks.model.decoding import can_decode
from llama_tasks.model.loading import read_config
from llama_tasks.packing import Family, collate
from llama_tasks.recipe import Suite
from llama_tasks.tokens import IGNORE, Tokens

Precision = Literal["float32", "bfloat16", "nf4"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "nf4")
# Largest difference allowed, relative to the largest number compared; three times as much for gradients, which pass
# through twice as many sums. bfloat16 keeps 8 bits: each rounding is off by up to 1/256. NF4 is computed in float32.
TOLERANCE: dict[Precision, float] = {"float32": 1e-5, "bfloat16": 2e-2, "nf4": 1e-5}
NEW_TOKENS = 24
TEXTS = (
    "Once upon a time there was a little girl who lived by the sea.",
    "The train to Leipzig leaves at seven. It is late again, as it was yesterday and the day before.",
    "从前有一个小女孩，她住在海边。",
    "Tom said: “I have 12 apples, 3.5 kg in all.” Why?",
    "Der Zug nach Köln fährt um sieben Uhr ab; heute ist er pünktlich.",
    "The passage is short. 文章很短，问题也很短。Answer:",
)


@dataclass(frozen=True)
class Line:
    """One comparison: the largest difference found, relative to the numbers compared, and the one allowed."""

    name: str
    precision: str
    difference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Within the tolerance (NaN is not)."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Certificate:
    """What was compared on which checkpoint, with which versions, and how it went."""

    model: str
    revision: str | None
    device: str
    tokens: int
    created: str
    versions: dict[str, str]
    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Every line holds."""
        return all(line.ok for line in self.lines)

    def table(self) -> Table:
        """The lines for a terminal."""
        table = Table(
            "precision", "what is compared", title=f"{self.model} · {self.tokens} tokens · {self.device}", box=SIMPLE
        )
        table.add_column("difference", justify="right")
        table.add_column("allowed", justify="right")
        table.add_column("")
        for line in self.lines:
            numbers = f"{line.difference:.2g}", f"{line.tolerance:.2g}"
            table.add_row(line.precision, line.name, *numbers, "[green]✓[/]" if line.ok else "[bold red]✗ differs[/]")
        return table

    def as_dict(self) -> dict[str, Any]:
        """For JSON, verdicts included; a difference that is no finite number is null there."""
        lines = [
            {**asdict(line), "difference": line.difference if math.isfinite(line.difference) else None, "ok": line.ok}
            for line in self.lines
        ]
        return {"format": 1, **asdict(self), "lines": lines, "ok": self.ok}


@dataclass(frozen=True)
class _Findings:
    """What one model gave for the sample texts."""

    logits: list[Tensor]
    loss: Tensor
    gradients: dict[str, Tensor]
    generated: list[list[int]]


class _Checkpoint:
    """Loads the same weights into either class."""

    def __init__(self, model: str, revision: str | None) -> None:
        self.place, self.revision = where_is(model, revision), revision
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config = read_config(self.place, revision)

    def load(self, native: bool, precision: Precision) -> Any:
        """The model in evaluation mode; raises ModelError for a checkpoint that cannot be read."""
        quantization = four_bits("nf4", torch.float32) if precision == "nf4" else None
        options: dict[str, Any] = {
            "revision": self.revision,
            "dtype": torch.bfloat16 if precision == "bfloat16" else torch.float32,
            "quantization_config": quantization,
            "device_map": {"": self.device} if quantization or self.device.type != "cpu" else None,
        }
        if native:
            model: PreTrainedModel = load_native(self.place, **options)
        else:
            fields = {
                k: v for k, v in self.config.to_dict().items() if k not in ("model_type", "architectures", "dtype")
            }
            options |= {"config": LlamaConfig(**fields), "attn_implementation": "sdpa", "use_safetensors": True}
            model = LlamaForCausalLM.from_pretrained(self.place, **options)
        compute_4bit_as_trained(model)
        keep_only_ends(model)  # generation is compared without the penalties that a checkpoint may ask for
        return model.eval()

    def texts(self) -> list[list[int]]:
        """The sample texts as ids, at most as long as the model was made for; random ids without a tokenizer."""
        limit = max(4, self.config.max_position_embeddings - NEW_TOKENS)
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.place, revision=self.revision, trust_remote_code=False)
        except (OSError, ValueError, KeyError):
            random = torch.Generator().manual_seed(0)
            shape = [(len(text) // 3,) for text in TEXTS]
            return [torch.randint(self.config.vocab_size, size, generator=random).tolist()[:limit] for size in shape]
        texts = [tokenizer.encode(text)[:limit] for text in TEXTS]
        if (largest := max(map(max, texts))) >= self.config.vocab_size:
            raise ModelError(
                f"{self.place}: its tokenizer gives the id {largest}, beyond the {self.config.vocab_size} rows of its embedding."
            )
        return texts


def verify(model: str, revision: str | None = None, precisions: Sequence[Precision] = PRECISIONS) -> Certificate:
    """Compare the native model with transformers' LLaMA, and with itself, on a checkpoint (Hub id, folder, `embedded`).

    One model is in memory at a time; the gradients of its parameters are kept (float32 and bfloat16).

    Raises:
        ModelError: the checkpoint cannot be read, or is no LLaMA.
    """
    checkpoint = _Checkpoint(model, revision)
    texts = checkpoint.texts()
    lines: list[Line] = []
    for precision in precisions:
        native = checkpoint.load(True, precision)
        ours = _look(native, texts)
        by_slots = _decoded_by_slots(native, texts) if precision == "float32" and can_decode(native) else []
        itself = [*_layouts(native, texts), *_training_losses(native, texts)] if precision == "float32" else []
        del native
        gc.collect()
        theirs = _look(checkpoint.load(False, precision), texts)
        lines += _against_transformers(theirs, ours, precision)
        if by_slots:
            lines.append(
                Line("texts decoded otherwise (by slots)", precision, _differing(by_slots, theirs.generated), 0)
            )
        lines += itself
        del theirs, ours
        gc.collect()
    return Certificate(
        model=model,
        revision=revision,
        device=str(checkpoint.device),
        tokens=sum(map(len, texts)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: version(name) for name in ("llama-tasks", "torch", "transformers")},
        lines=tuple(lines),
    )


def _look(model: Any, texts: Sequence[list[int]]) -> _Findings:
    logits, generated = [], []
    total = torch.zeros((), device=model.device)
    gradients: dict[str, Tensor] = {}
    for ids in texts:
        row = torch.tensor([ids], device=model.device)
        embedded = model.get_input_embeddings()(row).detach().requires_grad_()
        output = model(inputs_embeds=embedded, labels=row, use_cache=False)
        output.loss.backward()
        total += output.loss.detach()
        logits.append(output.logits[0].detach().float().cpu())
        gradients[f"inputs.{len(logits)}"] = embedded.grad.float().cpu()
        done = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=NEW_TOKENS, do_sample=False)
        generated.append(done[0].tolist())
    return _Findings(logits, total.float().cpu(), gradients | _take_gradients(model), generated)


def _against_transformers(theirs: _Findings, ours: _Findings, precision: Precision) -> Iterator[Line]:
    tolerance = TOLERANCE[precision]
    logits = _worst(apart(a, b) for a, b in zip(ours.logits, theirs.logits, strict=True))
    yield Line("logits against transformers", precision, logits, tolerance)
    yield Line("loss against transformers", precision, apart(ours.loss, theirs.loss), tolerance)
    if ours.gradients.keys() != theirs.gradients.keys():
        raise ModelError(
            f"gradients of other parameters: {sorted(ours.gradients.keys() ^ theirs.gradients.keys())[:3]}"
        )
    gradients = gradients_apart(ours.gradients, theirs.gradients)
    yield Line("gradients against transformers", precision, gradients, 3 * tolerance)
    if precision != "bfloat16":  # where two tokens are nearly as likely, rounding decides
        yield Line("texts generated otherwise (greedy)", precision, _differing(ours.generated, theirs.generated), 0)


def _differing(found: Sequence[list[int]], expected: Sequence[list[int]]) -> int:
    return sum(a != b for a, b in zip(found, expected, strict=True))


@torch.inference_mode()
def _decoded_by_slots(model: Any, texts: Sequence[list[int]]) -> list[list[int]]:
    """Every text and what the evaluation's own decoding continues it with, all texts at once."""
    named = model.generation_config.eos_token_id
    ends = [named] if isinstance(named, int) else named or []
    made = dict(decode_by_slots(model, texts, ends, Suite(max_new_tokens=NEW_TOKENS)))
    return [ids + made[i] for i, ids in enumerate(texts)]


@torch.inference_mode()
def _layouts(model: Any, texts: Sequence[list[int]]) -> Iterator[Line]:
    """Logits in every layout of a batch against one text at a time."""
    alone = [model(torch.tensor([ids], device=model.device), use_cache=False).logits[0] for ids in texts]
    for name, layout in _LAYOUTS.items():
        found = _worst(apart(a, b) for a, b in zip(layout(model, texts), alone, strict=True))
        yield Line(name, "float32", found, TOLERANCE["float32"])


def _training_losses(model: Any, texts: Sequence[list[int]]) -> Iterator[Line]:
    """The loss of training (packed, shared prefixes; logits at targets only) and its gradients, against the loss of one
    text at a time with all logits."""
    families = _families(texts)
    examples = [member for family in families for member in family.members]
    count = sum(label != IGNORE for item in examples for label in item.labels)
    alone = torch.zeros(())
    for item in examples:
        row, labels = (torch.tensor([ids], device=model.device) for ids in (item.input_ids, item.labels))
        loss = model(row, labels=labels, num_items_in_batch=count, use_cache=False).loss
        loss.backward()
        alone = alone + loss.detach().cpu()
    expected = _take_gradients(model)
    for name, batch in (("packed", collate(examples)), ("shared prefixes", collate(families))):
        labels = batch.labels.to(model.device)
        loss = model(**batch.inputs(model.device), labels=labels, num_items_in_batch=count, skip_logits=True).loss
        loss.backward()
        yield Line(f"training loss, {name}", "float32", apart(loss.detach().cpu(), alone), TOLERANCE["float32"])
        worst = gradients_apart(_take_gradients(model), expected)
        yield Line(f"training gradients, {name}", "float32", worst, 3 * TOLERANCE["float32"])


def _take_gradients(model: Any) -> dict[str, Tensor]:
    """The gradients of all parameters, which are cleared."""
    found = {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def _families(texts: Sequence[list[int]]) -> list[Family]:
    """Every text as a prefix with two continuations, the second of them the text's own."""
    families = []
    for ids in texts:
        half = len(ids) // 2
        families.append(Family((Tokens("", ids[:half] + ids[half:][::-1], half), Tokens("", ids, half)), half))
    return families


def _with_cache(model: Any, texts: Sequence[list[int]]) -> Iterator[Tensor]:
    for ids in texts:
        cache = DynamicCache(config=model.config)
        row, half = torch.tensor([ids], device=model.device), len(ids) // 2
        steps = [row[:, :half], *row[:, half:].split(1, dim=1)]
        yield torch.cat([model(part, **{CACHE: cache}).logits[0] for part in steps])


def _padded_left(model: Any, texts: Sequence[list[int]]) -> Iterator[Tensor]:
    width = max(map(len, texts))
    rows = torch.tensor([[0] * (width - len(ids)) + ids for ids in texts], device=model.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in texts], device=model.device)
    logits = model(rows, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False).logits
    return (row[width - len(ids) :] for row, ids in zip(logits, texts, strict=True))


def _padded_right(model: Any, texts: Sequence[list[int]]) -> Iterator[Tensor]:
    width = max(map(len, texts))
    rows = torch.tensor([ids + [0] * (width - len(ids)) for ids in texts], device=model.device)
    logits = model(rows, use_cache=False).logits
    return (row[: len(ids)] for row, ids in zip(logits, texts, strict=True))


def _packed(model: Any, texts: Sequence[list[int]]) -> Sequence[Tensor]:
    batch = collate([Tokens("", ids, 0) for ids in texts])
    return model(**batch.inputs(model.device)).logits[0].split([len(ids) for ids in texts])


def _packed_by_positions(model: Any, texts: Sequence[list[int]]) -> Sequence[Tensor]:
    batch = collate([Tokens("", ids, 0) for ids in texts])
    row, positions = batch.input_ids.to(model.device), batch.position_ids.to(model.device)
    return model(row, position_ids=positions, use_cache=False).logits[0].split([len(ids) for ids in texts])


def _shared_prefix(model: Any, texts: Sequence[list[int]]) -> Iterator[Tensor]:
    batch = collate(_families(texts))
    parts = model(**batch.inputs(model.device)).logits[0].split(batch.cu_seq_lens.diff().tolist())
    return (torch.cat((parts[i], parts[i + 2])) for i in range(0, len(parts), 3))


_LAYOUTS = {
    "cache, token by token": _with_cache,
    "padded on the left": _padded_left,
    "many rows, padded on the right": _padded_right,
    "packed by boundaries": _packed,
    "packed by positions alone": _packed_by_positions,
    "shared prefixes": _shared_prefix,
}


def apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest number expected."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def gradients_apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The worst of the gradients, each against the largest of its own parameter: small ones do not hide behind large ones."""
    if found.keys() != expected.keys():
        raise ModelError(f"There are gradients of other parameters: {sorted(found.keys() ^ expected.keys())[:3]}")
    return _worst(apart(found[name], expected[name]) for name in expected)


def _worst(differences: Iterable[float]) -> float:
    """The largest, and NaN if one is (`max` would pass over it)."""
    return float(torch.tensor(list(differences)).max())
