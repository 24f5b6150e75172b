"""YAML into declared types: `1e-5` is a number, an unknown key is an error that names the likely one, a key written twice is an
error, and so is a number out of its range. Every error names file and key."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from llama_tasks.errors import RecipeError, did_you_mean

_BARE = "bare yes/no/on/off as true/false: put the word"
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=node.value[i][0].start_mark
                )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, kind: str) -> dict[str, Any]:
    """The `key: value` lines of a file; `kind` is what messages call it.

    Raises:
        RecipeError: no such file, not UTF-8, not YAML, a key written twice, something else than `key: value` lines.
    """
    if not path.is_file():
        near = sorted(p.stem for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = did_you_mean(path.stem, near) if near else ""
        raise RecipeError(f"There is no {kind} {str(path)!r}.{hint}")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"{where}: this is not valid YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{path} must hold `key: value` lines; it holds {'nothing' if tree is None else type(tree).__name__}."
        )
    return tree


def override(tree: dict[str, Any], text: str) -> None:
    """Apply one `train.learning_rate=1e-4` to the tree, in place. Raises RecipeError."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"{text!r} is no override; write key=value, such as train.learning_rate=1e-4.")
    try:
        value = yaml.load(raw, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        value = raw
    *path, last = key.strip().split(".")
    for part in path:
        child = tree.get(part)
        if isinstance(child, str) and part == "eval":
            child = {"suite": child}
        tree[part] = child = {} if child is None else child
        if not isinstance(child, dict):
            raise RecipeError(f"{text!r}: {part!r} holds a value, not further keys.")
        tree = child
    tree[last] = value


@dataclass(frozen=True)
class Converter:
    """Values of one file into declared types; `least`: dotted key -> the least value of its number."""

    file: str
    least: Mapping[str, float]

    def convert(self, value: Any, kind: Any, path: str = "") -> Any:
        """`value` as the declared type `kind`, or a RecipeError that names file and key."""
        origin = get_origin(kind)
        if dataclasses.is_dataclass(kind):
            return self._convert_dataclass(value, kind, path)
        if origin in (Union, types.UnionType):
            return self._convert_union(value, kind, path)
        if origin is Literal:
            if value in get_args(kind) and not isinstance(value, bool):
                return value
            choices = [str(choice) for choice in get_args(kind)]
            raise self._wrong(path, f"is {value!r}.{did_you_mean(str(value), choices)}")
        if origin is list:
            items = value if isinstance(value, list) else [value]  # one item may stand without brackets
            return [self.convert(item, get_args(kind)[0], f"{path}[{i}]") for i, item in enumerate(items)]
        if origin is dict:
            if not isinstance(value, dict):
                raise self._wrong(path, f"must hold `key: value` lines, not {value!r}.")
            if wrong := [k for k in value if isinstance(k, bool)]:
                raise self._wrong(path, f"has the key {wrong[0]!r} (YAML reads {_BARE} in quotes).")
            of = get_args(kind)[1]
            return {str(k): self.convert(v, of, f"{path}.{k}") for k, v in value.items()}
        return self._convert_scalar(value, kind, path)

    def _convert_dataclass(self, value: Any, kind: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise self._wrong(path, f"must hold `key: value` lines, not {value!r}.")
        hints = typing.get_type_hints(kind)
        for key in value:
            if key not in hints:
                raise RecipeError(
                    f"{self.file}: unknown key {_join(path, key)!r}.{did_you_mean(str(key), list(hints))}"
                )
        required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
        for key in required:
            if key not in value:
                raise RecipeError(f"{self.file}: the key {_join(path, key)!r} is missing.")
        return kind(**{key: self.convert(item, hints[key], _join(path, key)) for key, item in value.items()})

    def _convert_union(self, value: Any, kind: Any, path: str) -> Any:
        options = [option for option in get_args(kind) if option is not type(None)]
        if value is None and len(options) < len(get_args(kind)):
            return None
        words = [str(word) for option in options if get_origin(option) is Literal for word in get_args(option)]
        for option in options:
            try:
                return self.convert(value, option, path)
            except RecipeError as error:
                if option is options[-1] and not (words and isinstance(value, str)):
                    raise
                reason = error
        hint = did_you_mean(str(value), words)
        raise RecipeError(
            f"{str(reason).rstrip('.')}, or one of these words: {', '.join(words)}.{hint if 'mean' in hint else ''}"
        )

    def _convert_scalar(self, value: Any, kind: Any, path: str) -> Any:
        if kind is float and not isinstance(value, bool):
            with contextlib.suppress(TypeError, ValueError):
                value = float(value)
        if kind is Any:
            return self._in_range(_numbers(value), path)
        if type(value) is kind:
            return self._in_range(value, path)
        if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        reads = {bool: _BARE, datetime.date: "it as a date: put it",
                 datetime.datetime: "it as a date: put it"}  # fmt: skip
        hint = f" (YAML reads {reads[type(value)]} in quotes)" if type(value) in reads else ""
        wanted = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}.get(kind, str(kind))
        raise self._wrong(path, f"must be {wanted}, not {value!r}{hint}.")

    def _in_range(self, value: Any, path: str) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            raise self._wrong(path, f"must be a finite number, not {value}.")
        if path in self.least and isinstance(value, (int, float)) and value < self.least[path]:
            raise self._wrong(path, f"must be at least {self.least[path]}, not {value}.")
        return value

    def _wrong(self, path: str, what: str) -> RecipeError:
        return RecipeError(f"{self.file}: {path or 'the file'} {what}")


def _numbers(value: Any) -> Any:
    """YAML reads `1e-6` as text; where no type is declared it is the number that it looks like."""
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)
