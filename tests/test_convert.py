"""Meta's layout to Hugging Face's: the same bits, the same logits, little memory, and one clear sentence for what is broken."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from meta_files import TOY, random_weights, save
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

from llama_tasks import cli
from llama_tasks.convert import convert, writer
from llama_tasks.convert.meta import MetaParams
from llama_tasks.errors import ModelError

MODELS = Path(__file__).parents[2] / "shared" / "models"
SIZED = {**TOY, "vocab_size": 300}


@pytest.mark.parametrize("name", ["stories260K", "babyllama-tok105-1M"])
def test_real_checkpoints_come_out_bit_for_bit(name: str, tmp_path: Path) -> None:
    if not MODELS.is_dir():
        pytest.skip("../shared/models is absent")
    done = convert(MODELS / name / "meta", tmp_path / "out")
    expected = load_file(MODELS / name / "hf" / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert done.tied and done.tokenizer is not None and done.tokenizer.equal == done.tokenizer.probes
    ours, theirs = (Tokenizer.from_file(str(f / "tokenizer.json")) for f in (tmp_path / "out", MODELS / name / "hf"))
    assert ours.get_vocab() == theirs.get_vocab()
    assert json.loads(ours.to_str())["model"]["merges"] == json.loads(theirs.to_str())["model"]["merges"]


@pytest.mark.parametrize(("shards", "embedding_dim"), [(2, 1), (2, 0), (4, 1), (4, 0)])
def test_shards_give_what_one_file_gives(tmp_path: Path, shards: int, embedding_dim: int) -> None:
    weights = random_weights(TOY, torch.bfloat16)  # with four files, two hold each key head
    convert(save(tmp_path / "one", TOY, weights), tmp_path / "a")
    convert(save(tmp_path / "many", TOY, weights, shards, embedding_dim), tmp_path / "b")
    one, many = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert one.keys() == many.keys() and "lm_head.weight" in one
    assert all(torch.equal(one[key], many[key]) for key in one)


def test_files_of_limited_size_load_and_keep_their_dtype(tmp_path: Path) -> None:
    done = convert(save(tmp_path / "m", TOY, random_weights(TOY, torch.float16)), tmp_path / "o", max_shard_size="10KB")
    assert len(list((tmp_path / "o").glob("model-*-of-*.safetensors"))) > 2
    model = LlamaForCausalLM.from_pretrained(tmp_path / "o", dtype="auto")
    assert model.dtype == torch.float16 and done.parameters == sum(p.numel() for p in model.parameters())
    assert done.max_position_embeddings == model.config.max_position_embeddings == 4096


def test_another_dtype_is_rounded_to(tmp_path: Path) -> None:
    weights = random_weights(TOY)
    done = convert(save(tmp_path / "m", TOY, weights), tmp_path / "o", dtype="bfloat16", max_position_embeddings=77)
    found = load_file(tmp_path / "o" / "model.safetensors")
    assert torch.equal(
        found["model.layers.1.mlp.down_proj.weight"], weights["layers.1.feed_forward.w2.weight"].bfloat16()
    )
    assert done.max_position_embeddings == 77 and 0 < done.logits.difference < done.logits.tolerance


def test_a_tied_head_is_found_by_its_bits(tmp_path: Path) -> None:
    weights = random_weights(TOY)
    weights["output.weight"] = weights["tok_embeddings.weight"].clone()
    assert convert(save(tmp_path / "m", TOY, weights, 2), tmp_path / "o").tied
    assert "lm_head.weight" not in load_file(tmp_path / "o" / "model.safetensors")


def llama_3_tokenizer(folder: Path) -> None:
    words = (b"he", b"ll", b"llo", b"hello", b" h", b" he", b" hello", "你".encode()[:2], "你".encode())
    tokens = [*(bytes([i]) for i in range(256)), *words]
    lines = [base64.b64encode(token) + b" " + str(i).encode() for i, token in enumerate(tokens)]
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")


def test_llama_3_with_scaled_frequencies_and_its_tokenizer(tmp_path: Path) -> None:
    params = {**TOY, "vocab_size": 265 + 256, "rope_theta": 500000.0, "use_scaled_rope": True}
    llama_3_tokenizer(save(tmp_path / "m", params, random_weights(params), 2, embedding_dim=0))
    done = convert(tmp_path / "m", tmp_path / "o")
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "llama3" and config["rope_parameters"]["factor"] == 8
    assert config["max_position_embeddings"] == 131072
    assert done.tokenizer is not None and done.tokenizer.first_other is None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "o")
    assert tokenizer.convert_ids_to_tokens(tokenizer("hello hello你").input_ids) == [
        "<|begin_of_text|>",
        "hello",
        "Ġhello",
        "ä½ł",
    ]
    ends = json.loads((tmp_path / "o" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]


def test_llama_3_names_fewer_tokens_than_3_1(tmp_path: Path) -> None:
    params = {**TOY, "vocab_size": 265 + 256, "rope_theta": 500000.0}
    llama_3_tokenizer(save(tmp_path / "m", params, random_weights(params)))
    convert(tmp_path / "m", tmp_path / "o")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "o")
    reserved = [f"<|reserved_special_token_{n}|>" for n in (2, 4, 5, 250)]
    assert tokenizer.convert_ids_to_tokens([265 + i for i in (4, 8, 10, 255)]) == reserved
    assert tokenizer.convert_ids_to_tokens(265 + 9) == "<|eot_id|>"
    ends = json.loads((tmp_path / "o" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|end_of_text|>", "<|eot_id|>"]


@pytest.mark.parametrize(
    ("model", "fields", "context"),
    [
        ("Llama 1 7B", {"dim": 4096, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-6}, 2048),
        ("Llama 1 65B", {"dim": 8192, "n_heads": 64, "n_layers": 80, "norm_eps": 1e-5}, 2048),
        ("Llama 2 13B", {"dim": 5120, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-5}, 4096),
        ("Llama 2 70B", {"dim": 8192, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80, "norm_eps": 1e-5}, 4096),
        ("Code Llama 7B", {"dim": 4096, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-5, "rope_theta": 1000000}, 16384),
        ("Llama 3 8B", {"dim": 4096, "n_heads": 32, "n_kv_heads": 8, "n_layers": 32, "norm_eps": 1e-5,
                        "rope_theta": 500000.0}, 8192),
        ("says so", {"dim": 288, "n_heads": 6, "n_layers": 6, "norm_eps": 1e-5, "max_seq_len": 256}, 256),
    ],
)  # fmt: skip
def test_the_context_follows_from_the_generation(tmp_path: Path, model: str, fields: dict, context: int) -> None:
    (tmp_path / "params.json").write_text(json.dumps(fields))
    assert MetaParams.load(tmp_path / "params.json").context == context, model


def test_a_context_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="one token at least"):
        convert(save(tmp_path / "m", TOY, random_weights(TOY)), tmp_path / "o", max_position_embeddings=0)


def test_a_wrong_conversion_is_caught_by_its_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "rotate_half", lambda rows, head_dim: rows)
    with pytest.raises(ModelError, match="logits of the converted model differ"):
        convert(save(tmp_path / "m", TOY, random_weights(TOY)), tmp_path / "o")
    assert not (tmp_path / "o").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["m"]


class _Runs:
    def __reduce__(self) -> tuple:
        return print, ("code was run",)


def broken(kind: str, folder: Path) -> None:
    weights = random_weights(TOY)
    file = save(folder, TOY, weights) / "consolidated.00.pth"
    if kind == "pickle":
        torch.save({**weights, "more": _Runs()}, file)
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-500])
    elif kind == "nan":
        weights["layers.1.attention.wo.weight"][3, 3] = float("nan")
        save(folder, TOY, weights)
    elif kind == "missing":
        del weights["layers.1.ffn_norm.weight"]
        save(folder, TOY, weights)
    elif kind == "spare":
        save(folder, TOY, {**weights, "vision.weight": torch.ones(1)})
    elif kind == "misshapen":
        save(folder, {**TOY, "n_kv_heads": 4}, weights)
    elif kind == "no params":
        (folder / "params.json").unlink()
    elif kind == "half params":
        (folder / "params.json").write_text('{"dim": 32}')
    elif kind == "tokenizer":
        (folder / "tokenizer.model").write_bytes(b"\x00\x01nothing")
    elif kind == "tokenizer too large":
        llama_3_tokenizer(folder)


SAYS = {
    "pickle": "holds more than tensors", "truncated": "cannot be read", "nan": "not finite",
    "missing": "lack layers.1.ffn_norm.weight",
    "spare": "vision.weight", "misshapen": "params.json implies", "no params": "holds no params.json", "half params": "'n_layers'",
    "tokenizer": "neither a SentencePiece nor a tiktoken", "tokenizer too large": "no rows for the special tokens",
}  # fmt: skip


@pytest.mark.parametrize("kind", SAYS)
def test_broken_sources_are_refused_in_one_sentence(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    broken(kind, tmp_path / "m")
    assert cli.main(["convert", str(tmp_path / "m"), str(tmp_path / "o")]) == 2
    printed = capsys.readouterr()
    assert SAYS[kind] in printed.err and printed.err.count("\n") == 1 and "code was run" not in printed.out
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_the_command_says_what_it_did_and_never_replaces(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["convert", str(save(tmp_path / "m", TOY, random_weights(TOY))), str(tmp_path / "o")]
    assert cli.main(command) == 0
    assert "logits differ by" in capsys.readouterr().out
    assert cli.main(command) == 2
    assert "exists; nothing was changed" in capsys.readouterr().err


def test_sentencepiece_models_keep_their_spaces_rule(tmp_path: Path) -> None:
    if not MODELS.is_dir():
        pytest.skip("../shared/models is absent")
    convert(MODELS / "babyllama-tok105-1M" / "meta", tmp_path / "o")
    ours = Tokenizer.from_file(str(tmp_path / "o" / "tokenizer.json"))
    assert ours.encode("a  b ").ids == ours.encode("a b").ids


def test_peak_memory_stays_below_a_shard(tmp_path: Path) -> None:
    """The peak is that of the process, so it is measured in a fresh one, after a first small conversion."""
    script = """
import resource, sys
from pathlib import Path
from meta_files import TOY, random_weights, save
from llama_tasks.convert import convert
folder = Path(sys.argv[1])
convert(save(folder / "small", TOY, random_weights(TOY)), folder / "small-out")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(folder / "large", folder / "large-out")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    params = {**TOY, "dim": 1024, "n_layers": 5, "n_heads": 16, "n_kv_heads": 8, "vocab_size": 16000, "ffn": 3072}
    save(tmp_path / "large", params, random_weights(params, torch.bfloat16), shards=2)
    largest = max(path.stat().st_size for path in (tmp_path / "large").glob("*.pth"))
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )  # fmt: skip
    assert int(run.stdout.split()[-1]) < 1.3 * largest


def test_the_pickle_of_the_test_would_run_code(capsys: pytest.CaptureFixture) -> None:
    pickle.loads(pickle.dumps(_Runs()))  # noqa: S301  the point of the test
    assert "code was run" in capsys.readouterr().out
