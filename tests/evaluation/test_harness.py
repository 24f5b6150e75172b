"""Any causal language model on the sets of a suite file: texts and likelihoods are those of its own class, one row at a time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import logprob, make_base, make_model, make_rows
from token_styles import LLAMA2_CHAT
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_tasks.cli import main
from llama_tasks.contract import PromptContract, hash_of, special_ids, tokenizer_sha256
from llama_tasks.errors import DataError, ModelError, RecipeError
from llama_tasks.evaluation import harness, prediction
from llama_tasks.recipe import BaseConfig
from llama_tasks.recipe.suites import load_sets
from llama_tasks.rundir import read_jsonl

QA = [
    {"context": f"Anna has {n} apples.", "question": "How many?", "answers": [str(n)], "lang": "en"} for n in range(5)
]
LABELS = [{"text": f"It was {word}.", "label": label, "lang": "en"}
          for word, label in (("good", "fine"), ("bad", "poor"), ("great", "fine"), ("dull", "very poor"))]  # fmt: skip
SUITE = """
sets:
  short:
    task: qa
    data: {test: qa.jsonl}
    eval: {metrics: [f1, exact_match], max_new_tokens: 5, tokens_per_batch: 120, n_resamples: 100}
  labels:
    task: classify
    data: {test: labels.jsonl}
    eval: {scoring: likelihood, metrics: [accuracy], n_resamples: 100}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    make_rows(folder / "qa.jsonl", QA)
    make_rows(folder / "labels.jsonl", LABELS)
    (folder / "suite.yaml").write_text(SUITE)
    for kind in ("gpt2", "qwen2"):
        make_model(kind, folder / kind)
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def say(_: str) -> None:
    """Nobody listens."""


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_any_model_is_scored_as_it_is(place: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = harness.Candidate.load(BaseConfig(model=str(place / kind)))
    results = harness.run(load_sets("suite.yaml"), candidate, tmp_path, say)
    plain = AutoModelForCausalLM.from_pretrained(place / kind).eval()
    plain.generation_config.repetition_penalty = None
    encode = candidate.tokenizer
    for row in read_jsonl(tmp_path / "short/predictions.jsonl"):
        text = "Answer the question from the text.\n\n{context}\n\nQuestion: {question}\nAnswer:".format(**row["input"])
        ids = torch.tensor([[1, *encode(text, add_special_tokens=False)["input_ids"]]])
        made = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=3
        )
        assert row["raw"] == encode.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    for row in read_jsonl(tmp_path / "labels/predictions.jsonl"):
        head = [
            1,
            *encode(f"Classify the text.\n\n{row['input']['text']}\n\nLabel:", add_special_tokens=False)["input_ids"],
        ]
        for choice, value in row["choices"].items():
            tail = [*encode(f" {choice}", add_special_tokens=False)["input_ids"], 2]
            assert value == pytest.approx(logprob(plain, head + tail, len(head)), abs=2e-4)
    scores = json.loads((tmp_path / "short/scores.json").read_text())
    assert results["short"] == scores
    assert {"signature", "n", "interval", "value"} <= set(scores["scores"][0])
    assert scores["decoding"]["engine"] == "transformers"
    assert scores["environment"]["data"]["test"]["rows"] == 5
    assert scores["weights"]["base"]["model.safetensors"]
    assert scores["command"]
    assert "| short | exact_match | en |" in (tmp_path / "table.md").read_text()

    def fail(*_: Any) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(prediction, "write", fail)
    assert harness.run(load_sets("suite.yaml"), candidate, tmp_path, say)["short"]["scores"] == scores["scores"]


