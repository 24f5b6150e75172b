"""Commands about a recipe, and about what they left: finetune, crossval, inspect, plan, runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from llama_tasks.cli.common import EXAMPLE, Commands, command, is_first, open_console, show


def add(commands: Commands) -> None:
    """Add this file's commands."""
    finetune = command(commands, "finetune", "fine-tune, evaluate and report as a recipe says", "recipe")
    finetune.add_argument(
        "--resume", action="store_true", help="continue from the newest checkpoint of the run directory"
    )
    finetune.add_argument("--overwrite", action="store_true", help="replace the run directory")
    finetune.set_defaults(run_command=_finetune)
    crossval = command(
        commands, "crossval", "train and score a recipe in folds; every training row is tested once", "recipe"
    )
    crossval.add_argument("--folds", type=int, default=5, help="number of folds (5)")
    crossval.add_argument("--resume", action="store_true", help="go on with the first fold that is not done")
    crossval.add_argument("--overwrite", action="store_true", help="replace the folder")
    crossval.set_defaults(run_command=_crossval)
    inspect = command(commands, "inspect", "show what the model will see: prompts, ids, mask, audit", "recipe")
    inspect.add_argument("--html", type=Path, metavar="FILE", help="also write a page that needs no network")
    inspect.set_defaults(run_command=_inspect)
    plan = command(
        commands, "plan", "parameters, memory, steps and time of a recipe, before anything is loaded", "recipe"
    )
    plan.add_argument("--gpu", help="such as h100 or rtx4090; by default this machine")
    plan.add_argument("--num", type=int, default=1, metavar="N", help="how many of them (default 1)")
    plan.add_argument("--fsdp", action="store_true", help="the model in N pieces (recipes/launch/fsdp2.yaml)")
    plan.set_defaults(run_command=_plan)
    text = "list the runs in a folder, or compare recipes and scores of two"
    runs = commands.add_parser("runs", help=text, description=text, allow_abbrev=False)
    runs.add_argument(
        "places", type=Path, nargs="*", metavar="DIR", help="a folder of runs (default: runs), or two runs"
    )
    runs.set_defaults(run_command=_runs)


def _finetune(args: argparse.Namespace) -> None:
    from llama_tasks import rundir
    from llama_tasks.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    if is_first():
        rundir.claim(Path(recipe.output or ""), args.resume, args.overwrite)  # at once, before the heavy imports
    console = open_console()
    from llama_tasks.finetune import finetune

    report = finetune(recipe, resume=args.resume, overwrite=args.overwrite, console=console)
    show(report, Path(recipe.output or ""), console)
    if recipe.base.model == "embedded" and report.get("format"):
        mine = f"llama-tasks finetune {args.recipe} base.model={EXAMPLE} data.train=my.jsonl output=runs/mine"
        if os.environ.get("LLAMA_TASKS_COMMAND", "").startswith("make"):
            mine = f"make finetune TASK={recipe.task} MODEL={EXAMPLE} DATA=my.jsonl OUT=runs/mine"
        console.print(f"next, on your own model and data: {mine}", highlight=False, soft_wrap=True)


def _crossval(args: argparse.Namespace) -> None:
    from llama_tasks.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    console = open_console()
    from llama_tasks.crossval import RESULT, crossval, table

    result = crossval(recipe, args.folds, resume=args.resume, overwrite=args.overwrite, console=console)
    console.print(table(result))
    console.print(f"{Path(recipe.output or '') / RESULT}", highlight=False)


def _inspect(args: argparse.Namespace) -> None:
    from llama_tasks.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    console = open_console()
    from llama_tasks.inspection import inspect

    inspect(recipe, console, args.html)


def _plan(args: argparse.Namespace) -> None:
    from llama_tasks.errors import RecipeError
    from llama_tasks.recipe import load_recipe

    if args.num < 1:
        raise RecipeError(f"--num is {args.num}; a run needs one device at least.")
    recipe = load_recipe(args.recipe, args.overrides)
    console = open_console()
    from llama_tasks.estimate import planning

    planning.tell(planning.plan(recipe, args.gpu, args.num, args.fsdp), console)


def _runs(args: argparse.Namespace) -> None:
    from rich.console import Console

    from llama_tasks.errors import RunError
    from llama_tasks.rundir import RunDirectory, runs

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)  # a file gets whole lines
    if len(args.places) > 2:
        raise RunError("Two runs are compared at a time.")
    if len(args.places) == 2:
        console.print(runs.compare(*map(RunDirectory, args.places)))
        return
    folder = args.places[0] if args.places else Path("runs")
    console.print(runs.table([runs.summarise(run, folder) for run in runs.find(folder)]))
