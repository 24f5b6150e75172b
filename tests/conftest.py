"""Fixtures of every test: offline by construction, threads that wait asleep, the shared material where it is present."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_runs import Zygote, make_workplace, result

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait sleep: where other programs want the cores too, spinning ones hold everything up.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
# Files that take minutes begin first, so that the workers end together (`make test` deals files out in this order).
LONGEST = ["test_readme.py", "test_faults.py", "test_distributed.py"]


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage looks at it again (half a second each time)."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file nothing moves."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """`shared("models/stories260K/hf")` -> its path, or the test is skipped with the reason."""

    def find(name: str) -> Path:
        path = ROOT.parent / "shared" / name
        if not path.exists():
            pytest.skip(f"../shared/{name} is not present")
        return path

    return find


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Starts runs in no time."""
    made = Zygote(tmp_path_factory.mktemp("jobs"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, rows and a recipe."""
    return make_workplace(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def whole(zygote: Zygote, place: Path) -> tuple[bytes, bytes]:
    """What the undisturbed run leaves."""
    done = zygote.run("finetune", "mine.yaml", "output=whole", cwd=place)
    assert done.wait() == 0, done.error
    return result(place / "whole")


@pytest.fixture
def no_traces() -> Iterator[None]:
    """Other libraries set accelerate's state for the whole process, and its environment variables; other tests begin clean."""
    from accelerate.state import AcceleratorState

    before = dict(os.environ)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)
