"""llama-tasks: fine-tune and evaluate LLaMA models, with numbers to trust."""

from __future__ import annotations

__version__ = "0.1.0"
