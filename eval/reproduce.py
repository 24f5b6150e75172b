"""Make the numbers of eval/results/ again: python eval/reproduce.py [NAME ...] (all of them without a name), and the
table of eval/README.md from them.

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
    "data.max_train_samples=1000 data.max_test_samples=200 data.max_validation_samples=40 "
    "train.num_train_epochs=2 train.eval_times=2"
)
FEW = "data.max_train_samples=500 train.num_train_epochs=1"
CUT = "prompt.on_too_long=truncate_prompt"
LONG = "eval.max_new_tokens=160 train.learning_rate=2e-3"  # characters and bytes; the rule of `auto` is not for a width of 64
EN_DE = "data.constants.source_lang=en data.constants.target_lang=de"
EN_ZH = "data.constants.source_lang=en data.constants.target_lang=zh"

ROOT = Path(__file__).resolve().parents[1]
MARK = "<!-- table -->"
RUNS = {
    "summarize-samples": ("summarize", "", "", "", ""),
    "translate-samples": ("translate", "", "", "", ""),
    "qa-samples": ("qa", "", "", "", ""),
    "classify-samples": ("classify", "", "", "", ""),
    "translate-multi30k-stories260K": ("translate", STORIES, "", f"{PUBLIC}/translation/multi30k-en-de", f"{EN_DE} {SIZE} {LONG}"),
    "summarize-agnews-stories260K": ("summarize", STORIES, "", f"{PUBLIC}/summarization/agnews-headline", f"{SIZE} {CUT} {LONG}"),
    "qa-squad-stories260K": ("qa", STORIES, "", f"{PUBLIC}/qa/squad", f"{SIZE} {FEW} {CUT} {LONG}"),
    "classify-agnews-stories260K": ("classify", STORIES, "", f"{PUBLIC}/classification/agnews", f"{SIZE} {CUT} {LONG}"),
    "translate-tatoeba-embedded": ("translate", "embedded", "", f"{PUBLIC}/translation/tatoeba-en-zh", f"{EN_ZH} {SIZE}"),
    "summarize-csl-embedded": ("summarize", "embedded", "", f"{PUBLIC}/summarization/csl-title-zh", f"{SIZE} {CUT}"),
    "qa-cmrc2018-embedded": ("qa", "embedded", "", f"{PUBLIC}/qa/cmrc2018-zh", f"{SIZE} {FEW} {CUT}"),
    "classify-chnsenticorp-embedded": ("classify", "embedded", "", f"{PUBLIC}/classification/chnsenticorp-zh", f"{SIZE} {CUT}"),
    "translate-tatoeba-embedded-nf4": ("translate", "embedded", "nf4", f"{PUBLIC}/translation/tatoeba-en-zh", f"{EN_ZH} {SIZE}"),
    "summarize-csl-embedded-nf4": ("summarize", "embedded", "nf4", f"{PUBLIC}/summarization/csl-title-zh", f"{SIZE} {CUT}"),
    "qa-cmrc2018-embedded-nf4": ("qa", "embedded", "nf4", f"{PUBLIC}/qa/cmrc2018-zh", f"{SIZE} {FEW} {CUT}"),
    "classify-chnsenticorp-embedded-nf4": (
        "classify", "embedded", "nf4", f"{PUBLIC}/classification/chnsenticorp-zh", f"{SIZE} {CUT}"),
}  # fmt: skip


def main() -> None:
    """Run the named experiments, write their score files and the table."""
    for name in sys.argv[1:] or RUNS:
        reproduce(name, *RUNS[name])
    write_table()


def reproduce(name: str, task: str, model: str, quantization: str, data: str, arguments: str) -> None:
    """One `make finetune`, and its scores without any row of the data."""
    command = ["make", "finetune", f"TASK={task}", f"OUT=runs/{name}", "OVERWRITE=1"]
    given = {"MODEL": model, "QUANT": quantization, "DATA": data, "ARGS": arguments}
    subprocess.run([*command, *(f"{key}={value}" for key, value in given.items() if value)], cwd=ROOT, check=True)
    report = json.loads((ROOT / "runs" / name / "report.json").read_text(encoding="utf-8"))
    kept = {key: report[key] for key in ("task", "created", "command", "scores", "counts", "provenance")}
    kept["training_seconds"] = report["training"]["seconds"]
    text = json.dumps({"name": name, **kept}, ensure_ascii=False, indent=1) + "\n"
    (ROOT / "eval/results" / f"{name}.json").write_text(text, encoding="utf-8")


def write_table() -> None:
    """The leading metric of every score file, between the markers of eval/README.md."""
    lines = ["| name | metric | language | n | base | adapter | p | minutes |", "|---|---|---|---|---|---|---|---|"]
    for name in RUNS:
        path = ROOT / "eval/results" / f"{name}.json"
        if path.is_file():
            lines += rows_of(name, json.loads(path.read_text(encoding="utf-8")))
    readme = ROOT / "eval/README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition(MARK)
    readme.write_text(f"{before}{MARK}\n" + "\n".join(lines) + f"\n{MARK}{after}", encoding="utf-8")


def rows_of(name: str, result: dict) -> list[str]:
    """Table rows of one score file: its leading metric, by language."""
    lead = result["scores"][0]["metric"]
    rows = []
    for score in (score for score in result["scores"] if score["metric"] == lead):
        base, adapter = (
            "{:.1f} [{:.1f}, {:.1f}]".format(s["value"], *s["interval"]) for s in (score["base"], score["adapter"])
        )
        p = "<0.001" if score["p_value"] < 0.001 else f"{score['p_value']:.3f}"
        minutes = f"{result['training_seconds'] / 60:.1f}"
        rows.append(f"| `{name}` | {lead} | {score['lang']} | {score['n']} | {base} | {adapter} | {p} | {minutes} |")
    return rows


if __name__ == "__main__":
    main()
