"""A Python file of the user's, run as it stands; what is wrong with it is said in one sentence with file and line."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from llama_tasks.errors import RecipeError


def read_source(path: str, shown: str) -> str:
    """The text of a file, which must be UTF-8. Raises RecipeError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{shown} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from None


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes: whether it is still the file that a run began with."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def run_file(source: str, resolved: str, shown: str) -> ModuleType:
    """The module that the file's source makes.

    resolved: its absolute path; shown: how a message names it.

    Raises:
        RecipeError: broken Python, or an error while it runs.
    """
    name = f"llama_tasks_user_{Path(resolved).stem}"
    spec = importlib.util.spec_from_loader(name, loader=None, origin=resolved)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = resolved
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        exec(compile(source, resolved, "exec"), module.__dict__)
    except SyntaxError as error:
        raise RecipeError(f"{shown}:{error.lineno}: this is not valid Python: {error.msg}.") from None
    except Exception as error:
        raise RecipeError(f"{shown}:{line_of(error, resolved)}: {spell(error)}.") from None
    return module


def line_of(error: BaseException, resolved: str) -> int:
    """The last line of the file through which the error went."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == resolved]
    return lines[-1] if lines and lines[-1] else 1


def spell(error: BaseException) -> str:
    """Type and message of an error on one line, without a full stop."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ").rstrip(".")
