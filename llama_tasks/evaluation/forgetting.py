"""What the training cost elsewhere: the loss on a small general text set, before and after.

The set is `eval.general_text`: `embedded` (forty short texts of our own, English and Chinese), or a file of rows {text, lang?}.
Losses of each text lie in eval/<system>/general.jsonl; what follows from them needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llama_tasks import metrics, significance
from llama_tasks.errors import DataError
from llama_tasks.prompts import Prompt, Renderer
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import read_to_predict
from llama_tasks.tasks import Text

EMBEDDED = Path(__file__).parents[1] / "embedded/general.jsonl"
MEASURES = ("perplexity", "bits_per_byte")


def read(source: str) -> list[Prompt]:
    """The texts of a set. Raises DataError where the file cannot be read or holds none."""
    path = EMBEDDED if source == "embedded" else Path(source)
    if not path.is_file():
        raise DataError(f"eval.general_text: there is no file {source!r}; `embedded` is the set that comes along.")
    task = Text()
    render = Renderer(task)
    prompts = [render(task.example(row)) for row in read_to_predict(path, DataConfig(), "text", task.columns)]
    if not prompts:
        raise DataError(f"eval.general_text: {source} holds no text.")
    return prompts


def compare(systems: Mapping[str, Sequence[Mapping[str, Any]]], n_resamples: int, seed: int) -> list[dict[str, Any]]:
    """Scores of each language, {metric, lang, n, signature, base: {value, interval}, ...}; of two systems also the difference
    with its paired test over texts, as the report's `scores` have it. A perplexity too large for a number is left out."""
    first = next(iter(systems.values()))
    found = []
    for lang in sorted({row["lang"] for row in first}):
        for name in MEASURES:
            measure = metrics.LanguageModel(name, lang)
            stats = {
                system: measure.statistics(*([row[key] for row in rows if row["lang"] == lang] for key in _COLUMNS))
                for system, rows in systems.items()
            }
            with suppress(metrics.TooLarge):  # perplexity of a broken model; bits per byte tell how broken it is
                found.append(_compared(measure, stats, n_resamples, seed))
    return found


_COLUMNS = ("nll", "tokens", "bytes")


def _compared(measure: metrics.LanguageModel, stats: Mapping[str, Any], n_resamples: int, seed: int) -> dict[str, Any]:
    scores = {
        name: metrics.score_statistics(measure, own, n_resamples=n_resamples, seed=seed).to_dict()
        for name, own in stats.items()
    }
    row = {key: next(iter(scores.values()))[key] for key in ("metric", "lang", "n", "signature")}
    row |= {name: {key: score[key] for key in ("value", "interval")} for name, score in scores.items()}
    if len(stats) < 2:
        return row
    before, after = stats.values()
    test = significance.compare(measure, before, after, n_resamples=n_resamples, seed=seed).to_dict()
    test["difference_interval"] = test.pop("interval")
    return row | test | {"higher_is_better": False}
