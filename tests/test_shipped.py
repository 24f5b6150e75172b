"""What ships: the wheel holds the package and nothing else; the embedded base is small, plain and loadable."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

EMBEDDED = Path("llama_tasks/embedded")


def test_the_wheel_holds_the_package_alone(root: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root,
        check=True,
        capture_output=True,
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"llama_tasks"}
    for path in (root / "llama_tasks").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(root).as_posix() in names


def test_embedded_files_are_small_and_safe(root: Path) -> None:
    files = [path for path in (root / EMBEDDED).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 12 * 2**20
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".safetensors", ".md", ".py"}


def test_the_embedded_base_is_a_plain_llama_that_anybody_loads(root: Path) -> None:
    config = json.loads((root / EMBEDDED / "base/config.json").read_text())
    assert config["model_type"] == "llama"
    check = (
        "import sys\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model, tokenizer = (auto.from_pretrained(sys.argv[1]) for auto in (AutoModelForCausalLM, AutoTokenizer))\n"
        "assert type(model).__name__ == 'LlamaForCausalLM'\nassert len(tokenizer) == model.config.vocab_size\n"
        "assert tokenizer('Anna').input_ids[0] == model.config.bos_token_id\nassert 'llama_tasks' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check, str(root / EMBEDDED / "base")], check=True, cwd="/")


def test_the_card_of_the_base_names_its_data(root: Path) -> None:
    card = (root / EMBEDDED / "base/README.md").read_text(encoding="utf-8")
    for name in ("tinystories", "d2l", "rustbook", "practice"):
        assert name in card
    assert (root / EMBEDDED / "base/training_log.jsonl").is_file()


def test_no_file_names_a_machine_or_a_registry(root: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True)
    if tracked.returncode:
        return  # an unpacked archive: nothing is tracked
    marks = ["/" + "work/", "/" + "root/", "py" + "thonhosted", "files.py" + "pi"]
    for name in tracked.stdout.split("\n"):
        path = root / name
        if (
            name
            and path.suffix in (".py", ".md", ".yaml", ".json", ".jsonl", ".toml", ".txt", ".cfg")
            and path.stat().st_size < 2**20
        ):
            text = path.read_text(encoding="utf-8")
            assert not [mark for mark in marks if mark in text], name
