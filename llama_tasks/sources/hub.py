"""Hub datasets, read by `datasets` at a pinned revision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llama_tasks.errors import DataError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources.readers import named_classes
from llama_tasks.sources.rows import BadRows, Row


def pin(data: DataConfig, repos: set[str]) -> DataConfig:
    """`data` with the commit that its one Hub dataset is at now, so that the run can be repeated; unchanged without one, without
    a network (the cached copy serves), and for several (one revision cannot name them all)."""
    from huggingface_hub import HfApi

    if len(repos) != 1:
        return data
    try:
        return replace(data, revision=HfApi().dataset_info(repos.pop(), revision=data.revision, timeout=30).sha)
    except Exception:  # the Hub's clients raise kinds that differ by version; loading says what is wrong
        return data


def load(repo: str, data: DataConfig) -> dict[str, Any]:
    """Name of a split on the Hub: its Dataset (IterableDataset for a stream). Raises DataError."""
    import datasets

    try:
        return dict(datasets.load_dataset(repo, data.name, revision=data.revision, streaming=data.streaming))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if "Dataset scripts" in str(error):
            raise DataError(
                f"The Hub dataset {repo!r} is read by code of its own, which is never run; look whether the Hub has turned it into "
                "Parquet, data.revision=refs/convert/parquet, or name its files in data.train."
            ) from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"Cannot load the Hub dataset {repo!r}: {reason} If you meant a local file, there is none at that path; "
            "otherwise check the name, `hf auth login` and the network."
        ) from None


def shards_of(dataset: Any) -> list[Any]:
    """The parts in which a dataset is read: one of a Dataset, those of its files of an IterableDataset."""
    count = getattr(dataset, "num_shards", 1) if not hasattr(dataset, "num_rows") else 1
    return [dataset.shard(num_shards=count, index=i) for i in range(count)] if count > 1 else [dataset]


def rows_of(dataset: Any, name: str, bad: BadRows) -> Iterator[Row]:
    """The rows of one part, class labels by their names."""
    for number, values in enumerate(dataset):
        named = named_classes(values, dataset.features, f"{name}:{number}", bad)
        if named is not None:
            yield Row("", named, f"{name}:{number}")
