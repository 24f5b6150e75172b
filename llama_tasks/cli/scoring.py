"""Commands about outputs and scores: evaluate, predict, score, compare, explain, report."""

from __future__ import annotations

import argparse
import functools
import re
from pathlib import Path

from llama_tasks.cli.common import DTYPES, Commands, command, open_console, open_run, show
from llama_tasks.errors import RecipeError

FEWEST = 100  # resamples: of fewer, the ends of a 95% interval are one or two draws
EXPORT = "write the sets of a suite as task files of lm-evaluation-harness"


def add(commands: Commands) -> None:
    """Add this file's commands."""
    _add_evaluate(commands)
    predict = command(commands, "predict", "answer rows of a file with a run's adapter", "run")
    predict.add_argument("--input", required=True, help="rows (.jsonl .csv ...); the column to predict may be absent")
    predict.add_argument("--output", required=True, help="predictions, one JSON object a line")
    predict.set_defaults(run_command=_predict)
    _add_score(commands)
    _add_compare(commands)
    explain = command(commands, "explain", "show which tokens of the prompt an output of a run rests on", "run")
    explain.add_argument("--row", required=True, metavar="N|ID", help="row of the test split: its id or number, from 0")
    explain.add_argument(
        "--html", type=Path, metavar="FILE", help="where the picture goes (default RUN/explain-ID.html)"
    )
    explain.set_defaults(run_command=_explain)
    export = commands.add_parser("export-lm-eval", help=EXPORT, description=EXPORT, allow_abbrev=False)
    export.add_argument("suite", type=Path, help="suite file with sets, such as eval/suites/all.yaml")
    export.add_argument("output", type=Path, help="new folder, for `lm_eval --include_path`")
    export.add_argument("overrides", nargs="*", metavar="key=value", help="change a key of every set")
    export.add_argument(
        "--eos", default="", help="text of the end token, to be scored with every choice as llama-tasks does"
    )
    export.set_defaults(run_command=_export)
    report = command(commands, "report", "write a run's report again from its predictions", "run", overrides=False)
    report.set_defaults(run_command=_report)


def _add_evaluate(commands: Commands) -> None:
    text = "score base and adapter of a run again, on its test split; or any model on the sets of a suite"
    evaluate = commands.add_parser("evaluate", help=text, description=text, allow_abbrev=False)
    evaluate.add_argument("run", nargs="?", help="run directory, such as runs/summarize; left out with --suite")
    evaluate.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change a key of the recipe, or of every set"
    )
    evaluate.add_argument("--suite", type=Path, help="suite file with sets, such as eval/suites/all.yaml")
    evaluate.add_argument(
        "--model", help="Hub id or folder of any causal language model of transformers, or `embedded`"
    )
    evaluate.add_argument("--adapter", type=Path, help="folder of an adapter on that model")
    evaluate.add_argument("--revision", help="commit, tag or branch of a Hub model")
    evaluate.add_argument(
        "--dtype", default="auto", choices=DTYPES, help="float32, bfloat16 or float16; auto: as in a recipe"
    )
    evaluate.add_argument(
        "--quantization", default="none", choices=["none", "nf4", "fp4", "int8"], help="as in a recipe"
    )
    evaluate.add_argument("--output", type=Path, help="where the results go (default runs/eval-SUITE-MODEL)")
    evaluate.set_defaults(run_command=_evaluate)


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
    _add_bootstrap(score)
    score.add_argument("--json", action="store_true", help="print JSON")
    score.set_defaults(run_command=_score)


def _add_compare(commands: Commands) -> None:
    text = "compare runs or files of predictions on the same rows: significance, slices, which rows got worse"
    compare = commands.add_parser("compare", help=text, description=text, allow_abbrev=False)
    compare.add_argument("systems", nargs="+", metavar="A", help="run directory, predictions.jsonl, or one text a line")
    compare.add_argument(
        "--references",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="of files of text; may be given again",
    )
    compare.add_argument("--source", type=Path, help="what was summarised, one text a line (novelty, copy_rate)")
    compare.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="by default those of the first run's suite"
    )
    compare.add_argument("--lang", help="language code; by default the column `lang` of the rows")
    compare.add_argument("--labels", help="label set, such as positive,negative; by default the run's")
    compare.add_argument(
        "--slice", action="append", default=[], metavar="COLUMN", dest="columns",
        help="scores by group, with the worst one and the gap; any column of the data; may be given again",
    )  # fmt: skip
    _add_bootstrap(compare)
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write a page with every row; needs no network")
    compare.set_defaults(run_command=_compare)


def _add_bootstrap(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resamples", type=int, default=1000, help=f"of the bootstrap, {FEWEST} or more (default 1000)"
    )
    parser.add_argument("--seed", type=int, default=12345, help="of the bootstrap (default 12345, as sacrebleu)")


def _check_bootstrap(args: argparse.Namespace) -> None:
    """Raise RecipeError for so few resamples that an interval may miss its own value."""
    if args.resamples < FEWEST:
        raise RecipeError(
            f"--resamples is {args.resamples}; an interval of 95% needs at least {FEWEST} (1000 is usual)."
        )


