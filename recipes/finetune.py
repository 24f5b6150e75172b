"""The same door for `accelerate launch recipes/finetune.py RECIPE [key=value ...]` and `torchrun`."""

import sys

from llama_tasks.cli import main

sys.exit(main(["finetune", *sys.argv[1:]]))
