"""`python -m llama_tasks` is `llama-tasks`."""

from __future__ import annotations

import sys

from llama_tasks.cli import main

if __name__ == "__main__":
    sys.exit(main())
