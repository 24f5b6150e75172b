"""Commands about outputs and scores: evaluate, predict, score, report."""

from __future__ import annotations

import argparse
from pathlib import Path

from llama_tasks.cli.common import Commands, command, open_console, open_run, show


def add(commands: Commands) -> None:
    """Add this file's commands."""
    evaluate = command(commands, "evaluate", "score base and adapter of a run again, on its test split", "run")
    evaluate.set_defaults(run_command=_evaluate)
    predict = command(commands, "predict", "answer rows of a file with a run's adapter", "run")
    predict.add_argument("--input", required=True, help="rows (.jsonl .csv ...); the column to predict may be absent")
    predict.add_argument("--output", required=True, help="predictions, one JSON object a line")
    predict.set_defaults(run_command=_predict)
    _add_score(commands)
    report = command(commands, "report", "write a run's report again from its predictions", "run", overrides=False)
    report.set_defaults(run_command=_report)


def _add_score(commands: Commands) -> None:
    text = "score lines of text against lines of text, or a predictions.jsonl; needs no run"
    score = commands.add_parser("score", help=text, description=text, allow_abbrev=False)
    score.add_argument(
        "predictions", type=Path, help="one prediction a line, or rows {prediction, references} as .jsonl"
    )
    score.add_argument("references", type=Path, nargs="*", help="one reference a line; several files are alternatives")
    score.add_argument(
        "--metric", action="append", required=True, metavar="NAME",
        help="such as bleu, bleu:tok=intl, rouge, f1:norm=cmrc, classification; may be given again",
    )  # fmt: skip
    score.add_argument("--lang", help="language code; by default the column `lang` of a .jsonl")
    score.add_argument("--labels", help="label set, such as positive,negative; by default the choices of a .jsonl")
    score.add_argument("--source", type=Path, help="what was summarised, one text a line (novelty, copy_rate)")
    score.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (default 1000)")
    score.add_argument("--seed", type=int, default=12345, help="of the bootstrap (default 12345, as sacrebleu)")
    score.add_argument("--json", action="store_true", help="print JSON")
    score.set_defaults(run_command=_score)


def _evaluate(args: argparse.Namespace) -> None:
    run, recipe = open_run(args)
    console = open_console()
    from llama_tasks import adapters, dataset, evaluation

    evaluation.check_suite(recipe)
    data = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    evaluation.rehearse(data, recipe.eval)
    model = evaluation.load(run, recipe)
    ranks = evaluation.all_ranks()
    report = evaluation.evaluate(run, recipe, data, model, lambda text: console.print(text, highlight=False), ranks)
    show(report, run.path, console)


def _predict(args: argparse.Namespace) -> None:
    run, recipe = open_run(args)
    console = open_console()
    from llama_tasks.evaluation import predict_file

    rows = predict_file(run, recipe, Path(args.input), Path(args.output))
    console.print(f"{rows} predictions in {args.output}", highlight=False)


def _score(args: argparse.Namespace) -> None:
    import json

    from rich.console import Console

    from llama_tasks import score_files

    rows = score_files.read_rows(args.predictions, args.references, args.source)
    labels = args.labels.split(",") if args.labels else None
    result = score_files.score_rows(rows, args.metric, args.lang, labels, args.resamples, args.seed)
    if args.json:
        print(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        Console(highlight=False, soft_wrap=True).print(score_files.table(result))


def _report(args: argparse.Namespace) -> None:
    args.overrides = []
    run, recipe = open_run(args)
    from llama_tasks.evaluation import write_report

    show(write_report(run, recipe), run.path, open_console())
