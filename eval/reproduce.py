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
TEST = "data.max_test_samples=200 data.max_validation_samples=40 train.eval_times=2"
CUT, SHORT = "prompt.on_too_long=truncate_prompt", "prompt.on_too_long=drop"
LONG = "train.learning_rate=5e-3 train.tokens_per_batch=2048"  # the rule of `auto` is not for a width of 64
EN_DE = "data.constants.source_lang=en data.constants.target_lang=de"
ZH = "data.constants.lang=zh"  # some contexts hold more Latin letters than Chinese ones
EN_ZH = "data.constants.source_lang=en data.constants.target_lang=zh"


def rows(count: int, epochs: int) -> str:
    """So many training rows, so often."""
    return f"data.max_train_samples={count} train.num_train_epochs={epochs}"


ROOT = Path(__file__).resolve().parents[1]
MARK = "<!-- table -->"
TATOEBA, CSL = f"{PUBLIC}/translation/tatoeba-en-zh", f"{PUBLIC}/summarization/csl-title-zh"
CMRC, CHNSENTICORP = f"{PUBLIC}/qa/cmrc2018-zh", f"{PUBLIC}/classification/chnsenticorp-zh"
MULTI30K, DIALOGSUM = f"{PUBLIC}/translation/multi30k-en-de", f"{PUBLIC}/summarization/dialogsum"
AGNEWS = f"{PUBLIC}/classification/agnews"
OVER_TATOEBA = f"{EN_ZH} {TEST} {rows(8000, 2)}"
OVER_CSL = f"{TEST} {CUT} {rows(900, 2)}"
OVER_CMRC = (
    f"{ZH} {TEST} {CUT} {rows(2000, 2)} data.max_test_samples=400 train.learning_rate=1e-3 train.tokens_per_batch=4096"
)
OVER_CHNSENTICORP = f"{TEST} {CUT} {rows(4000, 1)} data.max_test_samples=400"
RUNS = {
    "summarize-samples": ("summarize", "", "", "", ""),
    "translate-samples": ("translate", "", "", "", ""),
    "qa-samples": ("qa", "", "", "", ""),
    "classify-samples": ("classify", "", "", "", ""),
    "translate-multi30k-stories260K": (
        "translate", STORIES, "", MULTI30K, f"{EN_DE} {TEST} {LONG} {rows(4000, 2)} eval.max_new_tokens=160"),
    "summarize-dialogsum-stories260K": ("summarize", STORIES, "", DIALOGSUM, f"{TEST} {SHORT} {LONG} {rows(3000, 1)}"),
    "qa-cmrc2018-stories260K": ("qa", STORIES, "", CMRC, f"{ZH} {TEST} {CUT} {LONG} {rows(1400, 2)} eval.max_new_tokens=64"),
    "classify-agnews-stories260K": ("classify", STORIES, "", AGNEWS, f"{TEST} {CUT} train.learning_rate=2e-3 {rows(1000, 2)}"),
    "translate-tatoeba-embedded": ("translate", "embedded", "", TATOEBA, OVER_TATOEBA),
    "summarize-csl-embedded": ("summarize", "embedded", "", CSL, OVER_CSL),
    "qa-cmrc2018-embedded": ("qa", "embedded", "", CMRC, OVER_CMRC),
    "classify-chnsenticorp-embedded": ("classify", "embedded", "", CHNSENTICORP, OVER_CHNSENTICORP),
    "translate-tatoeba-embedded-nf4": ("translate", "embedded", "nf4", TATOEBA, OVER_TATOEBA),
    "summarize-csl-embedded-nf4": ("summarize", "embedded", "nf4", CSL, OVER_CSL),
    "qa-cmrc2018-embedded-nf4": ("qa", "embedded", "nf4", CMRC, OVER_CMRC),
    "classify-chnsenticorp-embedded-nf4": ("classify", "embedded", "nf4", CHNSENTICORP, OVER_CHNSENTICORP),
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
