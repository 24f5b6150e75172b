"""The prompt contract: what an adapter was trained with, in a file beside it. Everything that loads an adapter checks it.

A template that lost a line, an EOS with another id, a tokenizer of another version: each gives worse answers and no
error anywhere else. So a mismatch is an error here, and it names the line, the token, the id.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks import tasks
from llama_tasks.clean import hook_sha256
from llama_tasks.errors import ModelError
from llama_tasks.files import write_text
from llama_tasks.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTRACT_FILE = "prompt_contract.json"
_NAMED = 3  # differences of one kind that a message names


@dataclass(frozen=True)
class PromptContract:
    """What an adapter was trained with."""

    task: str
    template: dict[str, str]
    template_sha256: str
    tokenizer_sha256: str
    special_ids: dict[str, int | None]
    max_length: int
    labels: list[str] = field(default_factory=list)
    sample: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    task_sha256: str | None = None
    options: dict[str, Any] | None = (
        None  # of the task, in the recipe's `prompt` section; None: of an older llama-tasks
    )
    hook_sha256: str | None = None  # of the file of `clean.hook`
    format: int = 1

    def save(self, folder: Path) -> None:
        """Write `prompt_contract.json` into the folder."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2, sort_keys=True)
        write_text(folder / CONTRACT_FILE, text + "\n")

    @classmethod
    def load(cls, folder: Path) -> PromptContract:
        """Read the contract. Raises ModelError where it is missing or broken."""
        path = folder / CONTRACT_FILE
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ModelError(f"{folder} has no {CONTRACT_FILE}: it was not trained by llama-tasks.") from None
        except (ValueError, TypeError) as error:
            raise ModelError(f"{path} is broken ({error}).") from None

    def check(
        self,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        recipe: Recipe | None = None,
        witness: str | Path | None = None,
    ) -> None:
        """Raise ModelError, naming every difference, unless tokenizer and recipe are those of the training.

        folder: where the contract lies.
        recipe: what is asked for now (task, template, labels); left out: the tokenizer alone is checked.
        witness: a place that may still have the tokenizer of the training, to name the difference by.
        """
        found = list(self.differences(tokenizer, recipe, witness or folder))
        if found:
            raise ModelError(
                f"{folder / CONTRACT_FILE}: what is loaded now is not what was trained. {'; '.join(found)}. "
                "An adapter answers only the prompts it was trained on."
            )

    def differences(
        self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe | None = None, witness: str | Path | None = None
    ) -> Iterator[str]:
        """Every difference, as one clause each."""
        asked = recipe.prompt.template if recipe is not None else None
        asked = {"chat": "tokenizer"} if isinstance(asked, str) else asked
        if hash_of(self.template) != self.template_sha256:
            where = f": {_lines_apart(asked, self.template)}" if asked and asked != self.template else ""
            yield f"the template was changed after training (its hash differs){where}"
        elif asked and asked != self.template:
            yield _lines_apart(self.template, asked)
        if recipe is not None:
            yield from self._other_task(recipe)
        yield from _ids_apart(self.special_ids, tokenizer)
        if tokenizer_sha256(tokenizer) != self.tokenizer_sha256:
            yield f"another tokenizer: {self._tokenizer_apart(tokenizer, witness)}"

    def _other_task(self, recipe: Recipe) -> Iterator[str]:
        task = tasks.create(recipe.task).name
        if task != self.task:
            yield f"the task was {self.task} and is {task}"
        elif tasks.source_sha256(recipe.task) != self.task_sha256:
            yield f"the file of the task, {recipe.task}, was changed after training (its hash differs)"
        if self.hook_sha256 is not None and hook_sha256(recipe.clean.hook) not in (None, self.hook_sha256):
            yield f"the file of clean.hook, {recipe.clean.hook}, was changed after training (its hash differs)"
        labels = recipe.data.labels or []
        if labels != self.labels and task == self.task:
            gone, new = ([x for x in a if x not in b] for a, b in ((self.labels, labels), (labels, self.labels)))
            changes = [f"{word} {_some(items)}" for word, items in (("without", gone), ("with the new", new)) if items]
            yield f"the label set is another one ({', '.join(changes) or 'in another order'})"
        if task == self.task and self.options is not None:
            yield from _options_apart(self.options, options_of(recipe))

    def _tokenizer_apart(self, tokenizer: PreTrainedTokenizerBase, witness: str | Path | None) -> str:
        """How the tokenizer differs from that of the training: by that one, if the witness has it, else by the sample."""
        trained = _load(witness)
        if trained is not None and tokenizer_sha256(trained) == self.tokenizer_sha256:
            return trees_apart(_tree(trained), _tree(tokenizer))
        was = list(self.sample.get("input_ids", []))[: self.sample.get("prompt_length", 0)]
        was = was[1:] if was[:1] == [self.special_ids.get("bos")] else was
        text = str(self.sample.get("prompt", ""))
        now = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        for a, b in zip(was, now, strict=False):
            if a != b:
                return f"it begins to write the sample otherwise at {tokenizer.convert_ids_to_tokens(b)!r} (id {b}, was {a})"
        return f"its SHA-256 was {self.tokenizer_sha256[:12]}…; use the one in the adapter's folder"


