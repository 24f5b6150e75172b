"""Plain text for causal language modelling (pre-training, perplexity): no prompt, every token is a target."""

from __future__ import annotations

from llama_tasks.sources import Row
from llama_tasks.tasks.base import Example, Task, lang_of, text_of


class Text(Task):
    """Rows {text, lang?}; a long document becomes several blocks, the last of which ends with EOS."""

    name = "text"
    columns = ("text",)
    main_field = "text"
    target_column = "text"
    templates = {"default": ""}

    def example(self, row: Row) -> Example:
        """Row -> Example with an empty prompt."""
        self.check_columns(row)
        text = text_of(row, "text")
        return Example(row.id, {}, text, (text,), lang_of(row, self.main_field))