@pytest.mark.parametrize("lengths", [(5, 2), (2, 5)])
def test_a_stop_between_rows_and_scores(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, int]
) -> None:
    """Older scores say nothing of the rows that a stopped evaluation left, and those rows are not made again."""
    candidate, target = harness.Candidate.load(BaseConfig(model=str(place / "gpt2"))), tmp_path / "short/scores.json"
    first, second = ({"short": load_sets("suite.yaml", [f"eval.max_new_tokens={n}"])["short"]} for n in lengths)

    def stopped() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(prediction, "describe", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                harness.run(second, candidate, tmp_path, say)

    def made(sets: dict[str, Any]) -> tuple[list[Any], Any]:
        harness.run(sets, candidate, tmp_path, say)
        scores = json.loads(target.read_text())
        return list(read_jsonl(target.with_name("predictions.jsonl"))), scores["scores"]

    expected = made(first)
    stopped()
    assert made(first) == expected
    stopped()
    asked: list[list[int]] = []
    stream = prediction.stream
    monkeypatch.setattr(prediction, "stream", lambda *a: (asked.append(list(a[-1])), stream(*a))[1])
    assert made(second)[0] != expected[0]
    assert asked[0] == []  # the sample that is decoded alone comes after


def test_an_adapter_is_asked_by_its_contract(place: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = BaseConfig(model=str(place / "qwen2"))
    candidate = harness.Candidate.load(base)
    plain = AutoModelForCausalLM.from_pretrained(place / "qwen2")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(plain, config).save_pretrained(tmp_path / "adapter")
    template = {"default": "{context} | {question} |"}
    tokenizer = candidate.tokenizer
    contract = PromptContract(
        "qa", template, hash_of(template), tokenizer_sha256(tokenizer), special_ids(tokenizer), 200
    )
    contract.save(tmp_path / "adapter")
    with_adapter = harness.Candidate.load(base, tmp_path / "adapter")
    sets = load_sets("suite.yaml")
    results = [harness.run(sets, one, tmp_path / str(i), say) for i, one in enumerate((candidate, with_adapter))]
    assert results[1]["short"]["template"] == template
    assert results[1]["labels"]["template"] == results[0]["labels"]["template"]  # another task than the contract's
    assert results[0]["labels"]["fingerprint"] != results[1]["labels"]["fingerprint"]
    rows = [next(read_jsonl(tmp_path / str(i) / "short/predictions.jsonl")) for i in range(2)]
    assert rows[1]["prompt_tokens"] < rows[0]["prompt_tokens"]
    shots = {name: with_adapter.recipe(one) for name, one in load_sets("suite.yaml", ["prompt.num_fewshot=1"]).items()}
    assert {name: recipe.prompt.num_fewshot for name, recipe in shots.items()} == {"short": 0, "labels": 1}
    with pytest.raises(ModelError, match="holds no adapter"):
        harness.Candidate.load(base, tmp_path / "nothing")


def test_a_chat_model_is_asked_in_its_own_template(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "gpt2", tmp_path / "chat")
    (tmp_path / "chat/chat_template.jinja").write_text(LLAMA2_CHAT)
    candidate = harness.Candidate.load(BaseConfig(model=str(tmp_path / "chat")))
    sets = {"short": load_sets("suite.yaml", ["prompt.template=chat"])["short"]}
    result = harness.run(sets, candidate, tmp_path, say)["short"]
    assert result["template"]["chat"] == LLAMA2_CHAT
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "chat").eval()
    plain.generation_config.repetition_penalty = None
    for row in read_jsonl(tmp_path / "short/predictions.jsonl"):
        asked = "Answer the question from the text.\n\n{context}\n\nQuestion: {question}\nAnswer:".format(
            **row["input"]
        )
        ids = candidate.tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        assert row["prompt_tokens"] == ids.shape[1]
        made = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=3
        )
        assert row["raw"] == candidate.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    bare = harness.Candidate.load(BaseConfig(model=str(place / "gpt2")))
    with pytest.raises(ModelError, match="no chat template"):
        harness.run(sets, bare, tmp_path / "never", say)


