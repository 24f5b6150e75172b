"""What the commands share: their arguments' names, the terminal, the run they are about."""

from __future__ import annotations

import argparse
import functools
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from llama_tasks.model.on_import import around_import

if TYPE_CHECKING:
    from rich.console import Console

    from llama_tasks.recipe import Recipe
    from llama_tasks.rundir import RunDirectory

EXAMPLE = "HuggingFaceTB/SmolLM2-135M"  # the model of examples and next steps
DTYPES = ("auto", "float32", "bfloat16", "float16")
COMPILES_EARLY = "bitsandbytes.backends.default.ops"  # imported with peft
Commands = argparse._SubParsersAction
_ABOUT = {
    "recipe": "recipe file, such as recipes/summarize.yaml",
    "run": "run directory, such as runs/summarize",
    "model": "Hub id or folder of a LLaMA checkpoint, `embedded`, or (verify) a recipe file",
    "source": "folder with consolidated.*.pth, params.json and tokenizer.model",
}


def command(commands: Commands, name: str, text: str, target: str, overrides: bool = True) -> argparse.ArgumentParser:
    """A new command about a `target`, which takes recipe overrides unless told otherwise."""
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.add_argument(target, help=_ABOUT[target])
    if overrides:
        parser.add_argument(
            "overrides", nargs="*", metavar="key=value", help="change a recipe key, such as train.seed=1"
        )
    return parser


def open_run(args: argparse.Namespace) -> tuple[RunDirectory, Recipe]:
    """The run directory of the arguments and its recipe, with overrides."""
    from llama_tasks.recipe import load_recipe
    from llama_tasks.rundir import RunDirectory

    run = RunDirectory(Path(args.run))
    run.recipe()
    return run, load_recipe(run.path / "recipe.yaml", args.overrides)


def open_console() -> Console:
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
    around_import(COMPILES_EARLY, compile_when_called)
    if "transformers" in sys.modules:  # otherwise it reads the variables above when it is imported
        sys.modules["transformers"].logging.disable_progress_bar()
    return Console(quiet=not is_first())


def compile_when_called(module: ModuleType, execute: Callable[[ModuleType], None]) -> None:
    """Execute a module that decorates functions with `torch.compile`, which loads torch's compiler: a second or two before every
    command, of functions that few runs call. They are compiled at their first call."""
    torch: Any = importlib.import_module("torch")
    compile_now = torch.compile

    def put_off(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        if function is None:
            return functools.partial(put_off, **options)
        made = functools.cache(lambda: compile_now(function, **options))
        return functools.wraps(function)(lambda *args, **kwargs: made()(*args, **kwargs))

    torch.compile = put_off
    try:
        execute(module)
    finally:
        torch.compile = compile_now


def is_first() -> bool:
    """Whether this is the first of the processes that a launcher started: the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def show(report: dict[str, Any], path: Path, console: Console) -> None:
    """Print a report's table and where its page is."""
    from llama_tasks.report import terminal

    if "format" in report:
        console.print(terminal(report))
        console.print(f"report: {path / 'report.html'}", highlight=False)
    elif report:  # plain text: no base to compare with
        known = [name for name in ("loss", "perplexity", "bits_per_byte") if report[name] is not None]
        numbers = ", ".join(f"{name} {report[name]:.4g}" for name in known)
        console.print(f"{path}: on {report['texts']} test texts {numbers}", highlight=False)


def complain(text: str) -> None:
    """One paragraph on the error stream."""
    print(f"llama-tasks: {text}", file=sys.stderr)
