"""The command `llama-tasks`: parses first, imports torch after; every error is one paragraph."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks.errors import LlamaTasksError
from llama_tasks.interrupt import STOPPED, terminable

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLE = "HuggingFaceTB/SmolLM2-135M"
EPILOG = """examples:
  llama-tasks finetune recipes/summarize.yaml
  llama-tasks finetune recipes/summarize.yaml base.model=HuggingFaceTB/SmolLM2-135M data.train=my.jsonl
  llama-tasks evaluate runs/summarize
  llama-tasks push runs/summarize user/name --dry-run
  llama-tasks score --metric rouge --lang zh hypotheses.txt references.txt
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 good, 2 the user's mistake, 130 Ctrl-C, 143 SIGTERM)."""
    args = _parse(argv)
    try:
        with terminable():
            return _COMMANDS[args.command](args) or 0
    except LlamaTasksError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain(STOPPED)
        return 130
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ not in ("MemoryError", "OutOfMemoryError") and "can't allocate memory" not in str(
            error
        ):
            raise
        _complain(
            "The device's memory is full. Halve train.tokens_per_batch (or eval.tokens_per_batch) and double "
            "train.gradient_accumulation_steps, turn on train.gradient_checkpointing, or use base.quantization=nf4."
        )
        return 2
    except OSError as error:
        _complain(
            f"The operating system refused: {error.strerror or error}{f' ({error.filename})' if error.filename else ''}."
        )
        return 2


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; key=value may stand before and after options (argparse alone takes them only before)."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    wrong = [text for text in rest if text.startswith("-") or "=" not in text or not hasattr(args, "overrides")]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if rest:
        args.overrides += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama-tasks", description="Fine-tune and evaluate LLaMA models, with numbers to trust.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    finetune = _command(commands, "finetune", "fine-tune, evaluate and report as a recipe says", "recipe")
    finetune.add_argument(
        "--resume", action="store_true", help="continue from the newest checkpoint of the run directory"
    )
    finetune.add_argument("--overwrite", action="store_true", help="replace the run directory")
    inspect = _command(commands, "inspect", "show what the model will see: prompts, ids, mask, audit", "recipe")
    inspect.add_argument("--html", type=Path, metavar="FILE", help="also write a page that needs no network")
    _command(commands, "evaluate", "score base and adapter of a run again, on its test split", "run")
    predict = _command(commands, "predict", "answer rows of a file with a run's adapter", "run")
    predict.add_argument("--input", required=True, help="rows (.jsonl .csv ...); the column to predict may be absent")
    predict.add_argument("--output", required=True, help="predictions, one JSON object a line")
    _add_score(commands)
    _command(commands, "report", "write a run's report again from its predictions", "run", overrides=False)
    export = _command(
        commands, "export", "merge a run's adapter into a plain transformers LLaMA", "run", overrides=False
    )
    export.add_argument("output", help="new folder")
    export.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16; auto: the base's own")
    export.add_argument("--base-path", type=Path, help="where a local base lies now, if it moved since the run")
    push = _command(
        commands, "push", "publish a run's adapter on the Hub (private unless --public)", "run", overrides=False
    )
    push.add_argument("repo", help="user/name")
    push.add_argument("--dry-run", action="store_true", help="show card, files and checks; no network")
    push.add_argument("--public", action="store_true", help="make the repository public")
    push.add_argument("--base-model", help="Hub id of the base, where the run used a local folder")
    push.add_argument("--base-revision", help="commit of that base (40 hex digits)")
    push.add_argument("--with-base", action="store_true", help="also upload a local base, as user/name-base")
    push.add_argument("--base-path", type=Path, help="where a local base lies now, if it moved since the run")
    push.add_argument("--license", help="licence of the adapter, such as apache-2.0")
    verify = _command(
        commands, "verify", "certify the native LLaMA on a checkpoint, against transformers", "model", False
    )
    verify.add_argument("--revision", help="commit, tag or branch of a Hub model")
    verify.add_argument("--output", type=Path, default=Path("certificate.json"), help="where the certificate goes")
    convert = _command(commands, "convert", "Meta's own checkpoint files to Hugging Face's format", "source", False)
    convert.add_argument("output", type=Path, help="new folder")
    convert.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16; auto: as stored")
    convert.add_argument("--max-shard-size", default="5GB", help="largest weight file (default 5GB)")
    convert.add_argument("--max-position-embeddings", type=int, help="context length, which params.json does not say")
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, text: str, target: str, overrides: bool = True
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    about = {"recipe": "recipe file, such as recipes/summarize.yaml", "run": "run directory, such as runs/summarize",
             "model": "Hub id or folder of a LLaMA checkpoint, or `embedded`",
             "source": "folder with consolidated.*.pth, params.json and tokenizer.model"}  # fmt: skip
    command.add_argument(target, help=about[target])
    if overrides:
        command.add_argument(
            "overrides", nargs="*", metavar="key=value", help="change a recipe key, such as train.seed=1"
        )
    return command


def _add_score(commands: argparse._SubParsersAction) -> None:
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


