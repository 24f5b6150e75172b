"""Do something when a module is imported, whoever imports it, without importing it for that."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Execute = Callable[[ModuleType], None]


def after_import(name: str, call: Execute) -> None:
    """Call with the module: now where it is loaded, else right after it has been executed."""
    if name in sys.modules:
        call(sys.modules[name])
        return

    def around(module: ModuleType, execute: Execute) -> None:
        execute(module)
        call(module)

    around_import(name, around)


def around_import(name: str, around: Callable[[ModuleType, Execute], None]) -> None:
    """Let `around(module, execute)` execute the module when it is imported; nothing where it is loaded, or has an `around`."""
    waiting = any(isinstance(finder, _Waiting) and finder.name == name for finder in sys.meta_path)
    if name not in sys.modules and not waiting:
        sys.meta_path.insert(0, _Waiting(name, around))


class _Waiting(MetaPathFinder):
    """A finder that finds nothing itself: it waits until one module is executed, and has a say in that."""

    def __init__(self, name: str, around: Callable[[ModuleType, Execute], None]) -> None:
        self.name, self.around, self.looks = name, around, False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.name or self.looks:
            return None
        self.looks = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.looks = False
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader  # this module's own, made anew by each look
        execute = loader.exec_module

        def execute_with_a_say(module: ModuleType) -> None:
            sys.meta_path.remove(self)
            self.around(module, execute)

        loader.exec_module = execute_with_a_say
        return spec
