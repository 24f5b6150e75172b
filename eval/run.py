"""`python eval/run.py RUN [key=value ...]`: score a run's base and adapter; the same as `llama-tasks evaluate`."""

import sys

from llama_tasks.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