class _Version(argparse.Action):
    """Prints the version of the installed package."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from llama_tasks import __version__

        print(f"llama-tasks {__version__}")
        parser.exit()


def _finetune(args: argparse.Namespace) -> None:
    from llama_tasks import rundir
    from llama_tasks.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    if _is_first():
        rundir.claim(Path(recipe.output or ""), args.resume, args.overwrite)  # at once, before the heavy imports
    console = _console()
    from llama_tasks.finetune import finetune

    report = finetune(recipe, resume=args.resume, overwrite=args.overwrite, console=console)
    _show(report, Path(recipe.output or ""), console)
    if recipe.base.model == "embedded" and report.get("format"):
        mine = f"llama-tasks finetune {args.recipe} base.model={EXAMPLE} data.train=my.jsonl output=runs/mine"
        if os.environ.get("LLAMA_TASKS_COMMAND", "").startswith("make"):
            mine = f"make finetune TASK={recipe.task} MODEL={EXAMPLE} DATA=my.jsonl OUT=runs/mine"
        console.print(f"next, on your own model and data: {mine}", highlight=False, soft_wrap=True)


def _inspect(args: argparse.Namespace) -> None:
    from llama_tasks.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    console = _console()
    from llama_tasks.inspection import inspect

    inspect(recipe, console, args.html)


def _evaluate(args: argparse.Namespace) -> None:
    run, recipe = _run(args)
    console = _console()
    from llama_tasks import adapters, dataset, evaluation

    evaluation.check_suite(recipe)
    data = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    evaluation.rehearse(data, recipe.eval)
    model = evaluation.load(run, recipe)
    report = evaluation.evaluate(run, recipe, data, model, lambda text: console.print(text, highlight=False))
    _show(report, run.path, console)


def _predict(args: argparse.Namespace) -> None:
    run, recipe = _run(args)
    console = _console()
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
    run, recipe = _run(args)
    from llama_tasks.evaluation import write_report

    _show(write_report(run, recipe), run.path, _console())


def _export(args: argparse.Namespace) -> None:
    console = _console()
    from llama_tasks.export import merge

    merged = merge(Path(args.run), Path(args.output), dtype=args.dtype, base_path=args.base_path)
    console.print(
        f"{args.output}: a plain LLaMA in {merged.dtype}, merged into the {merged.policy} base; its logits differ from the "
        f"run's by {merged.written.largest:.2g} at most (export.json has both ways)",
        highlight=False,
    )


def _push(args: argparse.Namespace) -> int:
    console = _console()
    from llama_tasks.hub import push

    result = push(
        Path(args.run), args.repo, private=not args.public, dry_run=args.dry_run, base_model=args.base_model,
        base_revision=args.base_revision, with_base=args.with_base, base_path=args.base_path, license=args.license,
        console=console,
    )  # fmt: skip
    if result.refused:
        _complain(f"{args.repo} would be refused; the checks above say why.")
    return 2 if result.refused else 0


def _verify(args: argparse.Namespace) -> int:
    console = _console()
    from llama_tasks.rundir import write_json
    from llama_tasks.verify import verify

    certificate = verify(args.model, args.revision)
    write_json(args.output, certificate.as_dict())
    console.print(certificate.table())
    verdict = "the native LLaMA computes what transformers' does" if certificate.ok else "the native LLaMA DIFFERS"
    console.print(f"{verdict}; certificate: {args.output}", highlight=False)
    return 0 if certificate.ok else 1


def _convert(args: argparse.Namespace) -> None:
    console = _console()
    from rich.progress import Progress

    from llama_tasks.convert import convert

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {what: bar.add_task(what, total=1.0) for what in ("weights", "check")}
        done = convert(
            Path(args.source), args.output, dtype=args.dtype, max_shard_size=args.max_shard_size,
            max_position_embeddings=args.max_position_embeddings,
            progress=lambda what, share: bar.update(tasks[what], completed=share),
        )  # fmt: skip
    console.print(
        f"{args.output}: {done.parameters:,} parameters in {done.dtype} from {done.shards} file(s); context "
        f"{done.max_position_embeddings:,}; logits differ by {done.logits.difference:.1e} of the largest (at most "
        f"{done.logits.tolerance:.0e})",
        highlight=False,
    )
    if done.tokenizer is None:
        console.print("no tokenizer.model beside the weights, so no tokenizer was written", highlight=False)
    elif done.tokenizer.first_other is not None:
        console.print(
            f"note: the tokenizer encodes {done.tokenizer.probes - done.tokenizer.equal} of {done.tokenizer.probes} probe "
            f"texts otherwise than the original {done.tokenizer.kind} model, first {done.tokenizer.first_other!r}",
            highlight=False,
        )


def _run(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """The run directory of the arguments and its recipe, with overrides."""
    from llama_tasks.recipe import load_recipe
    from llama_tasks.rundir import RunDirectory

    run = RunDirectory(Path(args.run))
    run.recipe()
    return run, load_recipe(run.path / "recipe.yaml", args.overrides)


def _console() -> Console:
    """The terminal, with the libraries' own chatter turned off."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows a run while it runs
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\.")
    # On some CPUs it warns, whenever peft is imported, that a kernel is missing which we leave unused.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if "transformers" in sys.modules:  # otherwise it reads the variables above when it is imported
        sys.modules["transformers"].logging.disable_progress_bar()
    return Console(quiet=not _is_first())


def _is_first() -> bool:
    """Whether this is the first of the processes that a launcher started: the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def _show(report: dict[str, Any], path: Path, console: Console) -> None:
    from llama_tasks.report import terminal

    if "format" in report:
        console.print(terminal(report))
        console.print(f"report: {path / 'report.html'}", highlight=False)
    elif report:  # plain text: no base to compare with
        numbers = ", ".join(f"{name} {report[name]:.4g}" for name in ("loss", "perplexity", "bits_per_byte"))
        console.print(f"{path}: on {report['texts']} test texts {numbers}", highlight=False)


def _complain(text: str) -> None:
    print(f"llama-tasks: {text}", file=sys.stderr)


_COMMANDS = {
    "finetune": _finetune, "inspect": _inspect, "evaluate": _evaluate, "predict": _predict, "score": _score, "report": _report,
    "export": _export, "push": _push, "verify": _verify, "convert": _convert,
}  # fmt: skip