def _evaluate(args: argparse.Namespace) -> None:
    if args.suite is not None:
        _evaluate_suite(args)
        return
    unset = {"model": None, "adapter": None, "revision": None, "dtype": "auto", "quantization": "none", "output": None}
    wrong = next((name for name, value in unset.items() if getattr(args, name) != value), None)
    if args.run is None or wrong:
        raise RecipeError(
            f"--{wrong} needs --suite."
            if wrong
            else "Name a run directory (runs/NAME), or --suite FILE with --model NAME."
        )
    run, recipe = open_run(args)
    console = open_console()
    from llama_tasks import dataset, evaluation
    from llama_tasks.rundir import command_line

    evaluation.check_suite(recipe)
    data = dataset.prepare(recipe, evaluation.check_contract(run, recipe))
    evaluation.rehearse(data, recipe.eval)
    model = evaluation.load(run, recipe)
    ranks = evaluation.all_ranks()
    say = functools.partial(console.print, highlight=False)
    report = evaluation.evaluate(run, recipe, data, model, say, ranks, command_line())
    show(report, run.path, console)


def _evaluate_suite(args: argparse.Namespace) -> None:
    if not args.model:
        raise RecipeError("--suite needs --model: a Hub id, a folder, or `embedded`.")
    from llama_tasks.recipe import BaseConfig
    from llama_tasks.recipe.suites import load_sets

    sets = load_sets(args.suite, [*([args.run] if args.run else []), *args.overrides])
    base = BaseConfig(model=args.model, revision=args.revision, dtype=args.dtype, quantization=args.quantization)
    console = open_console()
    from rich.markdown import Markdown

    from llama_tasks import evaluation
    from llama_tasks.evaluation import harness

    output = args.output or harness.place(args.suite, args.model, args.adapter)
    candidate = harness.Candidate.load(base, args.adapter)
    ranks = evaluation.all_ranks()
    results = harness.run(sets, candidate, output, lambda text: console.print(text, highlight=False), ranks)
    console.print(Markdown(harness.table(results).split("\n\n")[0]))
    console.print(f"rows, signatures and versions: {output}", highlight=False)


def _export(args: argparse.Namespace) -> None:
    from llama_tasks.recipe.suites import load_sets

    sets = load_sets(args.suite, args.overrides)
    console = open_console()
    from llama_tasks.evaluation import lm_eval_tasks

    names = lm_eval_tasks.export(sets, args.output, args.eos)
    console.print(
        f"lm_eval --include_path {args.output} --tasks {','.join(names)} --model hf "
        "--model_args pretrained=MODEL,add_bos_token=True",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _predict(args: argparse.Namespace) -> None:
    run, recipe = open_run(args)
    console = open_console()
    from llama_tasks.evaluation import predict_file

    rows = predict_file(run, recipe, Path(args.input), Path(args.output))
    console.print(f"{rows} predictions in {args.output}", highlight=False)


def _score(args: argparse.Namespace) -> None:
    import json

    from rich.console import Console

    _check_bootstrap(args)
    from llama_tasks.evaluation import score_files

    rows = score_files.read_rows(args.predictions, args.references, args.source)
    labels = args.labels.split(",") if args.labels else None
    result = score_files.score_rows(rows, args.metric, args.lang, labels, args.resamples, args.seed)
    if args.json:
        print(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False))
    else:
        Console(highlight=False, soft_wrap=True).print(score_files.table(result))


def _compare(args: argparse.Namespace) -> None:
    import json

    from rich.console import Console

    _check_bootstrap(args)
    from llama_tasks.evaluation import systems
    from llama_tasks.files import write_text
    from llama_tasks.report import comparison

    sides = [systems.read(path, args.references, args.source) for path in args.systems]
    labels = args.labels.split(",") if args.labels else None
    found = systems.compare(sides, args.metric, args.lang, labels, args.columns, args.resamples, args.seed)
    if args.html:
        write_text(args.html, comparison.page(found.result, found.systems, found.labels))
    if args.json:
        print(json.dumps(found.result, ensure_ascii=False, indent=2, allow_nan=False))
        return
    console = Console(highlight=False)
    console.print(comparison.terminal(found.result))
    if args.html:
        console.print(f"page: {args.html}", soft_wrap=True)


def _explain(args: argparse.Namespace) -> None:
    run, recipe = open_run(args)
    console = open_console()
    from llama_tasks.explain import explain, write

    found = explain(run, recipe, args.row)
    path = args.html or run.path / f"explain-{re.sub('[^A-Za-z0-9]+', '-', found.row)}.html"
    write(found, path)
    for line in [*found.lines(), f"picture: {path}"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _report(args: argparse.Namespace) -> None:
    args.overrides = []
    run, recipe = open_run(args)
    from llama_tasks.evaluation import write_report

    show(write_report(run, recipe), run.path, open_console())