def hash_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def options_of(recipe: Recipe) -> dict[str, Any]:
    """The options of the recipe's task, with their values."""
    return {name: getattr(recipe.prompt, name) for name in tasks.create(recipe.task).options}


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """Ids of BOS, EOS and padding."""
    return {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what decides token ids: vocabulary, merges, normaliser, pre-tokeniser (not padding, not truncation)."""
    return hash_of(_tree(tokenizer))


def tokenizers_apart(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    """How two tokenizers differ, in one clause; empty where they do not."""
    if tokenizer_sha256(one) == tokenizer_sha256(other) and special_ids(one) == special_ids(other):
        return ""
    return "; ".join([*_ids_apart(special_ids(one), other)]) or trees_apart(_tree(one), _tree(other))


def trees_apart(trained: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """How two tokenizers (as `tokenizer.json` holds them) differ, in words: tokens, then merges, then other parts."""
    before, now = _vocabulary(trained), _vocabulary(found)
    moved = [piece for piece in {**before, **now} if before.get(piece) != now.get(piece)]
    if moved:
        named = [f"{piece!r} had {_id(before, piece)} and has {_id(now, piece)}" for piece in moved[:_NAMED]]
        return f"{len(moved)} tokens differ, {', '.join(named)}"
    merges = [tree["model"].get("merges", []) for tree in (trained, found)]
    if merges[0] != merges[1]:
        at = next((i for i, (a, b) in enumerate(zip(*merges, strict=False)) if a != b), min(map(len, merges)))
        was, is_now = (" + ".join(m[at]) if at < len(m) else "nothing" for m in merges)
        return f"merge {at} was {was!r} and is {is_now!r}"
    parts = [key for key in {**trained, **found} if trained.get(key) != found.get(key)]
    shown = [f"its {key} was {_short(trained.get(key))} and is {_short(found.get(key))}" for key in parts[:_NAMED]]
    return ", ".join(shown)


def _tree(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in tree.items() if key not in ("padding", "truncation")}


def _vocabulary(tree: Mapping[str, Any]) -> dict[str, int]:
    """Piece -> id, added tokens included (a Unigram model lists its pieces, the others map them)."""
    own = tree["model"]["vocab"]
    pieces = own if isinstance(own, dict) else {item[0]: i for i, item in enumerate(own)}
    return {**pieces, **{token["content"]: token["id"] for token in tree.get("added_tokens", [])}}


def _id(vocabulary: Mapping[str, int], piece: str) -> str:
    return f"id {vocabulary[piece]}" if piece in vocabulary else "no id"


def _ids_apart(trained: Mapping[str, int | None], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    for name, now in special_ids(tokenizer).items():
        was = trained.get(name)
        if was != now:
            pieces = ["none" if i is None else f"id {i} ({_piece(tokenizer, i)!r})" for i in (was, now)]
            yield f"the special token {name.upper()} was {pieces[0]} and is {pieces[1]}"


def _piece(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str | None:
    return tokenizer.convert_ids_to_tokens(token_id) if 0 <= token_id < len(tokenizer) else None


def _lines_apart(trained: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The lines in which templates differ: `template.default, line 3: was 'Summary:', is 'Abstract:'`."""
    found = []
    for name in {**trained, **now}:
        if name not in now or name not in trained:
            found.append(f"template.{name} {'is new' if name in now else 'is gone'}")
            continue
        before, after = trained[name].split("\n"), now[name].split("\n")
        for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if kind != "equal":
                old, new = ("\n".join(part) for part in (before[a:b], after[c:d]))
                found.append(f"template.{name}, line {a + 1}: was {_shown(old, b > a)}, is {_shown(new, d > c)}")
    more = f", and {len(found) - _NAMED} more differences" if len(found) > _NAMED else ""
    return f"the template differs ({', '.join(found[:_NAMED])}{more})"


def _options_apart(trained: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The options that make other prompts or answers than those of the training. Which length is asked is each row's own;
    whether one is asked is not. `extractive` only checks answers, and of two directions one may be left out."""
    for name, value in now.items():
        was = trained.get(name)
        differs = {
            "extractive": False,
            "both_directions": bool(value and not was),
            "length": (was is None) != (value is None),
            "length_unit": was != value and now.get("length") is not None,
        }.get(name, was != value)
        if differs:
            yield f"prompt.{name} was {_short(was)} and is {_short(value)}"


def _shown(text: str, is_there: bool) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…") if is_there else "nothing"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}…"


def _some(items: Sequence[str]) -> str:
    return ", ".join(map(repr, items[:_NAMED])) + (f" and {len(items) - _NAMED} more" if len(items) > _NAMED else "")


def _load(place: str | Path | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a place, or None where it has none."""
    from transformers import AutoTokenizer

    if place is None:
        return None
    try:
        return AutoTokenizer.from_pretrained(str(place), trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return None
