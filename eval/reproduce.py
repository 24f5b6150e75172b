"""Make the numbers of eval/results/ again: python eval/reproduce.py [NAME ...] (all of them without a name).

Each name is one `make finetune` command on real data from ../shared; the score file holds the command, the scores of
base and adapter with signatures and intervals, and the provenance, but no row of the data.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

STORIES = "../shared/models/stories260K/hf"
PUBLIC = "../shared/data/public"
SIZE = (
    "data.max_train_samples=2000 data.max_test_samples=300 data.max_validation_samples=40 "
    "train.num_train_epochs=2 train.eval_times=2"
)
CUT = "prompt.on_too_long=truncate_prompt"
EN_DE = "data.constants.source_lang=en data.constants.target_lang=de"
EN_ZH = "data.constants.source_lang=en data.constants.target_lang=zh"

RUNS = {
    "translate-multi30k-stories260K": ("translate", STORIES, "", f"{PUBLIC}/translation/multi30k-en-de", f"{EN_DE} {SIZE}"),
    "summarize-agnews-stories260K": ("summarize", STORIES, "", f"{PUBLIC}/summarization/agnews-headline", f"{SIZE} {CUT}"),
    "qa-squad-stories260K": ("qa", STORIES, "", f"{PUBLIC}/qa/squad", f"{SIZE} {CUT}"),
    "classify-agnews-stories260K": ("classify", STORIES, "", f"{PUBLIC}/classification/agnews", f"{SIZE} {CUT}"),
    "translate-tatoeba-embedded": ("translate", "embedded", "", f"{PUBLIC}/translation/tatoeba-en-zh", f"{EN_ZH} {SIZE}"),
    "summarize-csl-embedded": ("summarize", "embedded", "", f"{PUBLIC}/summarization/csl-title-zh", f"{SIZE} {CUT}"),
    "qa-cmrc2018-embedded": ("qa", "embedded", "", f"{PUBLIC}/qa/cmrc2018-zh", f"{SIZE} {CUT}"),
    "classify-chnsenticorp-embedded": ("classify", "embedded", "", f"{PUBLIC}/classification/chnsenticorp-zh", f"{SIZE} {CUT}"),
    "translate-tatoeba-embedded-nf4": ("translate", "embedded", "nf4", f"{PUBLIC}/translation/tatoeba-en-zh", f"{EN_ZH} {SIZE}"),
    "summarize-csl-embedded-nf4": ("summarize", "embedded", "nf4", f"{PUBLIC}/summarization/csl-title-zh", f"{SIZE} {CUT}"),
    "qa-cmrc2018-embedded-nf4": ("qa", "embedded", "nf4", f"{PUBLIC}/qa/cmrc2018-zh", f"{SIZE} {CUT}"),
    "classify-chnsenticorp-embedded-nf4": (
        "classify", "embedded", "nf4", f"{PUBLIC}/classification/chnsenticorp-zh", f"{SIZE} {CUT}"),
}  # fmt: skip


def main() -> None:
    """Run the named experiments and write their score files."""
    root = Path(__file__).resolve().parents[1]
    for name in sys.argv[1:] or RUNS:
        task, model, quantization, data, arguments = RUNS[name]
        output = root / "runs" / name
        command = [
            "make",
            "finetune",
            f"TASK={task}",
            f"MODEL={model}",
            f"DATA={data}",
            f"OUT=runs/{name}",
            f"ARGS={arguments}",
        ]
        command += [f"QUANT={quantization}"] if quantization else []
        subprocess.run([*command, "OVERWRITE=1"], cwd=root, check=True)
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
        kept = {key: report[key] for key in ("task", "created", "command", "scores", "counts", "provenance")}
        kept["training_seconds"] = report["training"]["seconds"]
        text = json.dumps({"name": name, **kept}, ensure_ascii=False, indent=1) + "\n"
        (root / "eval/results" / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
