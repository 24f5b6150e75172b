"""An item of the recipe -> the shards of each split: files, globs, folders, URLs, Hub datasets, the embedded samples."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_tasks.errors import DataError
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import hub, readers
from llama_tasks.sources.files import COMPRESSIONS, File, entries, is_file, is_folder, is_url, matches
from llama_tasks.sources.rows import BadRows, Row, listed

SPLITS = ("train", "validation", "test")
ALIASES = {"train": ("train", "data"), "validation": ("validation", "valid", "dev", "val"), "test": ("test",)}
_SHARD = re.compile(r"(?P<split>.+?)-(?P<index>\d{5})-of-(?P<count>\d{5})")
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # notes of `datasets`, no rows


@dataclass(frozen=True)
class Shard:
    """A part of a split that is read from its beginning: a file, a pair of files, or a part of a Hub dataset."""

    name: str
    source: File | Any

    def rows(self, bad: BadRows) -> Iterator[Row]:
        """Its rows as found. Raises DataError for damage."""
        if isinstance(self.source, File):
            return readers.rows_of(self.source, bad)
        return hub.rows_of(self.source, self.name, bad)


def locate(item: str, data: DataConfig, task: str) -> dict[str, list[Shard]]:
    """The shards of each split that an item of the recipe holds; plain files count as training rows.

    Raises:
        DataError: nothing there, or nothing that can be read.
    """
    if item == "embedded":
        item = str(Path(__file__).parents[1] / "embedded" / "samples" / task)
        if not is_folder(item):
            raise DataError(f"There are no embedded samples for the task {task!r}; name your data in data.train.")
    if is_folder(item):
        return _in_folder(item, data)
    if is_file(item):
        return {"train": [_shard(_paired(File(item, data)))]}
    if glob.has_magic(item):
        return {"train": [_shard(file) for file in _pairs([File(name, data) for name in _found(item)])]}
    if is_url(item) or not is_hub_id(item):
        raise DataError(f"There is no file or folder {item!r}{_looked(item)}")
    return _on_hub(item, data)


def located(data: DataConfig, task: str) -> dict[str, dict[str, list[Shard]]]:
    """Split -> item of the recipe -> shards, for the splits that the recipe names and those that its training data brings.

    Raises:
        DataError: as `locate`, and for a source without training rows.
    """
    found = _by_split(data.train, data, task)
    for name, items in (("validation", data.validation), ("test", data.test)):
        if items is not None:
            found[name] = {item: _serving_as(name, item, locate(item, data, task)) for item in items}
    if "train" not in found:
        raise DataError(f"{' '.join(data.train)} has no training rows; it holds: {', '.join(found) or 'nothing'}.")
    return found


def _by_split(items: Sequence[str], data: DataConfig, task: str) -> dict[str, dict[str, list[Shard]]]:
    found: dict[str, dict[str, list[Shard]]] = {}
    for item in items:
        for name, shards in locate(item, data, task).items():
            found.setdefault(name, {})[item] = shards
    return found


def _serving_as(name: str, item: str, given: dict[str, list[Shard]]) -> list[Shard]:
    """The shards of an item that the recipe names as a split: its own split of that name, else what counts as training rows."""
    if name not in given and "train" not in given:
        raise DataError(f"data.{name}: {item} has no {name} rows; it holds: {', '.join(given)}.")
    return given.get(name) or given["train"]


def limit_of(data: DataConfig, split: str) -> int | None:
    """The most rows of a split that the recipe asks for."""
    return {"train": data.max_train_samples, "validation": data.max_validation_samples, "test": data.max_test_samples}[
        split
    ]


def source_of(data: DataConfig, split: str) -> str:
    """The items of a split in words, a Hub dataset with its commit."""
    items = {"train": data.train, "validation": data.validation, "test": data.test}[split] or data.train
    return " ".join(f"{item}@{data.revision}" if data.revision and is_hub_id(item) else item for item in items)


def is_hub_id(item: str) -> bool:
    """Whether the item can only be a Hub dataset (`user/name`): nothing local has that name, and it looks like no path."""
    file = File(item, DataConfig())
    looks_local = readers.is_readable(file) or file.compression or is_url(item) or glob.has_magic(item)
    looks_local = looks_local or item.count("/") != 1 or item.startswith((".", "/", "~"))
    return not looks_local and not os.path.exists(Path(item).expanduser())


def _looked(item: str) -> str:
    """The end of the sentence about an item that is not there: where it was looked for, and what was probably meant."""
    folder = Path(item).expanduser().parent
    if is_url(item):
        return "."
    if os.path.lexists(Path(item).expanduser()):
        return ": what has that name is a broken link, a pipe or a device."
    names = [path.name for path in folder.iterdir()] if is_folder(str(folder)) else []
    near = None if glob.has_magic(item) else difflib.get_close_matches(Path(item).name, names, n=1, cutoff=0.8)
    guess = f" Did you mean {listed([str(Path(item).parent / near[0])])!r}?" if near else ""
    return f" (looked in {Path.cwd()}).{guess}"


def _found(pattern: str) -> list[str]:
    names = matches(pattern)
    if not names:
        raise DataError(f"No file matches {pattern!r}{_looked(pattern)}")
    return names


def _shard(file: File) -> Shard:
    return Shard(f"{file.name}+{file.pair.name}" if file.pair else file.name, file)


# --- parallel text --------------------------------------------------------------------------------------------------


def _paired(file: File) -> File:
    """A file of parallel text with its sibling in the other language; any other file as it is.

    Raises:
        DataError: several languages to choose from, or none that data.constants names.
    """
    if not readers.language(file):
        return file
    folder = file.name.rpartition("/")[0] or "."
    siblings = [other for other in _language_files([File(name, file.data) for name in entries(folder)], file.stem)
                if other.base != file.base]  # fmt: skip
    wanted = _wanted(file)
    there = [file, *siblings]
    absent = sorted(wanted - {readers.language(other) for other in there}) if siblings else []
    if absent:
        raise file.error(
            f"is parallel text of {', '.join(other.base for other in there)}, but data.constants asks for {absent[0]!r}; "
            "name a language that is there, or leave the constant out."
        )
    chosen = [other for other in siblings if readers.language(other) in wanted] or siblings
    if len(chosen) > 1:
        raise file.error(
            f"has more than one other side ({', '.join(other.base for other in chosen)}); say which by "
            "data.constants.source_lang and target_lang."
        )
    return _directed(file, chosen[0]) if chosen else file


def _wanted(file: File) -> set[str]:
    """The languages that data.constants names."""
    return {lang for key in ("source_lang", "target_lang") if (lang := file.data.constants.get(key))}


def _pairs(files: Sequence[File]) -> list[File]:
    """Files with those of one name and two languages put together. Raises DataError for one without its other side."""
    done: set[tuple[str, str]] = set()
    paired = []
    for file in files:
        place = (file.name.rpartition("/")[0], file.stem)
        if readers.language(file) and place in done:
            continue
        done |= {place} if readers.language(file) else set()
        paired.append(_paired(file))
    return paired


def _language_files(files: Sequence[File], stem: str) -> list[File]:
    return [file for file in files if file.stem == stem and readers.language(file)]


def _directed(first: File, second: File) -> File:
    """The pair from data.constants.source_lang to target_lang; where neither is said, in the order given."""
    constants = first.data.constants
    turned = (
        constants.get("source_lang") == readers.language(second)
        or constants.get("target_lang") == readers.language(first)
    )  # fmt: skip
    first, second = (second, first) if turned else (first, second)
    return replace(first, pair=second)


# --- folders --------------------------------------------------------------------------------------------------------


def _in_folder(folder: str, data: DataConfig) -> dict[str, list[Shard]]:
    names = entries(folder)
    files = [File(name, data) for name in names if is_file(name)]
    found = {split: shards for split in ALIASES if (shards := _of_split(folder, files, split))}
    for split, aliases in ALIASES.items():
        for name in names:
            last = name.rstrip("/").rpartition("/")[2]
            if split not in found and last in aliases and last != "data" and is_folder(name):
                inside = [File(path, data) for path in entries(name) if is_file(path)]
                found[split] = [_shard(file) for file in _complete(_pairs(_alike(name, _rows_only(inside))))]
    if not found and any(name.rstrip("/").endswith("/data") and is_folder(name) for name in names):
        return _in_folder(f"{folder.rstrip('/')}/data", data)
    if not found:
        endings = f"{' '.join(sorted(readers.READERS))}, also {' '.join(COMPRESSIONS)}"
        raise DataError(
            f"{folder} holds no train, validation or test file ({endings}). If all of its files are training rows, write a "
            f"glob: data.train={folder.rstrip('/')}/*.jsonl"
        )
    return found


def _rows_only(files: Sequence[File]) -> list[File]:
    """The files that hold rows: of a known format, or with their other side there too (`notes.md` alone is no language)."""
    stems = [file.stem for file in files if readers.language(file)]
    return [
        file
        for file in files
        if file.base not in _ABOUT
        and (readers.is_readable(file) or (readers.language(file) and stems.count(file.stem) > 1))
    ]


def _of_split(folder: str, files: Sequence[File], split: str) -> list[Shard]:
    """The files of one split: `train.jsonl`, `train-00000-of-00002.parquet`, `train.en` with `train.zh`."""
    named = [file for file in _rows_only(files) if _split_name(file) in ALIASES[split]]
    if split == "train" and any(_split_name(file) == "train" for file in named):
        named = [file for file in named if _split_name(file) == "train"]
    return [_shard(file) for file in _complete(_one_format(folder, split, named))]


def _split_name(file: File) -> str:
    shard = _SHARD.fullmatch(file.stem)
    if shard:
        return shard["split"]
    return "" if file.stem == "data" else file.stem


def _one_format(folder: str, split: str, files: list[File]) -> list[File]:
    """The files, if they are one file, one pair, or shards; else a DataError."""
    texts = [file for file in files if readers.language(file)]
    if texts and len(texts) == len(files) and len({file.stem for file in files}) == 1:
        wanted = _wanted(files[0])
        first = next((file for file in files if readers.language(file) in wanted), files[0])
        return [_paired(first)]
    shards = [file for file in files if _SHARD.fullmatch(file.stem)]
    if len(files) > 1 and (len(shards) < len(files) or len({file.format for file in files}) > 1):
        raise DataError(
            f"{folder} holds several {split} files: {', '.join(file.base for file in files)}; name one in data.{split}."
        )
    return files


def _alike(folder: str, files: list[File]) -> list[File]:
    """The files of a folder that is a split by its name, whatever they are called. Raises DataError."""
    formats = sorted({file.format for file in files if not readers.language(file)})
    if len(formats) > 1 or not files:
        what = f"files of several formats ({' '.join(formats)})" if files else "no file of rows"
        raise DataError(f"{folder} holds {what}; name the files you mean by a glob, such as {folder}/*.jsonl.")
    return files


def _complete(files: list[File]) -> list[File]:
    """The shards, unless one of those that their names promise is missing."""
    numbered = [match for file in files if (match := _SHARD.fullmatch(file.stem))]
    for match in numbered[:1]:
        missing = sorted(set(range(int(match["count"]))) - {int(other["index"]) for other in numbered})
        if missing:
            raise files[0].error(
                f"is one of {int(match['count'])} shards, of which {len(numbered)} are there (number {missing[0]:05} is "
                "missing); get the rest."
            )
    return files


# --- the Hub --------------------------------------------------------------------------------------------------------


def _on_hub(repo: str, data: DataConfig) -> dict[str, list[Shard]]:
    loaded = hub.load(repo, data)
    found = {}
    for split, names in ALIASES.items():
        name = next((name for name in names if name in loaded and name != "data"), None)
        if name:
            parts = hub.shards_of(loaded[name])
            found[split] = [Shard(f"{repo}[{name}]" + (f"#{i}" if i else ""), part) for i, part in enumerate(parts)]
    return found
