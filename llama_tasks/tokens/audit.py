"""The audit: what would ruin a training is found before it begins, named by row, and stops it.

    audit = Audit(encoder)
    audit.add("train", prompts, encoder.encode(prompts).tokens)   # in pieces, as often as you like
    audit.add("test", prompts)
    stop_on(audit.report().findings, recipe.prompt.allow)

Rows pass once. Of each row its id, three hashes and two lengths stay (about 60 bytes), and the texts of a sample in which near
duplicates are looked for; so a million rows are audited in the memory of a few.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llama_tasks.duplicates.overlap import Hashed, Match, compare, duplicates, near_groups, two_answers
from llama_tasks.errors import DataError
from llama_tasks.prompts import Prompt
from llama_tasks.sources import SPLITS
from llama_tasks.tokens.encoding import Encoder, Tokens

NAMED = 5  # rows that a finding names
_ASKED = (
    "labels",
    "length",
)  # what a prompt asks for: the same in every row, or another length in training than in scoring
PAIRS = (("train", "validation"), ("train", "test"), ("validation", "test"))

#: rule: (what is wrong, the word for `prompt.allow`; None: nothing allows it)
RULES: dict[str, tuple[str, str | None]] = {
    "no_target": ("examples without a token to learn", None),
    "no_eos": ("examples whose loss does not end with EOS", None),
    "bos": ("examples without exactly one BOS at the start", None),
    "target_cut": ("targets whose tokens are not those of the whole text", None),
    "target_roundtrip": ("targets that the tokenizer cannot write (unknown characters, or its normalisation changes them)",
                         "target_roundtrip"),
    "label": ("answers outside the label set (list all labels in data.labels)", None),
    "empty_field": ("rows with a field that is empty or all whitespace", "empty_field"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something wrong with the data: which rule, how many rows, which ones, and the switch that allows it.

    Attributes:
        stops: whether a training stops on it; otherwise it is only told.
        how: exact, normalised or near, where rows are compared.
        earlier: of each row the earlier one that it is held against, where that is to be named too.
    """

    rule: str
    rows: list[str]
    total: int
    explanation: str
    switch: str | None = None
    stops: bool = True
    how: str = ""
    earlier: list[str] = field(default_factory=list)

    def named(self, where: Callable[[str], str] = str) -> str:
        """The rows in words. where: id of a row -> how to name it (with its file and line)."""
        if not self.earlier:
            return ", ".join(map(where, self.rows))
        pairs = zip(self.earlier, self.rows, strict=True)
        return ", ".join(f"{where(earlier)} and {where(row)}" for earlier, row in pairs)

    def told(self, where: Callable[[str], str] = str) -> str:
        """The finding as a sentence."""
        allow = f" To go on all the same: prompt.allow=[{self.switch}]." if self.switch else ""
        rows = "row" if self.total == 1 else "rows"
        return f"{self.explanation}: {self.total:,} {rows}, first {self.named(where)}.{allow}"

    def __str__(self) -> str:
        return self.told()


@dataclass(frozen=True)
class Report:
    """What the audit found.

    Attributes:
        findings: those that stop first.
        overlaps: (split, other split, how) -> rows of the other split that the first one holds.
        repeats: how (exact, normalised, near) -> training rows that repeat an earlier one.
        contradictions: pairs of training rows with one input and different targets.
        lengths: tokens of prompt and response (EOS included) of each training example.
        labels, languages: split -> how often each occurs.
        near_rows: split -> rows among which near duplicates were looked for.
    """

    findings: list[Finding]
    rows: dict[str, int]
    overlaps: dict[tuple[str, str, str], Match]
    repeats: dict[str, Match]
    contradictions: Match
    lengths: tuple[array[int], array[int]]
    labels: dict[str, Counter[str]]
    languages: dict[str, Counter[str]]
    near_rows: dict[str, int]

    def told(self) -> list[Finding]:
        """The findings that do not stop a training."""
        return [finding for finding in self.findings if not finding.stops]


@dataclass
class _Seen:
    """What stays of the rows of one split."""

    hashed: Hashed
    labels: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)


