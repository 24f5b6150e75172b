"""Translation: source and target text with their languages."""

from __future__ import annotations

from dataclasses import replace

from llama_tasks.errors import DataError
from llama_tasks.sources import Row
from llama_tasks.tasks.base import Example, Task, guess_lang, primary, text_of

LANGUAGES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi",
    "hu": "Hungarian", "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ko": "Korean",
    "lt": "Lithuanian", "lv": "Latvian", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "sw": "Swahili", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


class Translate(Task):
    """Rows {source, target, source_lang, target_lang}; the languages may be given once as `data.constants`.

    With `prompt.both_directions` every row is also an example of the way back.
    """

    name = "translate"
    columns = ("source", "target")
    main_field = "source"
    target_column = "target"
    options = ("both_directions",)
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

    def examples(self, row: Row, *, training: bool) -> list[Example]:
        """The Example of a row and, where both directions are asked for, the one back (`train:17:back`)."""
        examples = [self.example(row)]
        if self.config.both_directions:
            swap = {"source": "target", "target": "source", "source_lang": "target_lang", "target_lang": "source_lang"}
            values = {**row.values, **{name: row.values[other] for name, other in swap.items()}}
            examples.append(self.example(replace(row, id=f"{row.id}:back", values=values)))
        return examples

    def failure(self, prediction: str, example: Example) -> str | None:
        """`copied`: the source itself; `wrong_script`: Chinese asked for and none written, or written and not asked for."""
        fields = example.fields
        if prediction.strip() and prediction == fields["source"] != example.target:
            return "copied"
        chinese = guess_lang(prediction) == "zh"
        if not any(character.isalpha() for character in prediction) or example.lang == "ja":
            return None
        return "wrong_script" if chinese != (guess_lang(example.target) == "zh") else None

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
