"""Training from a stream: the same batches for any number of workers, exact resume, nothing dropped or doubled in an epoch."""

from __future__ import annotations

import functools
import io
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from digits import encode, refuse
from loops import BASE
from rich.console import Console
from tiny import make_base, make_rows, recipe_text

from llama_tasks import adapters, checkpoint
from llama_tasks.dataset import prepare
from llama_tasks.dataset import stream as stream_chunks
from llama_tasks.dataset.stream import Stream
from llama_tasks.errors import DataError, RecipeError
from llama_tasks.finetune import finetune
from llama_tasks.inspection import gather
from llama_tasks.packing import stream_plan
from llama_tasks.packing.stream_plan import StreamPlan
from llama_tasks.recipe import Recipe, TrainConfig, load_recipe
from llama_tasks.sources import stream_rows
from llama_tasks.train import Training

CONFIG = TrainConfig(max_steps=40, tokens_per_batch=60, learning_rate=1e-2, seed=3)
ROWS = 700


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of 700 rows, and windows of some hundred."""
    monkeypatch.setattr(stream_plan, "WINDOW", 20)
    monkeypatch.setattr(stream_chunks, "CHUNK", 50)
    for part in range(2):
        names = range(part, ROWS, 2)
        make_rows(tmp_path / f"part{part}.jsonl", [{"n": str(n), "text": "x"} for n in names])
    return tmp_path


def stream(folder: Path, workers: int = 0) -> Stream:
    recipe = Recipe(task="text")
    files = [str(folder / f"part{part}.jsonl") for part in range(2)]
    data = replace(recipe.data, train=files, validation=files, test=files, streaming=True, shuffle_buffer=100)
    return Stream(functools.partial(stream_rows, data, "text", "train", 5), encode, workers)


def names(plan: StreamPlan, done: int = 0, position: dict | None = None) -> list[list[list[str]]]:
    steps = plan.read(done, position or {})
    return [[[f.members[0].id for f in batch] for batch in step.batches] for step in steps]


def test_an_epoch_gives_every_row_once_and_says_what_it_dropped(small: Path) -> None:
    source = stream(small)
    plan = StreamPlan(source, replace(CONFIG, max_steps=10_000), 2)
    first = itertools.takewhile(lambda step: step.epoch == 0, plan.read(0, {}))
    seen = Counter(f.members[0].id for step in first for batch in step.batches for f in batch)
    assert set(seen) == {str(n) for n in range(ROWS)} - {"13"}
    assert set(seen.values()) == {1}
    assert source.dropped >= 1
    batches = [batch for step in itertools.islice(plan.read(0, {}), 20) for batch in step.batches]
    assert sum(f.num_tokens for batch in batches for f in batch) > 0.95 * 60 * len(batches)


def test_workers_change_nothing(small: Path) -> None:
    plans = [names(StreamPlan(stream(small, workers), CONFIG, 2)) for workers in (0, 2)]
    assert plans[0] == plans[1]
    assert len(plans[0]) == 40
    assert names(StreamPlan(stream(small), replace(CONFIG, seed=4), 2)) != plans[0]


def test_steps_go_on_from_every_position(small: Path) -> None:
    """Also from the last step of a window and of an epoch, and through JSON."""
    config = replace(CONFIG, max_steps=120)
    whole = names(StreamPlan(stream(small), config, 2))
    places = [json.loads(json.dumps(step.position)) for step in StreamPlan(stream(small), config, 2).read(0, {})]
    assert len({place["epoch"] for place in places}) > 1
    assert 0 in {place["steps"] for place in places}
    for done in (1, 7, *(i + 1 for i, place in enumerate(places) if place["steps"] == 0)):
        assert names(StreamPlan(stream(small), config, 2), done, places[done - 1]) == whole[done:]


def test_a_step_of_many_batches_is_not_cut_at_a_window(small: Path) -> None:
    """More batches than the 20 of a window: all steps of an epoch but the last one are full."""
    plan = StreamPlan(stream(small), CONFIG, 25)
    sizes = [len(step.batches) for step in plan.read(0, {}) if step.epoch == 0]
    assert len(sizes) > 1
    assert set(sizes[:-1]) == {25}


def test_an_error_in_a_worker_arrives(small: Path) -> None:
    source = replace(stream(small, 1), encode=refuse)
    with pytest.raises(DataError, match="no row is good"):
        next(StreamPlan(source, CONFIG, 1).read(0, {}))


def test_a_stream_without_rows_is_an_error(small: Path) -> None:
    with pytest.raises(DataError, match="gave no example"):
        next(StreamPlan(Stream(lambda epoch, start: iter(()), encode), CONFIG, 1).read(0, {}))


def training(folder: Path) -> Training:
    set_seed(5)
    model = adapters.attach(adapters.load_base(BASE), {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1}, BASE)
    return Training(model, stream(folder), CONFIG, Accelerator(), 1e-2)


@pytest.mark.parametrize("stop_at", [1, 23])
def test_resume_is_exact(small: Path, stop_at: int) -> None:
    """k steps, save, a fresh start, the rest: byte for byte the undisturbed run, dropout included."""
    whole = training(small)
    list(whole.run())
    broken = training(small)
    assert [report.step for report in itertools.islice(broken.run(), stop_at)][-1] == stop_at
    path = checkpoint.save(small / "checkpoints", broken, {})
    torch.manual_seed(99)
    resumed = training(small)
    checkpoint.restore(path, resumed)
    assert len(list(resumed.run())) == CONFIG.max_steps - stop_at
    expected, found = checkpoint.trained_weights(whole), checkpoint.trained_weights(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


# --- by recipe -----------------------------------------------------------------------------------------------------


def recipe(folder: Path, *overrides: str) -> Recipe:
    rows = [
        {"document": f"Anna has {n} apples and lives in Oakfield.", "summary": f"Anna has {n} apples."}
        for n in range(80)
    ]
    make_base(folder / "base")
    for name, part in (("train", rows[:60]), ("validation", rows[60:70]), ("test", rows[70:])):
        make_rows(folder / f"{name}.jsonl", part)
    (folder / "mine.yaml").write_text(recipe_text("summarize", folder / "base", folder, tokens_per_batch=100))
    return load_recipe(folder / "mine.yaml", ["data.streaming=true", f"output={folder / 'run'}", *overrides])


def test_a_recipe_trains_from_a_stream(tmp_path: Path) -> None:
    report = finetune(recipe(tmp_path, "train.max_steps=6"))
    assert report["training"]["best_step"] == 6
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["data"]["train"]["shards"] == 1


def test_a_run_tells_what_its_stream_set_aside(tmp_path: Path) -> None:
    told = recipe(tmp_path, "train.max_steps=6", "data.on_bad_row=skip")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    make_rows(tmp_path / "train.jsonl", [{"article": row["document"], "highlights": row["summary"]} for row in rows])
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"article": "Anna has none."}\n')
    console = Console(file=io.StringIO(), width=400)
    finetune(told, console=console)
    before, _, _ = console.file.getvalue().partition("step 1/")
    assert "⟦what carries loss⟧" in before and "⟧\n" in before.split("loss⟧:", 1)[1]  # the first batch, before step 1
    start, _, end = console.file.getvalue().partition("train: rows set aside (data.on_bad_row: skip): ")
    assert "train: read as CNN/DailyMail" in start
    assert int(end.split(",")[0]) >= 1
    assert end.count("train.jsonl:61: the field 'highlights' is missing") == 1


def test_what_a_stream_needs(tmp_path: Path) -> None:
    told = recipe(tmp_path)
    tokenizer = adapters.load_tokenizer(told.base)
    with pytest.raises(RecipeError, match=r"say train\.max_steps"):
        prepare(told, tokenizer)
    with pytest.raises(RecipeError, match=r"list them in data\.labels"):
        prepare(replace(told, task="classify"), tokenizer)
    for key in ("prompt.num_fewshot=2", "clean.exact_duplicates=true", "clean.near_duplicates=0.8"):
        with pytest.raises(RecipeError, match="needs all training rows at hand"):
            prepare(recipe(tmp_path, "train.max_steps=6", key), tokenizer)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_of_a_stream_are_cleaned_one_by_one(tmp_path: Path, workers: int) -> None:
    """What is done, and what is told of it, is the same as for rows at hand, for any number of workers."""
    (tmp_path / "hook.py").write_text("def shout(text):\n    return text.replace('Oakfield', 'OAKFIELD')\n")
    steps = "{unicode: NFKC, redact: [email], hook: 'hook.py:shout', min_length: {summary: 19}}"
    told = recipe(tmp_path, "train.max_steps=6", f"data.num_workers={workers}")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    rows[7]["summary"] += " ﬁne, ana@example.org"
    make_rows(tmp_path / "train.jsonl", rows)
    with (tmp_path / "mine.yaml").open("a") as file:
        file.write(f"clean: {steps}\n")
    told = replace(told, clean=load_recipe(tmp_path / "mine.yaml").clean)
    made = prepare(told, adapters.load_tokenizer(told.base))
    seen = {item.id for tokens, _ in made.stream.read(0) for item in tokens}
    at_hand = prepare(replace(told, data=replace(told.data, streaming=False)), adapters.load_tokenizer(told.base))
    assert len(seen) == len(at_hand.train.tokens) == 51  # names of one digit leave too little, but for the seventh
    streamed, cleaning = made.stream.cleaning.describe(), at_hand.fingerprints["train"]["cleaning"]
    assert streamed.pop("rows_before") == cleaning.pop("rows_before") == 60
    assert {step: {**about, "first": 0} for step, about in streamed.items()} == {
        step: {**about, "first": 0} for step, about in cleaning.items()
    }
    assert streamed["redact email"]["changed"] == 1
    text = made.encoder.tokenizer.decode(made.train.tokens[0].input_ids)
    assert "OAKFIELD" in text


def test_a_run_tells_what_was_cleaned_in_its_stream(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=400)
    finetune(recipe(tmp_path, "train.max_steps=2", "clean.min_length.summary=19"), console=console)
    assert "cleaned train: min_length left out" in console.file.getvalue()


def test_inspect_shows_the_beginning_of_a_stream(tmp_path: Path) -> None:
    told = recipe(tmp_path, "train.max_steps=6")
    found = gather(told, adapters.load_tokenizer(told.base))
    assert found.sources["train"]["rows"] == 60
    assert "the first 60 rows of the stream" in found.sources["train"]["source"]
    assert found.report.rows == {"train": 60, "validation": 10, "test": 10}


def test_a_row_of_the_test_split_in_the_stream_stops_it(tmp_path: Path) -> None:
    told = recipe(tmp_path, "train.max_steps=6")
    (tmp_path / "test.jsonl").write_text((tmp_path / "train.jsonl").read_text().splitlines()[5] + "\n")
    with pytest.raises(DataError, match="rows of the test split are in the training split"):
        prepare(told, adapters.load_tokenizer(told.base))


def test_a_stream_is_not_judged_by_its_first_rows(tmp_path: Path) -> None:
    """Those are too long, and lack a label: the run begins with the rows behind them, and nothing is said of all."""
    make_base(tmp_path / "base")
    rows = [{"text": f"Anna has {n} apples " * (1 if n > 255 else 60), "label": "no"} for n in range(300)]
    make_rows(tmp_path / "train.jsonl", rows)
    for name in ("validation", "test"):
        make_rows(tmp_path / f"{name}.jsonl", [{"text": name, "label": label} for label in ("yes", "no")])
    (tmp_path / "mine.yaml").write_text(recipe_text("classify", tmp_path / "base", tmp_path, tokens_per_batch=100))
    asked = ["data.streaming=true", "data.labels=['yes', 'no']", "prompt.on_too_long=drop", "train.max_steps=2"]
    told = load_recipe(tmp_path / "mine.yaml", [*asked, "data.shuffle_buffer=1"])
    tokenizer = adapters.load_tokenizer(told.base)
    made = prepare(told, tokenizer)
    assert len(made.train.tokens) == len(made.prompts["train"]) == 300 - 256
    assert not any("without a training row" in finding for finding in made.findings)
    seen = gather(told, tokenizer).report.findings
    assert not {"too_long", "unseen_label"} & {finding.rule for finding in seen}
    short = replace(told, prompt=replace(told.prompt, max_length=8))
    with pytest.raises(DataError, match=r"all of the first 10,000 rows are longer than prompt.max_length \(8 tokens\)"):
        prepare(short, tokenizer)
    assert [finding.rule for finding in gather(short, tokenizer).stops] == ["too_long"]