class Audit:
    """Gathers rows of all splits, in pieces, and says what is wrong with them.

    is_text: plain text (pre-training): every token is a target, blocks need no EOS, and repeats are told, not refused.
    of_stream: the training rows are some of a stream, which may bring the labels that they lack.
    """

    def __init__(self, encoder: Encoder, is_text: bool = False, of_stream: bool = False) -> None:
        self.encoder = encoder
        self.is_text, self.of_stream = is_text, of_stream
        self._seen = {name: _Seen(Hashed()) for name in SPLITS}
        self._problems: dict[str, list[str]] = {}
        self._totals: Counter[str] = Counter()
        self._lengths = (array("I"), array("I"))

    def add(self, split: str, prompts: Sequence[Prompt], tokens: Sequence[Tokens] = ()) -> None:
        """Take rows of a split, and (of training rows) the tokens that were made of them; rows that stand as solved examples
        before every prompt are training rows without tokens."""
        seen = self._seen[split]
        for prompt in prompts:
            example = prompt.example
            seen.hashed.add(example.id, inputs_of(prompt), example.target)
            seen.languages[example.lang] += 1
            if example.choices:
                seen.labels[example.target] += 1
                if example.target not in example.choices:
                    self._note("label", example.id)
            if any(not text.strip() for text in example.fields.values()):
                self._note("empty_field", example.id)
        for item in tokens:
            self._lengths[0].append(item.prompt_length)
            self._lengths[1].append(len(item.input_ids) - item.prompt_length)
        if not self.is_text:
            self._check_tokens(prompts, tokens)

    def report(self) -> Report:
        """Compare the splits and sum up."""
        hashed = {name: seen.hashed for name, seen in self._seen.items()}
        near = near_groups(hashed)
        overlaps = compare(hashed, near, PAIRS)
        repeats = duplicates(hashed["train"], near["train"])
        contradictions = two_answers(hashed["train"])
        labels = {name: seen.labels for name, seen in self._seen.items()}
        findings = [
            *self._broken_rules(),
            *_leaks(overlaps, not self.is_text),
            *_repeats(repeats, contradictions),
            *([] if self.of_stream else _unseen(labels)),
        ]
        return Report(
            sorted(findings, key=lambda finding: not finding.stops),
            {name: len(rows) for name, rows in hashed.items()},
            overlaps,
            repeats,
            contradictions,
            self._lengths,
            labels,
            {name: seen.languages for name, seen in self._seen.items()},
            {name: len(rows) for name, rows in near.items()},
        )

    def check(self, prompts: Sequence[Prompt], tokens: Sequence[Tokens]) -> list[Finding]:
        """Findings that stop in some training rows of a stream, by themselves and against the other splits, which were taken
        before; nothing of these rows stays. (Near duplicates and repeats need all rows, and are not looked for.)"""
        piece = Audit(self.encoder, self.is_text)
        piece._seen = {**self._seen, "train": _Seen(Hashed())}
        piece.add("train", prompts, tokens)
        hashed = {name: seen.hashed for name, seen in piece._seen.items()}
        overlaps = compare(hashed, {name: {} for name in hashed}, [pair for pair in PAIRS if pair[0] == "train"])
        return [*piece._broken_rules(), *_leaks(overlaps, not self.is_text)]

    def _broken_rules(self) -> Iterator[Finding]:
        for rule, rows in self._problems.items():
            explanation, switch = RULES[rule]
            yield Finding(rule, rows, self._totals[rule], explanation, switch)

    def _check_tokens(self, prompts: Sequence[Prompt], tokens: Sequence[Tokens]) -> None:
        of = {prompt.example.id: prompt for prompt in prompts}
        decoded = iter(self.encoder.tokenizer.backend_tokenizer.decode_batch(
            [ids[:-1] for item in tokens for ids in item.responses], skip_special_tokens=False
        ))  # fmt: skip
        for item in tokens:
            for rule in self._broken(item, [next(decoded) for _ in item.responses], of[item.id]):
                self._note(rule, item.id)

    def _broken(self, item: Tokens, decoded: Sequence[str], prompt: Prompt) -> Iterator[str]:
        responses = item.responses
        if any(len(ids) < 2 for ids in responses):
            yield "no_target"
        if any(ids[-1:] != self.encoder.eos for ids in responses):
            yield "no_eos"
        if not self.encoder.begins_right(item):
            yield "bos"
        # A shortened dialogue has lost its oldest exchanges, so responses are compared from the end.
        texts = prompt.segments[1::2][-len(responses) :]
        if any(found.strip() != text.strip() for found, text in zip(decoded, texts, strict=True)):
            whole = self.encoder.segments([prompt])[0][1::2][-len(responses) :]
            yield "target_roundtrip" if responses == whole else "target_cut"

    def _note(self, rule: str, row: str) -> None:
        self._totals[rule] += 1
        rows = self._problems.setdefault(rule, [])
        if len(rows) < NAMED:
            rows.append(row)


