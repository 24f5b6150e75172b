"""Rows of a file in the making: none lost, none twice, none of another job, in order at the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_tasks.errors import RunError
from llama_tasks.rundir.journal import Ranks, forget, journal

WORKER = """
import sys, time
from pathlib import Path
from llama_tasks.rundir.journal import journal
target, log = Path(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
with journal(target, "job", 400) as rows:
    for index in sorted(rows.missing, key=lambda i: i * 7919 % 400):
        rows.append(index, {"row": index, "text": "x" * (index * 37 % 9000)})
        print(index, file=log)
        time.sleep(0.0005)
"""


def write(
    target: Path, total: int, count: int | None = None, fingerprint: str = "job", ranks: Ranks | None = None
) -> None:
    """Make rows backwards; only the first `count` of them, and then die."""
    with journal(target, fingerprint, total, ranks or Ranks()) as rows:
        for index in reversed(rows.missing if count is None else rows.missing[:count]):
            rows.append(index, {"row": index, "by": fingerprint})
        if count is not None:
            raise KeyboardInterrupt


def read(target: Path) -> list[int]:
    return [json.loads(line)["row"] for line in target.read_text().splitlines()]


def test_rows_come_out_in_order(tmp_path: Path) -> None:
    target = tmp_path / "new/rows.jsonl"
    write(target, 5)
    assert read(target) == [0, 1, 2, 3, 4]
    with journal(target, "job", 5) as rows:
        assert rows.missing == []
    forget(target)
    assert [path.name for path in target.parent.iterdir()] == ["rows.jsonl"]
    write(tmp_path / "none.jsonl", 0)
    assert (tmp_path / "none.jsonl").read_bytes() == b""


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_number_that_json_has_not_is_refused(tmp_path: Path, value: float) -> None:
    target = tmp_path / "rows.jsonl"
    with (
        pytest.raises(RunError, match="Row test:1 holds a number that is infinite or none"),
        journal(target, "j", 2) as rows,
    ):
        rows.append(0, {"id": "test:0", "choices": {"a": -1.0}})
        rows.append(1, {"id": "test:1", "choices": {"a": value}})
    assert not target.exists()


@pytest.mark.parametrize("tail", [b'3\t{"row": 3', b'3\t{"row": 3}', b"3", b"3\tnull\n", b"\0\0\0\n"])
def test_a_torn_line_is_made_again(tmp_path: Path, tail: bytes) -> None:
    target = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write(target, 6, 2)
    assert not target.exists()
    part = tmp_path / ".rows.jsonl.part-0"
    with part.open("ab") as file:
        file.write(tail)
    with journal(target, "job", 6) as rows:
        assert rows.missing == [2, 3, 4, 5]
        for index in rows.missing:
            rows.append(index, {"row": index})
    assert read(target) == list(range(6))


def test_another_jobs_rows_are_not_taken(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    for fingerprint, count in (("one", 3), ("two", None)):
        try:
            write(target, 5, count, fingerprint)
        except KeyboardInterrupt:
            continue
    assert {json.loads(line)["by"] for line in target.read_text().splitlines()} == {"two"}
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "n.jsonl", 5, 3)
    write(tmp_path / "n.jsonl", 4)  # other rows
    assert read(tmp_path / "n.jsonl") == [0, 1, 2, 3]


def test_other_numbers_of_processes_go_on(tmp_path: Path) -> None:
    """Three begin, one of them torn; one ends."""
    target = tmp_path / "rows.jsonl"
    for rank in range(3):
        with pytest.raises(KeyboardInterrupt):
            write(target, 10, 1, ranks=Ranks(rank, 3))
    with (tmp_path / ".rows.jsonl.part-2").open("ab") as file:
        file.write(b"9\t{")
    with journal(target, "job", 10) as rows:
        assert len(rows.missing) == 7
        for index in rows.missing:
            rows.append(index, {"row": index})
    assert read(target) == list(range(10))


def test_a_row_that_was_not_made_is_missed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="row 0 of 2 was not made"), journal(tmp_path / "rows.jsonl", "job", 2) as rows:
        rows.append(1, {})


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    with pytest.raises(RunError, match="another process"), journal(target, "job", 0), journal(target, "job", 0):
        pass


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Real processes, kill -9 at random moments: every row is made once, but for at most the one that a kill tore."""
    target, log = tmp_path / "rows.jsonl", tmp_path / "log"
    rng = random.Random(5)
    kills = 0
    while not target.exists():
        process = subprocess.Popen([sys.executable, "-c", WORKER, str(target), str(log)])
        begun = log.stat().st_size if log.exists() else 0
        while process.poll() is None and (log.stat().st_size if log.exists() else 0) == begun:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 3
    assert read(target) == list(range(400))
    made = [int(line) for line in log.read_text().split()]
    assert len(made) - len(set(made)) == 0
    assert len(made) >= 400 - kills  # a row may stand in the part that the log does not know of


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """100,000 rows of 1 kB in a process that has 60 MB beyond its start."""
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom llama_tasks.rundir.journal import journal\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with journal(Path(sys.argv[1]), 'job', 100_000) as rows:\n"
        "    for index in reversed(rows.missing):\n"
        "        rows.append(index, {'row': index, 'text': 'x' * 1000})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    target = tmp_path / "rows.jsonl"
    grown = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=True)
    assert target.stat().st_size > 100e6
    assert int(grown.stdout) < 40_000  # KiB
