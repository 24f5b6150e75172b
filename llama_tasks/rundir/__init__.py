"""A run directory, which is a public format: the folder (`folder`), one process at a time (`lock`), predictions kept as they are
made (`journal`), all runs in a table (`runs`).
"""

from __future__ import annotations

from llama_tasks.rundir.folder import (
    TASK_FILE,
    RunDirectory,
    claim,
    clear,
    command_line,
    environment,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)

__all__ = [
    "TASK_FILE",
    "RunDirectory",
    "claim",
    "clear",
    "command_line",
    "environment",
    "read_json",
    "read_jsonl",
    "write_json",
    "write_jsonl",
]
