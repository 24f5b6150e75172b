"""What `plan` says: by formula what autograd saves, on paper what is known of published models, in a process what it takes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from rich.console import Console
from tiny import make_base, make_rows, recipe_text

from llama_tasks import adapters, cli
from llama_tasks.dataset import Dataset, prepare
from llama_tasks.errors import RecipeError
from llama_tasks.estimate import devices, forecast, planning
from llama_tasks.estimate import needs as estimate
from llama_tasks.estimate.shape import frozen_bytes, shape_of
from llama_tasks.model import NativeLlamaForCausalLM, attention_products, products
from llama_tasks.packing import Family, collate
from llama_tasks.recipe import BaseConfig, DistillConfig, Recipe, TrainConfig, load_recipe
from llama_tasks.tokens import Tokens

SMALL = {
    "vocab_size": 500, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip
EIGHT_B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 8192,
}  # fmt: skip


def recipe(config: dict, adapter: dict | None, **train: object) -> Recipe:
    settings = TrainConfig(learning_rate=1e-3, **train)  # type: ignore[arg-type]
    return Recipe(task="text", base=BaseConfig(config=config, dtype="float32"), adapter=adapter, train=settings)


def saved_bytes(model: NativeLlamaForCausalLM, responses: int, length: int = 100) -> int:
    """What autograd saves over the forward pass of some examples, 1,000 tokens in all, weights left out."""
    items = [Tokens(str(i), list(range(5, 5 + length)), length - responses) for i in range(1000 // length)]
    batch = collate([Family((item,)) for item in items])
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**batch.inputs(), labels=batch.labels, num_items_in_batch=batch.num_targets, skip_logits=True)
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)


@pytest.mark.parametrize("adapter", [{"r": 8}, None])
@pytest.mark.parametrize("responses", [10, 90])
def test_activations_are_what_autograd_saves(adapter: dict | None, responses: int) -> None:
    asked = recipe(SMALL, adapter)
    model = adapters.attach(adapters.new_model(SMALL), adapter, BaseConfig()).train()
    read = 10 * responses if responses == 10 else 1000
    formula = estimate.saved(
        asked.train, shape_of(asked), estimate.Batch(1000, read, 10 * responses), 4, adapter is not None
    )
    assert formula == pytest.approx(saved_bytes(model, responses), rel=0.06)


@pytest.mark.parametrize("length", [100, 250])
def test_a_narrow_base_keeps_float32_too(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """In bfloat16 on a CPU that computes it in float32."""
    monkeypatch.setattr(products, "is_x86_without_avx512", lambda: True)
    monkeypatch.setattr(attention_products, "is_amd_without_avx512", lambda: True)
    asked = recipe(SMALL, {"r": 8})
    model = adapters.attach(adapters.new_model(SMALL).bfloat16(), {"r": 8}, BaseConfig(dtype="bfloat16")).train()
    tokens = [Tokens(str(i), [5] * length, length // 10) for i in range(1000 // length)]
    batch = estimate.heaviest_batch(tokens, TrainConfig(tokens_per_batch=1000))
    formula = estimate.saved(asked.train, shape_of(asked), batch, 2, made_again=True)
    formula += estimate.attention_in_float32(asked.train, shape_of(asked), batch, 2)
    assert formula == pytest.approx(saved_bytes(model, length - length // 10, length), rel=0.08)


@pytest.mark.parametrize("by_blocks", [False, True])
def test_weights_that_attention_keeps_are_counted(monkeypatch: pytest.MonkeyPatch, by_blocks: bool) -> None:
    monkeypatch.setattr(attention_products, "is_amd_without_avx512", lambda: by_blocks)
    asked = recipe(SMALL, {"r": 8})
    model = adapters.attach(adapters.new_model(SMALL), {"r": 8}, BaseConfig()).train()
    tokens = [Tokens(str(i), [5] * 250, 225) for i in range(4)]
    batch = estimate.heaviest_batch(tokens, TrainConfig(tokens_per_batch=1000))
    found = estimate.attention_in_float32(asked.train, shape_of(asked), batch, 4)
    assert (found > 0) == by_blocks
    formula = found + estimate.saved(asked.train, shape_of(asked), batch, 4, made_again=True)
    assert formula == pytest.approx(saved_bytes(model, 25, 250), rel=0.06)


@pytest.mark.parametrize(("lengths", "counted"), [
    ((2000, 700, 700, 700, 40), (700, 700)), ((2000, 2000, 704), (704,)), ((128, *[100] * 19), (128,) * 20), ((2000,), ())
])  # fmt: skip
def test_the_estimate_counts_the_batch_that_keeps_most(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], counted: tuple[int, ...]
) -> None:
    """Tokens of the longest examples, weights of those short enough to keep them."""
    monkeypatch.setattr(attention_products, "is_amd_without_avx512", lambda: True)
    items = [Tokens(str(i), [5] * length, length - 5) for i, length in enumerate(lengths)]
    batch = estimate.heaviest_batch(items, TrainConfig(tokens_per_batch=2048))
    kept = sum(attention_products.weights_kept(length) for length in counted)
    assert batch.weights * batch.tokens == pytest.approx(kept)


def test_parameters_are_those_of_the_model() -> None:
    asked = recipe(SMALL, {"r": 8})
    shape = shape_of(asked)
    counted = adapters.count_parameters(adapters.attach(adapters.new_model(SMALL), {"r": 8}, BaseConfig()))
    assert (shape.trained, shape.linear + shape.other + shape.trained) == (counted.trainable, counted.total)


def test_eight_billion_on_paper() -> None:
    """16 GB of bf16 weights, a little over 5 GB in NF4; on 8 devices an eighth of all that is cut."""
    shape = shape_of(recipe(EIGHT_B, {"r": 16}))
    assert shape.linear + shape.other == 8_030_261_248
    batch = estimate.Batch(4096, 1000, 1000)
    asked = recipe(EIGHT_B, {"r": 16})
    bf16 = Recipe("text", base=BaseConfig(config=EIGHT_B), adapter={"r": 16}, train=asked.train)
    nf4 = Recipe("text", base=BaseConfig(config=EIGHT_B, quantization="nf4"), adapter={"r": 16}, train=asked.train)
    alone, packed = estimate.memory(bf16, shape, batch, "cuda"), estimate.memory(nf4, shape, batch, "cuda")
    assert alone.weights == 2 * 8_030_261_248
    assert 5.0e9 < packed.weights < 6.0e9
    assert estimate.memory(bf16, shape, batch, "cuda", spread=8).weights == alone.weights // 8
    lean = Recipe(
        "text", base=bf16.base, adapter={"r": 16}, train=TrainConfig(learning_rate=1e-3, gradient_checkpointing=True)
    )
    assert estimate.memory(lean, shape, batch, "cuda").activations < alone.activations / 8


@pytest.mark.parametrize(
    ("optim", "args", "held"),
    [
        ("adamw_torch_fused", {}, 8),
        ("sgd", {}, 0),
        ("sgd", {"momentum": 0.9}, 4),
        ("adafactor", {}, 4 * 2 / 512),  # a row and a column of each matrix
        ("torch.optim.Rprop", {}, 8),
        ("bitsandbytes.optim.AdEMAMix", {}, 12),
        ("adamw_8bit", {}, 2),
    ],
)
def test_the_optimizer_is_asked_for_its_state(optim: str, args: dict, held: float) -> None:
    config = TrainConfig(learning_rate=1e-3, optim=optim, optim_args=args, weight_decay=0.0)
    assert estimate.state_bytes(config) == pytest.approx(held, rel=0.05)


def test_a_step_or_an_evaluation_is_the_peak() -> None:
    asked = recipe(SMALL, {"r": 8})
    shape, batch = shape_of(asked), estimate.Batch(256, 256, 256)
    step = estimate.memory(asked, shape, batch, "cpu")
    assert (step.evaluation, step.teacher) == (0, 0)
    heavy = estimate.memory(asked, shape, batch, "cpu", answers=estimate.Answers(8192, 9000, 30))
    assert heavy.peak - step.peak == heavy.evaluation - step.gradients - step.activations - max(
        step.logits, step.backward
    )


def test_a_teacher_is_counted(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    asked = recipe(SMALL, {"r": 8})
    taught = replace(asked, distill=DistillConfig(teacher=str(base), dtype="float32"))
    shape, batch = shape_of(asked), estimate.Batch(256, 256, 256)
    weights = sum(p.numel() * 4 for p in adapters.load_base(BaseConfig(str(base), dtype="float32")).parameters())
    plain, more = (estimate.memory(r, shape, batch, "cpu") for r in (asked, taught))
    assert more.teacher > weights
    assert more.teacher == pytest.approx(weights, rel=0.9)
    assert more.logits == estimate.TAUGHT * plain.logits


def test_packed_weights_by_their_settings() -> None:
    shape = shape_of(recipe(EIGHT_B, {"r": 16}))
    named = frozen_bytes(shape, BaseConfig(config=EIGHT_B, quantization="nf4"), "cuda")
    doubly = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}
    assert frozen_bytes(shape, BaseConfig(config=EIGHT_B, quantization_config=doubly), "cuda") == named
    plain = frozen_bytes(shape, BaseConfig(config=EIGHT_B, quantization_config={"load_in_4bit": True}), "cuda")
    assert named < plain < frozen_bytes(shape, BaseConfig(config=EIGHT_B, quantization="int8"), "cuda")


def test_time_is_work_by_rate() -> None:
    asked = recipe(EIGHT_B, {"r": 16})
    shape = shape_of(asked)
    flops = estimate.flops_per_step(asked, shape, tokens=1e6, targets=1e6, mean_length=0)
    assert flops == pytest.approx(4e6 * 8.03e9, rel=0.1)  # 4 P a token
    assert estimate.seconds(flops, devices.GPUS["h100"], 8) == pytest.approx(flops / (8 * 0.4 * 989e12))


def test_the_command_tells_and_loads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"document": f"Anna has {n} apples and {n} pears.", "summary": f"{n} apples."} for n in range(60)]
    base = make_base(tmp_path / "base")
    text = recipe_text("summarize", base, make_rows(tmp_path / "rows.jsonl", rows)).replace(
        "prompt:", "  constants: {lang: en}\nprompt:"
    )
    (tmp_path / "mine.yaml").write_text(text + "adapter: {r: 4}\n")
    (base / "model.safetensors").unlink()  # the configuration is enough
    monkeypatch.setattr(devices, "PROBE_SECONDS", 0.01)
    assert cli.main(["plan", str(tmp_path / "mine.yaml")]) == 0
    here = capsys.readouterr().out
    for word in (
        "4,096 of 170,144 parameters",
        "steps",
        "activations",
        "optimizer",
        "peak",
        "fits",
        "this CPU",
    ):
        assert word in here, here
    assert cli.main(["plan", str(tmp_path / "mine.yaml"), "--gpu", "h200", "--num", "8"]) == 0
    assert "8 x H200 with" in capsys.readouterr().out
    assert cli.main(["plan", str(tmp_path / "mine.yaml"), "--gpu", "h20"]) == 2
    assert "Did you mean" in capsys.readouterr().err
    assert cli.main(["plan", str(tmp_path / "mine.yaml"), "--num", "0"]) == 2
    assert "--num is 0" in capsys.readouterr().err
    assert cli.main(["plan", str(tmp_path / "mine.yaml"), "adapter={peft_type: IA3}"]) == 2


def test_what_does_not_fit_is_said() -> None:
    asked = recipe(EIGHT_B, {"r": 16})
    shape, batch = shape_of(asked), estimate.Batch(4096, 4096, 4096)
    needs = estimate.memory(asked, shape, batch, "cuda")
    largest = estimate.largest_batch(asked, shape, batch, "cuda", devices.GPUS["t4"].memory)
    assert largest is None
    outlook = planning.Outlook(shape, batch, needs, devices.GPUS["t4"], 1, 10, 40960, 100.0, largest)
    console = Console(record=True, width=100, quiet=False)
    planning.tell(outlook, console)
    assert "DOES NOT FIT" in console.export_text()
    room = estimate.largest_batch(asked, shape, batch, "cuda", 80 * devices.GIB)
    assert room is not None and room >= 1024


def test_an_adapter_without_a_formula_is_refused() -> None:
    with pytest.raises(RecipeError, match="IA3"):
        estimate.check(recipe(SMALL, {"peft_type": "IA3"}))


def test_what_cannot_fit_is_refused_before_the_base_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"document": f"Anna has {n} apples and {n} pears.", "summary": f"{n} apples."} for n in range(60)]
    text = recipe_text("summarize", make_base(tmp_path / "base"), make_rows(tmp_path / "rows.jsonl", rows)).replace(
        "prompt:", "  constants: {lang: en}\nprompt:"
    )
    (tmp_path / "mine.yaml").write_text(text + "adapter: {r: 4}\n")
    monkeypatch.setattr(devices, "available_memory", lambda device: 4 * 2**20)
    assert cli.main(["finetune", str(tmp_path / "mine.yaml"), f"output={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert "4.2 MB are free" in said and "train.preflight=false goes on" in said, said
    assert not (tmp_path / "run").exists()


def test_a_start_that_asks_for_the_quantised_base_is_estimated_like_any_other() -> None:
    base = BaseConfig(config=EIGHT_B, quantization="nf4")
    asked = Recipe(task="text", base=base, adapter={"r": 16, "init_lora_weights": "loftq"}, train=TrainConfig())
    assert shape_of(asked) == shape_of(replace(asked, adapter={"r": 16}))


def pears(folder: Path) -> tuple[Recipe, Dataset]:
    """A recipe and its rows."""
    rows = make_rows(folder / "rows.jsonl", [{"document": f"{n} pears.", "summary": f"{n}."} for n in range(60)])
    text = recipe_text("summarize", make_base(folder / "base"), rows).replace(
        "prompt:", "  constants: {lang: en}\nprompt:"
    )
    (folder / "mine.yaml").write_text(text + "adapter: {r: 4}\n")
    asked = load_recipe(str(folder / "mine.yaml"))
    return asked, prepare(asked, adapters.load_tokenizer(asked.base))


@pytest.mark.usefixtures("no_traces")
def test_pieces_are_forecast_unless_they_lie_on_the_cpu(tmp_path: Path) -> None:
    """FSDP2's: in accelerate's settings the policy of not offloading is an object too."""
    asked, dataset = pears(tmp_path)
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP
    for offloads in (False, True):
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_offload=offloads)
        assert accelerator.is_fsdp2
        assert (forecast.make_forecast(asked, dataset, accelerator) is None) == offloads


def test_what_is_wrong_with_a_recipe_is_not_said_by_the_forecast(tmp_path: Path) -> None:
    (asked, dataset), accelerator = pears(tmp_path), Accelerator(cpu=True)
    assert forecast.make_forecast(asked, dataset, accelerator) is not None
    train = replace(asked.train, optim="adamw_of_nobody")
    assert forecast.make_forecast(replace(asked, train=train), dataset, accelerator) is None


def test_the_proposal_is_what_the_estimate_says_fits() -> None:
    asked = recipe(EIGHT_B, {"r": 16}, tokens_per_batch=8192)
    shape, batch = shape_of(asked), estimate.Batch(8192, 8192, 8192)
    seen = forecast.Forecast(asked, shape, batch, "cpu", 1)
    room = seen.memory().peak // 2
    size = seen.largest(asked.train, room)
    assert size is not None and size < 8192
    smaller = estimate.Batch(size, size, size)
    assert estimate.memory(asked, shape, smaller, "cpu").peak <= room
    assert forecast.Forecast(asked, shape, batch, "cpu", 1).largest(asked.train, 2**30) is None


def test_room_is_bounded_by_what_a_process_may_address() -> None:
    """In a process of its own, whose limit is what it has and 64 MiB."""
    script = (
        "import resource\nfrom pathlib import Path\nfrom llama_tasks.estimate.devices import available_memory\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "free = available_memory('cpu')\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20,) * 2)\n"
        "assert available_memory('cpu') <= 64 * 2**20 < free"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
