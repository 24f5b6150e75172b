"""Write the tables of docs/performance.md from bench/results/*.json; no number there is typed by hand.

    make bench-tables

Each table stands between `<!-- table NAME -->` and `<!-- end NAME -->`; what is not measured is said to be so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import results

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
ABSENT = "–"
Rows = list[dict[str, Any]]


def render(page: str, folder: Path) -> str:
    """The page with all its tables written anew."""
    for name, (file, table) in TABLES.items():
        rows = results.load(folder / file)
        text = table(rows) or "Not measured yet."
        mark = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not mark.search(page):
            raise SystemExit(f"{PAGE.name} has no place for the table {name!r}")
        page = mark.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
    return page


def speed(rows: Rows) -> str:
    """Training against Trainer and TRL."""
    rows = joined([row for row in rows if "trainer" in row or "trl" in row])
    head = (
        "shape",
        "dtype",
        "prompt + response",
        "against Trainer",
        "against TRL",
        "memory at 2,048",
        "memory at these speeds",
        "loss, gradients differ by",
    )
    return table(head, rows, lambda row: (
        row["shape"], row["dtype"], row["workload"], times(row.get("trainer", {}).get("speed")),
        times(row.get("trl", {}).get("speed")), times(row.get("trainer", {}).get("memory_at_equal_batch")),
        times(memory_as_compared(row)), same(row),
    ))  # fmt: skip


def memory_as_compared(row: dict[str, Any]) -> float | None:
    """Native's peak to Trainer's, each in the batches whose speeds are compared."""
    found, peaks = row.get("trainer"), row.get("peak_mib", {})
    ours = found and found.get("native", next((name for name in peaks if name.startswith("native")), None))
    if found is None or ours is None or found["best"] not in peaks:
        return None
    ratio: float = peaks[ours] / peaks[found["best"]]
    return round(ratio, 2)


def joined(rows: Rows) -> Rows:
    """One row a setting, where its peers were measured one at a time; the later number counts."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        setting = row["shape"], row["dtype"], row["workload"]
        before = found.get(setting, {})
        peaks = {**before.get("peak_mib", {}), **row.get("peak_mib", {})}
        found[setting] = {**before, **row, "peak_mib": peaks}
    return list(found.values())


def nf4(rows: Rows) -> str:
    """The native model in nf4 against itself in bf16."""
    rows = [row for row in rows if "bf16" in row]
    return table(("shape", "prompt + response", "speed", "weights", "peak memory"), rows, lambda row: (
        row["shape"], row["workload"], times(row["bf16"]["speed"]), times(row["bf16"]["weights"]),
        times(row["bf16"]["memory_at_equal_batch"]),
    ))  # fmt: skip


def ablation(rows: Rows) -> str:
    """Each optimisation's gain as the last one and as the first one: a table for a shape and dtype, a column for a workload."""
    groups: dict[tuple[str, str], Rows] = {}
    for row in rows:
        groups.setdefault((row["shape"], row["dtype"]), []).append(row)
    return "\n\n".join(gains(f"{shape} {dtype}", found) for (shape, dtype), found in groups.items())


def gains(title: str, rows: Rows) -> str:
    """The ablation table of some workloads."""
    names = dict.fromkeys(name for row in rows for name in row["gains"])
    lines = [{"name": name, "cells": [gain(row["gains"].get(name)) for row in rows]} for name in names]
    lines.append({"name": "all together", "cells": [times(row["together"]) for row in rows]})
    head = (title, *(row["workload"] for row in rows))
    return f"{table(head, lines, lambda line: (line['name'], *line['cells']), foot=False)}\n\n{measured(rows)}"


def roofline(rows: Rows) -> str:
    """GFLOP/s of training, and its share of measured matrix products."""
    head = (
        "shape",
        "dtype",
        "prompt + response",
        "GFLOP/s",
        "square product",
        "share",
        "the model's products",
        "share",
    )
    return table(head, rows, lambda row: (
        row["shape"], row["dtype"], row["workload"], number(row["roofline"]["reached"]),
        number(row["roofline"]["limit_square"]), percent(row["roofline"]["share_square"]),
        number(row["roofline"]["limit_shapes"]), percent(row["roofline"]["share_shapes"]),
    ))  # fmt: skip


def decode(rows: Rows) -> str:
    """Decoding of batch 1."""
    head = ("shape", "dtype", "adapter", "cache", "native, tokens/s", "transformers, tokens/s", "speed")
    return table(head, rows, lambda row: (
        row["shape"], row["dtype"], row["adapter"], row["cache"], number(median(row["tokens_per_second"]["native"])),
        number(median(row["tokens_per_second"]["transformers"])), times(row["speed"]),
    ))  # fmt: skip


def generate(rows: Rows) -> str:
    """Generation of many rows."""
    head = ("shape", "dtype", "rows", "tokens held",
            "output tokens: median, mean, most", "llama-tasks, rows/s",
            "transformers, rows/s (batch)", "speed",
            "other text: llama-tasks, transformers")  # fmt: skip
    return table(head, rows, lambda row: (
        row["shape"], row["dtype"], str(row["rows"]), number(row["tokens_per_batch"]),
        ", ".join(number(row["output_tokens"][k]) for k in ("median", "mean", "max")),
        number(row["rows_per_second"]["ours"]),
        ", ".join(f"{number(rate)} ({name})" for name, rate in row["rows_per_second"].items() if name != "ours"),
        times(row["speed"]),
        ", ".join(f"{100 * row['other_text_than_alone'][name]:.1f}%" for name in ("ours", str(row["best_batch"]))),
    ))  # fmt: skip


