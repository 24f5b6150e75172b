"""Commands about weights: export, push, verify, convert."""

from __future__ import annotations

import argparse
from pathlib import Path

from llama_tasks.cli.common import DTYPES, Commands, command, complain, open_console
from llama_tasks.errors import RecipeError


def add(commands: Commands) -> None:
    """Add this file's commands."""
    export = command(
        commands, "export", "merge a run's adapter into a plain transformers LLaMA", "run", overrides=False
    )
    export.add_argument("output", help="new folder")
    export.add_argument(
        "--dtype", default="auto", choices=DTYPES, help="float32, bfloat16 or float16; auto: the base's own"
    )
    export.add_argument("--base-path", type=Path, help="where a local base lies now, if it moved since the run")
    export.set_defaults(run_command=_export)
    _add_push(commands)
    verify = command(
        commands,
        "verify",
        "certify the native LLaMA on a checkpoint, against transformers; of a recipe: that batching does not matter",
        "model",
    )
    verify.add_argument(
        "--examples", type=int, help="of a recipe: so many of its first examples are compared (default 16)"
    )
    verify.add_argument("--revision", help="commit, tag or branch of a Hub model")
    verify.add_argument("--output", type=Path, default=Path("certificate.json"), help="where the certificate goes")
    verify.set_defaults(run_command=_verify)
    convert = command(commands, "convert", "Meta's own checkpoint files to Hugging Face's format", "source", False)
    convert.add_argument("output", type=Path, help="new folder")
    convert.add_argument(
        "--dtype", default="auto", choices=DTYPES, help="float32, bfloat16 or float16; auto: as stored"
    )
    convert.add_argument("--max-shard-size", default="5GB", help="largest weight file (default 5GB)")
    convert.add_argument("--max-position-embeddings", type=int, help="context length, which params.json does not say")
    convert.set_defaults(run_command=_convert)


def _add_push(commands: Commands) -> None:
    push = command(
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
    push.set_defaults(run_command=_push)


def _export(args: argparse.Namespace) -> None:
    console = open_console()
    from llama_tasks.export import merge

    merged = merge(Path(args.run), Path(args.output), dtype=args.dtype, base_path=args.base_path)
    console.print(
        f"{args.output}: a plain LLaMA in {merged.dtype}, merged into the {merged.policy} base; its logits differ from the "
        f"run's by {merged.written.largest:.2g} at most (export.json has both ways)",
        highlight=False,
    )


def _push(args: argparse.Namespace) -> int:
    console = open_console()
    from llama_tasks.hub import push

    result = push(
        Path(args.run), args.repo, private=not args.public, dry_run=args.dry_run, base_model=args.base_model,
        base_revision=args.base_revision, with_base=args.with_base, base_path=args.base_path, license=args.license,
        console=console,
    )  # fmt: skip
    if result.refused:
        complain(f"{args.repo} would be refused; the checks above say why.")
    return 2 if result.refused else 0


def _verify(args: argparse.Namespace) -> int:
    console = open_console()
    from llama_tasks.rundir import write_json

    if args.model.endswith((".yaml", ".yml")):
        if args.revision is not None:
            raise RecipeError(
                f"--revision is for a model; {args.model} is a recipe: write base.revision={args.revision}."
            )
        from llama_tasks.recipe import load_recipe
        from llama_tasks.verify.recipe import verify_recipe

        recipe = load_recipe(args.model, args.overrides)
        certificate = verify_recipe(recipe) if args.examples is None else verify_recipe(recipe, args.examples)
        holds, fails = "batching changes neither loss nor gradients", "batching CHANGES loss or gradients"
    else:
        from llama_tasks.verify import verify

        if args.examples is not None:
            raise RecipeError(f"--examples is for a recipe, and {args.model} is none (its name ends in .yaml).")
        if args.overrides:
            raise RecipeError(
                f"{args.overrides[0]!r} changes a recipe, and {args.model} is none (its name ends in .yaml)."
            )
        certificate = verify(args.model, args.revision)
        holds, fails = "the native LLaMA computes what transformers' does", "the native LLaMA DIFFERS"
    write_json(args.output, certificate.as_dict())
    console.print(certificate.table())
    console.print(f"{holds if certificate.ok else fails}; certificate: {args.output}", highlight=False)
    return 0 if certificate.ok else 1


def _convert(args: argparse.Namespace) -> None:
    console = open_console()
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
