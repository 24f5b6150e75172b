"""From a run, or from files, to scores.

path.py         run -> predictions -> scores -> report       rehearsal.py      whether that will work, before the training
prediction.py   prompts -> the rows of predictions.jsonl     scoring.py        those rows -> scores, and comparisons
identity.py     what makes rows those of one evaluation      records.py        what one writes down of itself, for reports
insight.py      what a report says beside scores, from       slices.py, forgetting.py, leaks.py
systems.py      two or more systems on the same rows         score_files.py    predictions that others made
pairs.py        two of them: significance, rows won and lost
harness.py      any causal model, by the same suites         lm_eval_tasks.py  our tasks for lm-evaluation-harness
"""

from __future__ import annotations

from llama_tasks.evaluation.path import (
    all_ranks,
    check_contract,
    evaluate,
    load,
    predict,
    predict_file,
    write_report,
)
from llama_tasks.evaluation.records import training_summary
from llama_tasks.evaluation.rehearsal import check_suite, rehearse
from llama_tasks.evaluation.scoring import compare, leading_value, score

__all__ = [
    "all_ranks",
    "check_contract",
    "check_suite",
    "compare",
    "evaluate",
    "leading_value",
    "load",
    "predict",
    "predict_file",
    "rehearse",
    "score",
    "training_summary",
    "write_report",
]
