"""Scores of texts that are empty, odd or few equal those of sacrebleu and rouge_score."""

from __future__ import annotations

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER

from llama_tasks import metrics

PIECES = [
    " ", "\n", "\u3000", "\u00a0", "the", "cat ", " sat", ".", "?!", "1,000", "0.5", "don't", "é", "e\u0301", "🙂", "&amp;", "<x>",
    "天", "气。", "，",
]  # fmt: skip
ENGLISH = [piece for piece in PIECES if piece.isascii()] + ["é"]


def draw(seed, pieces, fullest):
    """Rows of texts, many empty, with one to three references each; sometimes a single row, or nothing said at all."""
    rng = random.Random(seed)

    def text(most):
        return "".join(rng.choices(pieces, k=rng.randrange(most)))

    count = rng.choice([1, 2, 5])
    silent = rng.random() < 0.2
    predictions = ["" if silent else text(fullest) for _ in range(count)]
    return predictions, [[text(fullest) for _ in range(rng.choice([1, 1, 2, 3]))] for _ in range(count)]


def streams(references):
    """sacrebleu's shape: one list a reference, filled up with None."""
    return [[row[i] if i < len(row) else None for row in references] for i in range(max(map(len, references)))]


@pytest.mark.parametrize(
    ("name", "lang", "scorer", "pieces"),
    [
        ("bleu", "en", BLEU(), ENGLISH),
        ("bleu", "zh", BLEU(tokenize="zh"), PIECES),
        ("bleu:tok=char", "zh", BLEU(tokenize="char"), PIECES),
        ("bleu:tok=intl:case=lc", "en", BLEU(tokenize="intl", lowercase=True), ENGLISH),
        ("bleu:tok=none", "en", BLEU(tokenize="none"), ENGLISH),
        ("chrf", "zh", CHRF(), PIECES),
        ("chrf++", "en", CHRF(word_order=2), PIECES),
        ("ter", "en", TER(), ENGLISH),
        ("ter", "zh", TER(normalized=True, asian_support=True), PIECES),
    ],
)
@pytest.mark.parametrize("fullest", [2, 12])
def test_equals_sacrebleu(name, lang, scorer, pieces, fullest):
    metric = metrics.create(name, lang)
    for seed in range(60):
        predictions, references = draw(seed, pieces, fullest)
        expected = scorer.corpus_score(predictions, streams(references)).score
        found = metric.aggregate(metric.statistics(predictions, references).sum(0))
        assert found == pytest.approx(expected, abs=1e-9), (predictions, references)


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
@pytest.mark.parametrize("fullest", [2, 12])
def test_equals_rouge_score(name, fullest):
    metric = metrics.create(f"{name}:sent=newline" if name == "rougeLsum" else name, "en")
    scorer = RougeScorer([name])
    for seed in range(60):
        predictions, references = draw(seed, ENGLISH[:-1], fullest)
        expected = [
            max(scorer.score(reference, prediction)[name].fmeasure for reference in row)
            for prediction, row in zip(predictions, references, strict=True)
        ]
        found = metric.aggregate(metric.statistics(predictions, references).sum(0))
        assert found == pytest.approx(100 * sum(expected) / len(expected), abs=1e-9), (predictions, references)
