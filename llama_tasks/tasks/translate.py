"""Translation: source and target text with their languages."""

from __future__ import annotations

from llama_tasks.errors import DataError
from llama_tasks.sources import Row
from llama_tasks.tasks.base import Example, Task, primary, text_of

LANGUAGES = {
    "ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "pt": "Portuguese", "ru": "Russian", "zh": "Chinese",
}  # fmt: skip


class Translate(Task):
    """Rows {source, target, source_lang, target_lang}; the languages may be given once as `data.constants`."""

    name = "translate"
    columns = ("source", "target")
    main_field = "source"
    target_column = "target"
    templates = {"default": "Translate from {source_language} to {target_language}.\n\n{source}\n\n{target_language}:"}

    def example(self, row: Row) -> Example:
        """Row -> Example; the language of the example is the target's."""
        self.check_columns(row)
        source_lang, target_lang = self._lang(row, "source_lang"), self._lang(row, "target_lang")
        source, target = text_of(row, "source"), text_of(row, "target")
        fields = {
            "source": source,
            "source_lang": source_lang,
            "target_lang": target_lang,
            "source_language": language_name(source_lang),
            "target_language": language_name(target_lang),
        }
        return Example(row.id, fields, target, (target,), target_lang)

    def _lang(self, row: Row, field: str) -> str:
        value = row.values.get(field)
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{row.where}: a translation needs {field!r} (a language code such as en, de, zh); where it is the same "
                f"in every row, write it once in the recipe: data.constants.{field}=en"
            )
        return primary(value)


def language_name(code: str) -> str:
    """English name of a language code; an unknown code stands for itself."""
    return LANGUAGES.get(code, code)
