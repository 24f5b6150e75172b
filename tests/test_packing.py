"""Packing: the picture of the docstring, and that nothing is lost, doubled or overfull."""

from __future__ import annotations

import itertools
import random

from llama_tasks.packing import collate, pack, plan_epoch, plan_steps
from llama_tasks.tokens import IGNORE, Tokens


def test_the_picture() -> None:
    """a0 a1 a2 a3 | b0 b1 | c0 c1 c2, each with one prompt token."""
    batch = collate([Tokens("a", [10, 11, 12, 13], 1), Tokens("b", [20, 21], 1), Tokens("c", [30, 31, 32], 2)])
    assert batch.input_ids.tolist() == [[10, 11, 12, 13, 20, 21, 30, 31, 32]]
    assert batch.labels.tolist() == [[IGNORE, 11, 12, 13, IGNORE, 21, IGNORE, IGNORE, 32]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert batch.cu_seq_lens.tolist() == [0, 4, 6, 9]
    assert (batch.ids, batch.max_length, batch.num_targets, batch.num_tokens) == (("a", "b", "c"), 4, 5, 9)


def test_a_document_without_prompt_does_not_predict_its_first_token() -> None:
    assert collate([Tokens("a", [10, 11], 0), Tokens("b", [20, 21], 0)]).labels.tolist() == [[IGNORE, 11, IGNORE, 21]]


def test_pack_holds_every_document_once_within_the_budget() -> None:
    rng = random.Random(1)
    for _ in range(50):
        lengths = [rng.randint(1, 120) for _ in range(rng.randint(1, 200))]
        batches = pack(lengths, 100)
        assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
        for batch in batches:
            assert sum(lengths[i] for i in batch) <= 100 or len(batch) == 1


def test_pack_is_tight() -> None:
    rng = random.Random(2)
    lengths = [rng.randint(5, 90) for _ in range(3000)]
    assert sum(lengths) / (len(pack(lengths, 1024)) * 1024) > 0.98


def test_epochs_differ_and_repeat_for_the_same_seed() -> None:
    lengths = list(range(1, 80))
    first, second, again = (
        plan_epoch(lengths, 100, 7, 0),
        plan_epoch(lengths, 100, 7, 1),
        plan_epoch(lengths, 100, 7, 0),
    )
    assert first == again
    assert first != second
    assert sorted(itertools.chain(*second)) == list(range(79))


def test_steps_group_batches_and_lose_none() -> None:
    lengths = [30] * 35
    epoch = next(plan_steps(lengths, 100, 1, 4))
    assert [len(step) for step in epoch] == [4, 4, 4]
    assert sorted(i for step in epoch for batch in step for i in batch) == list(range(35))