def test_few_shot_examples_come_from_other_rows(place: Path) -> None:
    sets = load_sets("suite.yaml", ["prompt.num_fewshot=1"])
    candidate = harness.Candidate.load(BaseConfig(model=str(place / "gpt2")))
    with pytest.raises(RecipeError, match="other than those that are scored"):
        harness.run(sets, candidate, place / "never", say)
    other = {
        "short": load_sets("suite.yaml", ["prompt.num_fewshot=1", "data.train=qa.jsonl", "data.test=more.jsonl"])[
            "short"
        ]
    }
    make_rows(place / "more.jsonl", QA[:2])
    rows = harness.run(other, candidate, place / "shots", say)
    assert "Anna has" in rows["short"]["template"]["fewshot.en"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("metrics: [f1]", "must hold `sets:`"),
        ("sets: {}", "must hold `sets:`"),
        ("sets: {a: 3}", "sets.a must hold"),
        ("sets: {a: {task: qa, shots: 3}}", "unknown key 'shots'"),
        ("sets: {a: {task: qq}}", "Did you mean 'qa'"),
        ("sets: {a: {task: qa, eval: {temperature: 2}}}", "no effect"),
        (
            "sets: {a: {task: qa, eval: {general_text: mine.jsonl}}}",
            "sets.a: eval.general_text is measured before and after",
        ),
        ("sets: {a: {task: qa, eval: none.yaml}}", "There is no suite"),
        ("sets: {../a: {task: qa}}", "cannot be called '../a'"),
        ("sets: {'': {task: qa}}", "cannot be called ''"),
    ],
)
def test_wrong_suites_are_refused(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(RecipeError, match=error):
        load_sets(tmp_path / "wrong.yaml")


def test_no_general_text_is_measured_and_none_is_noted(place: Path) -> None:
    for changes in ([], ["eval.general_text=null"]):
        assert all(asked.eval.general_text is None for asked in load_sets("suite.yaml", changes).values())


def test_a_limit_leaves_all_labels_to_choose_from(place: Path) -> None:
    """Fewer choices would be an easier task, and another number."""
    labels = {"labels": load_sets("suite.yaml", ["data.max_test_samples=1"])["labels"]}
    harness.run(labels, harness.Candidate.load(BaseConfig(model=str(place / "gpt2"))), place / "limited", say)
    (row,) = read_jsonl(place / "limited/labels/predictions.jsonl")
    assert set(row["choices"]) == {"fine", "poor", "very poor"}


def test_a_split_that_is_not_there(place: Path) -> None:
    sets = load_sets("suite.yaml", ["split=validation"])
    with pytest.raises(DataError, match="no validation rows"):
        harness.run(sets, harness.Candidate.load(BaseConfig(model=str(place / "gpt2"))), place / "never", say)


def test_the_command(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert (
        main(["evaluate", "--suite", "suite.yaml", "--model", "gpt2", "data.max_test_samples=2", "--output", "out"])
        == 0
    )
    assert "exact_match" in capsys.readouterr().out
    assert json.loads((place / "out/short/scores.json").read_text())["scores"][0]["n"] == 2
    for argv, said in ((["--model", "gpt2"], "--model needs --suite"), (["--suite", "suite.yaml"], "needs --model"),
                       (["runs/x", "--quantization", "fp4"], "--quantization needs --suite"),
                       (["runs/x", "--dtype", "float32"], "--dtype needs --suite"),
                       ([], "Name a run directory"), (["--suite", "suite.yaml", "--model", "none"], "none")):  # fmt: skip
        assert main(["evaluate", *argv]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", "--suite", "suite.yaml", "--model", "embedded", "--revision", "main"],
        ["verify", "embedded", "--revision", "main"],
        ["plan", "recipe.yaml", "base.revision=main"],
    ],
    ids=lambda argv: argv[0],
)
def test_the_embedded_base_has_no_revision(place: Path, capsys: pytest.CaptureFixture, argv: list[str]) -> None:
    Path("recipe.yaml").write_text("task: summarize\n")
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert (
        "comes along with llama-tasks and has no revision 'main'; leave the revision out." in told
        and told.count("\n") == 1
    )


def test_a_folder_has_no_revision(place: Path, capsys: pytest.CaptureFixture) -> None:
    make_model("gpt2", place / "gpt2")
    assert main(["evaluate", "--suite", "suite.yaml", "--model", "gpt2", "--revision", "main"]) == 2
    told = capsys.readouterr().err
    assert "gpt2 is a folder and has no revision 'main'; leave the revision out." in told and told.count("\n") == 1


def with_token(folder: Path, token: str, **kind: Any) -> Path:
    """A copy of the folder's tokenizer with one token more than the embedding has rows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": token}) if kind else tokenizer.add_tokens([token])
    assert tokenizer.convert_tokens_to_ids(token) >= 4608
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "beams"), [("qwen2", 1), ("llama", 2)])
def test_padding_that_the_embedding_has_no_row_for(place: Path, tmp_path: Path, kind: str, beams: int) -> None:
    """As where `[PAD]` was added to the tokenizer alone."""
    folder = make_base(tmp_path / kind) if kind == "llama" else make_model(kind, tmp_path / kind)
    make_rows(place / "lengths.jsonl", [{**row, "question": "How many? " * (n + 1)} for n, row in enumerate(QA)])
    short = load_sets("suite.yaml", ["data.test=lengths.jsonl", "eval.tokens_per_batch=4000"])["short"]
    sets = {"short": replace(short, eval=replace(short.eval, num_beams=beams))}
    rows = []
    for output in ("before", "after"):
        harness.run(sets, harness.Candidate.load(BaseConfig(model=str(folder))), tmp_path / output, say)
        rows.append(list(read_jsonl(tmp_path / output / "short/predictions.jsonl")))
        with_token(folder, "[PAD]", special=True)
    assert rows[0] == rows[1]


def test_a_tokenizer_of_another_model_is_refused(place: Path, tmp_path: Path) -> None:
    folder = with_token(make_model("gpt2", tmp_path / "gpt2"), "a|pple|s")
    with pytest.raises(ModelError, match="ids up to 4608, and the model's embedding has 4608 rows"):
        harness.Candidate.load(BaseConfig(model=str(folder)))


def test_a_chat_template_with_tokens_that_the_model_has_not(place: Path, tmp_path: Path) -> None:
    folder = with_token(make_model("gpt2", tmp_path / "gpt2"), "<|ask|>", special=True)
    (folder / "chat_template.jinja").write_text(f"<|ask|>{LLAMA2_CHAT}")
    sets = {"short": load_sets("suite.yaml", ["prompt.template=chat"])["short"]}
    with pytest.raises(ModelError, match=r"sets.short: the rows hold the token '<\|ask\|>' \(id 4608\)"):
        harness.run(sets, harness.Candidate.load(BaseConfig(model=str(folder))), tmp_path / "never", say)


def test_prompts_longer_than_the_model_has_places(place: Path, tmp_path: Path) -> None:
    make_rows(place / "long.jsonl", [*QA[:2], {**QA[2], "context": "Anna has 2 apples. " * 100}])
    sets = load_sets("suite.yaml", ["prompt.max_length=4000"])
    sets["short"] = load_sets("suite.yaml", ["prompt.max_length=4000", "data.test=long.jsonl"])["short"]
    told: list[str] = []
    with pytest.raises(ModelError, match=r"sets.short: test:2 \(.*long.jsonl:3\) needs \d+ tokens.* was made for 256"):
        harness.run(sets, harness.Candidate.load(BaseConfig(model=str(place / "gpt2"))), tmp_path / "never", say)
    assert not (tmp_path / "never").exists()
    folder = make_model("qwen2", tmp_path / "qwen2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 256}))
    candidate = harness.Candidate.load(BaseConfig(model=str(folder)))
    harness.run({"short": sets["short"]}, candidate, tmp_path / "said", told.append)
    assert "made for 256" in told[0] and "worth little" in told[0]


def test_an_error_says_which_set_it_is_about(place: Path) -> None:
    sets = {**load_sets("suite.yaml"), "empty": load_sets("suite.yaml", ["eval.metrics=[]"])["short"]}
    candidate = harness.Candidate.load(BaseConfig(model=str(place / "gpt2")))
    with pytest.raises(RecipeError, match=r"^sets\.empty: eval.metrics is empty"):
        harness.run(sets, candidate, place / "never", say)
    (place / "plain.yaml").write_text(
        "sets: {plain: {task: text, data: {test: qa.jsonl}, eval: {scoring: perplexity}}}"
    )
    with pytest.raises(RecipeError, match=r"^sets\.plain: eval.scoring: perplexity is measured in runs"):
        harness.run(load_sets("plain.yaml"), candidate, place / "never", say)


@pytest.mark.parametrize(
    ("engine", "error"),
    [
        ("native", "native decodes the native LLaMA"),
        pytest.param(
            "vllm", "not installed", marks=pytest.mark.skipif(bool(find_spec("vllm")), reason="vLLM is there")
        ),
    ],
)
def test_an_engine_that_cannot_is_refused_before_the_first_set(
    place: Path, tmp_path: Path, engine: str, error: str
) -> None:
    sets = {"first": load_sets("suite.yaml")["short"], "second": load_sets("suite.yaml")["short"]}
    sets["second"] = replace(sets["second"], eval=replace(sets["second"].eval, engine=engine))
    with pytest.raises(ModelError, match=f"sets.second: .*{error}"):
        harness.run(sets, harness.Candidate.load(BaseConfig(model=str(place / "gpt2"))), tmp_path / "out", say)
    assert not (tmp_path / "out").exists()


def test_the_suite_of_the_embedded_samples(root: Path) -> None:
    assert list(load_sets(root / "eval/suites/all.yaml")) == ["summarize", "translate", "qa", "classify"]
