"""Summarisation: a document and its summary."""

from __future__ import annotations

from llama_tasks.sources import Row
from llama_tasks.tasks.base import Example, Task, lang_of, text_of, texts_of


class Summarize(Task):
    """Rows {document, summary, lang?, references?}; `references` are further summaries that count when scoring."""

    name = "summarize"
    columns = ("document", "summary")
    main_field = "document"
    target_column = "summary"
    templates = {
        "default": "Summarize the text.\n\n{document}\n\nSummary:",
        "zh": "概括下面的文字。\n\n{document}\n\n摘要：",
    }

    def example(self, row: Row) -> Example:
        """Row -> Example."""
        self.check_columns(row)
        summary = text_of(row, "summary")
        references = texts_of(row, "references") if row.values.get("references") else (summary,)
        return Example(
            row.id, {"document": text_of(row, "document")}, summary, references, lang_of(row, self.main_field)
        )
