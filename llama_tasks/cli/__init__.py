"""The command `llama-tasks`: parses first, imports torch after; every error is one paragraph."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from llama_tasks.cli import models, scoring, training
from llama_tasks.cli.common import complain
from llama_tasks.errors import LlamaTasksError
from llama_tasks.supervise.interrupt import terminable

EPILOG = """examples:
  llama-tasks finetune recipes/summarize.yaml
  llama-tasks finetune recipes/summarize.yaml base.model=HuggingFaceTB/SmolLM2-135M data.train=my.jsonl
  llama-tasks evaluate runs/summarize
  llama-tasks push runs/summarize user/name --with-base --dry-run
  llama-tasks score --metric rouge --lang zh hypotheses.txt references.txt
  llama-tasks compare runs/a runs/b --slice domain --html compare.html
"""
# How a command that was stopped goes on; what is not here begins anew.
GOES_ON = {
    **dict.fromkeys(("finetune", "crossval"), " A run that had begun goes on with --resume; nothing of it is lost."),
    **dict.fromkeys(
        ("evaluate", "predict"), " Type the same command again, and it goes on at the row; nothing is lost."
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 good, 2 the user's mistake, 130 Ctrl-C, 143 SIGTERM)."""
    args = _parse(argv)
    stopped = f"Stopped.{GOES_ON.get(args.command, '')}"
    try:
        with terminable(stopped):
            return args.run_command(args) or 0
    except LlamaTasksError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain(stopped)
        return 130
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ not in ("MemoryError", "OutOfMemoryError") and "can't allocate memory" not in str(
            error
        ):
            raise
        complain(
            "The device's memory is full. Halve train.tokens_per_batch (or eval.tokens_per_batch) and double "
            "train.gradient_accumulation_steps, turn on train.gradient_checkpointing, or use base.quantization=nf4."
        )
        return 2
    except OSError as error:
        complain(
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
    for group in (training, scoring, models):
        group.add(commands)
    return parser


class _Version(argparse.Action):
    """Prints the version of the installed package."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from llama_tasks import __version__

        print(f"llama-tasks {__version__}")
        parser.exit()