def choices(rows: Rows) -> str:
    """Log-likelihoods of choices."""
    head = (
        "shape",
        "dtype",
        "rows",
        "prompt",
        "choices",
        "llama-tasks, rows/s",
        "lm-evaluation-harness, rows/s (batch)",
        "speed",
        "differ by",
    )
    return table(head, rows, lambda row: (
        row["shape"], row["dtype"], str(row["rows"]), str(row["prompt_tokens"]), str(row["choices"]),
        number(row["rows_per_second"]["ours"]),
        ", ".join(f"{number(rate)} ({name})" for name, rate in row["rows_per_second"].items() if name != "ours"),
        times(row["speed"]), f"{row['largest_difference']:.0e}",
    ))  # fmt: skip


def imports(rows: Rows) -> str:
    """Seconds of imports by command."""
    return table(("command", "seconds", "most of them"), rows, lambda row: (
        f"`llama-tasks {row['command'].split(',')[0]}`{''.join(row['command'].partition(',')[1:])}", number(row["seconds"]),
        ", ".join(f"{name} {number(seconds)}" for name, seconds in row["packages"].items()) or ABSENT,
    ))  # fmt: skip


def loop(rows: Rows) -> str:
    """Our loop beside a bare one, and checkpoints."""
    return table(("base", "tokens a batch", "loop against bare", "checkpoints at the default interval"), rows, lambda row: (
        row["shape"], number(row["batch_tokens"]), f"{100 * (row['loop_over_bare'] - 1):+.1f}%",
        f"{100 * row['checkpoint_share']:.2f}% of the time",
    ))  # fmt: skip


def plan(rows: Rows) -> str:
    """What `plan` says against what a process takes."""
    return table(("recipe", "plan says", "measured", "ratio"), rows, lambda row: (
        f"`{' '.join([row['recipe'], *row['with_settings']])}`", f"{row['said'] / 2**20:.0f} MiB",
        f"{row['taken'] / 2**20:.0f} MiB", f"{row['ratio']:.2f}",
    ))  # fmt: skip


def gpu(rows: Rows) -> str:
    """Training and decoding on a GPU."""
    head = ("card", "shape", "what", "engine", "rows", "tokens/s", "MFU", "peak memory")
    return table(head, rows, lambda row: (
        row["gpu"], row["shape"], row["what"], f"{row['engine']} ({row['attention']})", row["rows"],
        *((f"none: {row['skipped']}", ABSENT, ABSENT) if "skipped" in row else on_gpu(row)),
    ))  # fmt: skip


def on_gpu(row: dict[str, Any]) -> tuple[str, str, str]:
    """Tokens per second, MFU and memory of a part that ran."""
    tokens = row["tokens_per_second"]
    if row["what"] == "decode":
        both = ", ".join(f"{name} {number(tokens[name])}" for name in tokens)
        return f"{both} ({times(row['speed'])})", ABSENT, ABSENT
    return number(tokens), percent(row["mfu"]), f"{row['peak_gib']} GiB"


def table(head: Iterable[str], rows: Rows, cells: Callable[[dict[str, Any]], Iterable[str]], foot: bool = True) -> str:
    """A Markdown table, with what it was measured with below; nothing without rows."""
    if not rows:
        return ""
    names = list(head)
    lines = [names, ["---"] * len(names), *(list(cells(row)) for row in rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{measured(rows)}" if foot else text


def measured(rows: Rows) -> str:
    """When, on what and with what the rows were measured; one sentence for each difference."""
    kinds: dict[str, set[str]] = {}
    for row in rows:
        libraries = ", ".join(f"{name} {found}" for name, found in row["with"].items() if name != "processor")
        place = f" on {row['with']['processor']}" if "processor" in row["with"] else ""
        kinds.setdefault(f"{place} with {libraries}", set()).add(row["measured"])
    return " ".join(f"Measured {', '.join(sorted(days))}{kind}." for kind, days in kinds.items())


def same(row: dict[str, Any]) -> str:
    """Differences of the first step in float32."""
    found = row.get("check_fp32")
    return f"{found['loss']:.0e}, {found['gradients']:.0e}" if found else ABSENT


def gain(found: dict[str, float] | None) -> str:
    """`last (alone)`."""
    if found is None:
        return ABSENT
    return f"{times(found['last'])} ({times(found['alone'])})" if "alone" in found else times(found["last"])


def times(value: float | None) -> str:
    """A ratio."""
    return ABSENT if value is None else f"{value:.2f}x"


def percent(value: float | None) -> str:
    """A share."""
    return ABSENT if value is None else f"{100 * value:.0f}%"


def number(value: float) -> str:
    """Three digits that tell something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


TABLES: dict[str, tuple[str, Callable[[Rows], str]]] = {
    "speed": ("speed.json", speed), "narrow": ("speed_narrow.json", speed), "nf4": ("speed.json", nf4),
    "ablation": ("ablation.json", ablation),
    "roofline": ("ablation.json", roofline), "decode": ("decode.json", decode), "imports": ("imports.json", imports),
    "gpu": ("gpu.json", gpu), "generate": ("generate.json", generate), "choices": ("choices.json", choices),
    "loop": ("loop.json", loop), "plan": ("plan.json", plan),
}  # fmt: skip


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), results.FOLDER), encoding="utf-8")


if __name__ == "__main__":
    main()
