"""The audit: each fault is found, named by row and stops the run; what is only worth knowing is told; memory stays small."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import make_base, make_rows, recipe_text
from transformers import AutoTokenizer

from llama_tasks import tasks
from llama_tasks.cli import main
from llama_tasks.duplicates import overlap
from llama_tasks.errors import DataError
from llama_tasks.prompts import Prompt, Renderer
from llama_tasks.recipe import PromptConfig
from llama_tasks.sources import Row
from llama_tasks.tokens import Encoder, Tokens
from llama_tasks.tokens.audit import Audit, Report, stop_on


@pytest.fixture(scope="module")
def encoder(root: Path) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(root / "llama_tasks/embedded/base"), PromptConfig())


def prompts(split: str, *rows: tuple[str, str], task: str = "summarize", labels: tuple[str, ...] = ()) -> list[Prompt]:
    made, columns = tasks.create(task, labels), tasks.create(task, labels).columns
    rendered = Renderer(made)
    return [
        rendered(made.example(Row(f"{split}:{i}", {**dict(zip(columns, row, strict=True)), "lang": "en"}, f"my.jsonl:{i + 1}")))
        for i, row in enumerate(rows)
    ]  # fmt: skip


def audited(encoder: Encoder, train: list[Prompt], test: list[Prompt] = []) -> Report:  # noqa: B006
    audit = Audit(encoder)
    audit.add("train", train, encoder.encode(train).tokens)
    audit.add("test", test)
    return audit.report()


def broken(rule: str, item: Tokens, bos: list[int]) -> Tokens:
    """The tokens of one example, spoilt as a rule forbids."""
    return {
        "no_eos": replace(item, input_ids=item.input_ids[:-1]),
        "no_target": replace(item, prompt_length=len(item.input_ids) - 1),
        "bos": replace(item, input_ids=bos + item.input_ids, prompt_length=item.prompt_length + 1),
        "target_cut": replace(item, input_ids=[*item.input_ids[:-3], item.input_ids[-1]]),
    }[rule]


@pytest.mark.parametrize("rule", ["no_eos", "no_target", "bos", "target_cut"])
def test_tokens_that_would_ruin_a_training_stop_it_and_nothing_allows_them(encoder: Encoder, rule: str) -> None:
    made = prompts("train", ("A fox jumps.", "A fox is here."), ("A dog barks.", "A dog."))
    tokens = encoder.encode(made).tokens
    audit = Audit(encoder)
    audit.add("train", made, [tokens[0], broken(rule, tokens[1], encoder.bos)])
    findings = audit.report().findings
    assert rule in [finding.rule for finding in findings]
    assert all(finding.rows == ["train:1"] for finding in findings)
    with pytest.raises(DataError, match="train:1"):
        stop_on(findings, ["target_roundtrip", "leak", "empty_field"])


def test_a_target_that_the_tokenizer_cannot_write_may_be_allowed(root: Path) -> None:
    from tokenizers import normalizers

    tokenizer = AutoTokenizer.from_pretrained(root / "llama_tasks/embedded/base")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    findings = audited(
        Encoder(tokenizer, PromptConfig()), prompts("train", ("a fox.", "A Fox."), ("a dog.", "a dog."))
    ).findings
    assert [(f.rule, f.rows, f.switch) for f in findings] == [("target_roundtrip", ["train:0"], "target_roundtrip")]
    with pytest.raises(DataError, match=r"prompt.allow=\[target_roundtrip\]"):
        stop_on(findings, [])
    stop_on(findings, ["target_roundtrip"])


def test_good_rows_have_no_finding(encoder: Encoder) -> None:
    train = prompts("train", ("A fox jumps over a fence.", "A fox."), ("今天天气很好。", "天气好。"))
    assert audited(encoder, train, prompts("test", ("It rains in Leipzig.", "Rain."))).findings == []


TRAIN = "The train to Leipzig leaves at seven in the morning and arrives at nine, if the weather is fine on that day."
LEAKS = {
    "exact": TRAIN,
    "normalised": TRAIN.upper().replace("TRAIN", "ＴＲＡＩＮ").replace(",", " ;"),
    "near": TRAIN.replace("that day", "that one day"),
}


@pytest.mark.parametrize("how", list(LEAKS))
def test_overlap_is_found_to_the_letter_normalised_and_near(encoder: Encoder, how: str) -> None:
    train = prompts("train", ("A fox.", "Fox."), (TRAIN, "A train."))
    report = audited(encoder, train, prompts("test", ("A dog.", "Dog."), (LEAKS[how], "Another.")))
    found = {key: match for key, match in report.overlaps.items() if match.total}
    assert found == {("train", "test", how): overlap.Match(1, [("train:1", "test:1")])}
    finding = report.findings[0]
    assert (finding.rule, finding.rows, finding.stops) == ("leak", ["test:1"], how != "near")
    if finding.stops:
        with pytest.raises(DataError, match=r"test:1.* prompt.allow=\[leak\]"):
            stop_on(report.findings, [])
    stop_on(report.findings, ["leak"])


def test_another_asked_length_hides_no_leak(encoder: Encoder) -> None:
    task = tasks.create("summarize", config=PromptConfig(length=40))
    rendered = Renderer(task)
    row = Row("", {"document": TRAIN, "summary": "A train leaves.", "lang": "en"}, "my.jsonl:1")
    (train,), (test,) = (
        [rendered(example) for example in task.examples(replace(row, id=f"{name}:0"), training=name == "train")]
        for name in ("train", "test")
    )
    assert train.text != test.text
    assert [(f.rule, f.rows, f.how, f.stops) for f in audited(encoder, [train], [test]).findings] == [
        ("leak", ["test:0"], "exact", True)
    ]


def test_the_same_text_into_another_language_is_another_input(encoder: Encoder) -> None:
    task = tasks.create("translate")
    train, test = (
        Renderer(task)(task.example(Row(f"{name}:0", {"source": "Hotel", "target": "x", "source_lang": "en",
                                                      "target_lang": lang}, "")))
        for name, lang in (("train", "de"), ("test", "fr"))
    )  # fmt: skip
    assert audited(encoder, [train], [test]).findings == []


@pytest.mark.parametrize("command", ["inspect", "finetune"])
def test_a_test_row_among_the_solved_examples_is_a_leak(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"document": f"Anna{n}.", "summary": "A.", "lang": "en"} for n in range(3)]
    data, base = make_rows(tmp_path / "rows.jsonl", rows), make_base(tmp_path / "base")
    make_rows(tmp_path / "other.jsonl", [{**rows[0], "document": "It rains."}])
    (tmp_path / "mine.yaml").write_text(recipe_text("summarize", base, data), encoding="utf-8")
    given = [
        "data.test=rows.jsonl",
        "data.validation=other.jsonl",
        "prompt.num_fewshot=2",
    ]  # two of the three are drawn
    main([command, "mine.yaml", *given])
    shown = " ".join("".join(capsys.readouterr()).split())
    assert "rows of the test split are in the training split: 3 rows" in shown


def test_many_questions_on_one_passage_are_no_duplicates(encoder: Encoder) -> None:
    task = tasks.create("qa")
    rows = [("Who won?", "Anna"), ("Where do the players meet?", "In the park"), ("Who won", "Anna")]
    made = [Renderer(task)(task.example(Row(f"train:{i}", {"context": TRAIN, "question": q, "answers": [a]}, "")))
            for i, (q, a) in enumerate(rows)]  # fmt: skip
    assert {how: match.pairs for how, match in audited(encoder, made).repeats.items()} == {
        "exact": [],
        "normalised": [("train:0", "train:2")],
        "near": [],
    }


def test_repeats_and_contradictions_are_told(encoder: Encoder) -> None:
    report = audited(encoder, prompts("train", ("A fox.", "x"), ("A fox.", "x"), ("a FOX", "x"), ("A fox.", "y")))
    told = [(f.rule, f.rows, f.stops) for f in report.findings]
    assert told == [
        ("duplicate", ["train:1"], False),
        ("duplicate", ["train:2"], False),
        ("contradiction", ["train:3"], False),
    ]
    assert report.findings[2].named(lambda name: f"{name} (a.jsonl)") == "train:0 (a.jsonl) and train:3 (a.jsonl)"
    stop_on(report.findings, [])


def test_labels_are_counted_and_must_be_in_the_set(encoder: Encoder) -> None:
    train = prompts(
        "train", ("good", "yes"), ("bad", "no"), ("fine", "yes"), task="classify", labels=("yes", "no", "so")
    )
    stray = [replace(train[1], example=replace(train[1].example, target="maybe"))]
    test = prompts("test", ("what is this", "so"), task="classify", labels=("yes", "no", "so"))
    report = audited(encoder, [train[0], *stray, train[2]], test)
    assert report.labels["train"] == Counter({"yes": 2, "maybe": 1})
    assert [(f.rule, f.rows, f.stops) for f in report.findings] == [
        ("label", ["train:1"], True),
        ("unseen_label", ["'so'"], False),
    ]


def test_an_empty_field_stops_the_run(encoder: Encoder) -> None:
    whole = prompts("train", ("A fox.", "Fox."), ("A dog.", "Dog."))
    empty = replace(whole[1], example=replace(whole[1].example, fields={"document": " \t\u3000"}))
    findings = audited(encoder, [whole[0], empty]).findings
    assert [(f.rule, f.rows, f.switch) for f in findings] == [("empty_field", ["train:1"], "empty_field")]


def test_pieces_and_order_of_splits_change_nothing(encoder: Encoder) -> None:
    train = prompts(
        "train", (TRAIN, "A train."), *((f"The fox number {n} has {n * n} friends.", f"{n}") for n in range(9))
    )
    test = prompts("test", (LEAKS["near"], "x"), (LEAKS["exact"], "x"))
    whole = audited(encoder, train, test)
    audit = Audit(encoder)
    for prompt in test:
        audit.add("test", [prompt])
    for start in range(0, 10, 3):
        audit.add("train", train[start : start + 3], encoder.encode(train[start : start + 3]).tokens)
    assert audit.report() == whole


def test_rows_of_a_stream_are_checked_piece_by_piece(encoder: Encoder) -> None:
    audit = Audit(encoder)
    audit.add("test", prompts("test", ("A dog.", "x"), (LEAKS["normalised"], "x")))
    good = prompts("train", ("A fox.", "Fox."))
    assert audit.check(good, encoder.encode(good).tokens) == []
    train = prompts("train", ("A cow.", "Cow."), (TRAIN, "A train."))
    tokens = encoder.encode(train).tokens
    findings = audit.check(train, [broken("no_eos", tokens[0], encoder.bos), tokens[1]])
    assert {(f.rule, f.rows[0], f.stops) for f in findings} >= {("no_eos", "train:0", True), ("leak", "test:1", True)}
    assert audit.report().rows == {"train": 0, "validation": 0, "test": 2}


def test_little_of_a_row_stays(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the sample for near duplicates, a row costs tens of bytes however long it is."""
    monkeypatch.setattr(overlap, "NEAR_ROWS", 100)
    made = prompts("train", (TRAIN * 20, "A train."))[0]
    audit = Audit(encoder)

    def feed(start: int, count: int) -> None:
        for i in range(start, start + count):
            row = replace(made.example, id=f"train:{i}", fields={"document": f"{i} {TRAIN * 20}"})
            audit.add("train", [replace(made, example=row)])

    tracemalloc.start()
    feed(0, 200)
    before = tracemalloc.get_traced_memory()[0]
    feed(200, 3000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown / 3000 < 100
    assert audit.report().rows["train"] == 3200


def test_a_finding_names_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"document": f"Anna has {n} apples and no pears.", "summary": "Apples.", "lang": "en"} for n in range(40)]
    data = make_rows(tmp_path / "rows.jsonl", rows)
    make_rows(
        tmp_path / "test.jsonl",
        [{**rows[0], "document": "It rains."}, {**rows[3], "document": "anna HAS 3 apples and no pears"}],
    )
    (tmp_path / "mine.yaml").write_text(recipe_text("summarize", make_base(tmp_path / "base"), data), encoding="utf-8")
    assert main(["finetune", "mine.yaml", "data.test=test.jsonl"]) == 2
    error = capsys.readouterr().err
    assert "first test:1 (test.jsonl:2)" in error
    assert "but for case, width, spaces and punctuation: 1 row" in error
    assert "prompt.allow=[leak]" in error
