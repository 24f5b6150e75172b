"""Dialogue: every answer of a conversation is learned; when scoring, the last one is asked for."""

from collections.abc import Sequence

from llama_tasks.errors import DataError
from llama_tasks.tasks import Example, Task, Turn, guess_lang


def word_recall(prediction: str, references: Sequence[str]) -> float:
    """Share of the reference's words (Chinese: characters) that the answer says too."""
    wanted, said = words(references[0]), words(prediction)
    return len(wanted & said) / len(wanted)


def words(text: str) -> set[str]:
    """Lower-cased words, or single characters where a text has no spaces."""
    plain = "".join(c if c.isalnum() or c.isspace() else " " for c in text.lower())
    return set(plain.split()) if " " in text.strip() else set(plain) - {" "}


class Dialogue(Task):
    """Rows {messages: [{role, content}, ...], lang?}; user and assistant take turns."""

    name = "dialogue"
    columns = ("messages",)
    main_field = "user"
    target_column = "messages"
    templates = {"default": "User: {user}\nAssistant:", "zh": "用户：{user}\n助手："}
    metrics = {"word_recall": word_recall}

    def example(self, row):
        self.check_columns(row)
        messages = row.values["messages"]
        said = [message["content"] for message in messages]
        roles = [message["role"] for message in messages]
        if not roles or roles != [("user", "assistant")[i % 2] for i in range(len(roles))]:
            raise DataError(f"{row.where}: user and assistant must take turns, and the user begins.")
        asked, answered = said[::2], said[1::2]
        target = (
            answered.pop() if len(asked) == len(answered) else "-"
        )  # a conversation to go on with has no answer yet
        earlier = tuple(Turn({"user": u}, a) for u, a in zip(asked[:-1], answered, strict=True))
        references = (target,) if len(messages) % 2 == 0 else ()
        lang = row.values.get("lang") or guess_lang(asked[0])
        return Example(row.id, {"user": asked[-1]}, target, references, lang, turns=earlier)