def stop_on(findings: Sequence[Finding], allow: Sequence[str], where: Callable[[str], str] = str) -> None:
    """Raise DataError with every finding that stops and that the recipe does not allow.

    where: id of a row -> how to name it (with its file and line).
    """
    stops = [finding for finding in findings if finding.stops and finding.switch not in allow]
    if stops:
        told = " ".join(finding.told(where) for finding in stops)
        raise DataError(f"The audit of the training data stops this run. {told}")


def inputs_of(prompt: Prompt) -> tuple[str, ...]:
    """The texts of a row that make its input: what the template shows of it, without the label set and the asked length; of a
    dialogue, all that was said, as one text; of plain text, the text."""
    example = prompt.example
    said = [text for turn in example.turns for text in (*_shown(turn.fields, prompt), turn.answer)]
    texts = (*said, *_shown(example.fields, prompt))
    return ("\n".join(texts),) if said else texts or (prompt.response,)


def _shown(fields: Mapping[str, str], prompt: Prompt) -> Iterator[str]:
    return (text for key, text in fields.items() if f"{{{key}}}" in prompt.template and key not in _ASKED)


def _leaks(overlaps: dict[tuple[str, str, str], Match], stops: bool) -> Iterator[Finding]:
    """Rows that are scored and also trained on stop the run, where they are equal to the letter or but for case, width,
    spaces and punctuation; near ones, and rows of both validation and test, are told."""
    for (split, other, kind), match in overlaps.items():
        if match.total:
            held = f"the {'training' if split == 'train' else split} split"
            told = {
                "exact": f"rows of the {other} split are in {held}",
                "normalised": f"rows of the {other} split are in {held} but for case, width, spaces and punctuation",
                "near": f"rows of the {other} split have a near duplicate in {held}",
            }[kind]
            hard = stops and split == "train" and kind != "near"
            rows = [row for _, row in match.pairs[:NAMED]]
            yield Finding("leak", rows, match.total, told, "leak" if hard else None, hard, kind)


def _repeats(repeats: dict[str, Match], contradictions: Match) -> Iterator[Finding]:
    how = {
        "exact": "training rows that repeat an earlier one to the letter",
        "normalised": "training rows that repeat an earlier one but for case, width, spaces and punctuation",
        "near": "training rows that are near duplicates of an earlier one",
    }
    for kind, match in repeats.items():
        if match.total:
            rows = [row for _, row in match.pairs[:NAMED]]
            yield Finding("duplicate", rows, match.total, how[kind], stops=False, how=kind)
    if contradictions.total:
        earlier, rows = (list(names) for names in zip(*contradictions.pairs[:NAMED], strict=True))
        told = "training rows with the input of an earlier one and another target"
        yield Finding("contradiction", rows, contradictions.total, told, stops=False, earlier=earlier)


def _unseen(labels: dict[str, Counter[str]]) -> Iterator[Finding]:
    """Labels that are scored and never trained."""
    for split in ("validation", "test"):
        unseen = sorted(set(labels[split]) - set(labels["train"]))
        if unseen:
            total = sum(labels[split][label] for label in unseen)
            shown = [repr(label) for label in unseen[:NAMED]]
            yield Finding(
                "unseen_label", shown, total, f"labels of the {split} split without a training row", stops=False
            )
