"""Packing: the picture of the docstring, and that nothing is lost, doubled or overfull."""

from __future__ import annotations

import itertools
import random
from array import array

import pytest

from llama_tasks.packing import Family, collate, pack
from llama_tasks.packing.plan import find_families, plan_epoch, steps_of
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
    epoch = steps_of(plan_epoch(lengths, 100, 1, 0), 4)
    assert [len(step) for step in epoch] == [4, 4, 4]
    assert sorted(i for step in epoch for batch in step for i in batch) == list(range(35))


# --- families ------------------------------------------------------------------------------------------------------


def test_the_picture_of_a_family() -> None:
    family = Family((Tokens("a", [5, 6, 7, 13, 14], 4), Tokens("b", [5, 6, 7, 23], 3)), 3)
    batch = collate([Tokens("c", [30, 31], 1), family])
    assert batch.input_ids.tolist() == [[30, 31, 5, 6, 7, 13, 14, 23]]
    assert batch.labels.tolist() == [[IGNORE, 31, IGNORE, IGNORE, IGNORE, IGNORE, 14, 23]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 3, 4, 3]]
    assert batch.prefix_documents is not None
    assert batch.prefix_documents.tolist() == [-1, -1, 1, 1]
    assert (batch.ids, batch.own_documents.tolist()) == (("c", "a", "b"), [0, 2, 3])
    assert batch.num_tokens == 2 + family.num_tokens


def questions(passages: int, each: int, rng: random.Random) -> list[Tokens]:
    """Examples of a header, a passage of 40 tokens, a question of 8 and an answer of 4, in random order."""
    header = [1, 2, 3, 4, 5]
    made = []
    for p in range(passages):
        passage = [rng.randint(10, 99) for _ in range(40)]
        for q in range(each):
            ids = header + passage + [rng.randint(10, 99) for _ in range(12)]
            made.append(Tokens(f"{p}.{q}", ids, len(ids) - 4))
    rng.shuffle(made)
    return made


def test_questions_on_a_passage_are_a_family() -> None:
    tokens = questions(7, 5, random.Random(3))
    families = find_families(tokens, 1000)
    assert len(families) == 7
    assert sorted(m.id for family in families for m in family.members) == sorted(t.id for t in tokens)
    for family in families:
        assert {m.id.split(".")[0] for m in family.members} == {family.members[0].id.split(".")[0]}
        assert 45 <= family.prefix <= 46
        assert all(m.input_ids[: family.prefix] == family.members[0].input_ids[: family.prefix] for m in family.members)
    assert sum(f.num_tokens for f in families) < 0.4 * sum(len(t.input_ids) for t in tokens)


@pytest.mark.parametrize("seed", range(40))
def test_families_are_those_of_the_definition(seed: int) -> None:
    """Neighbours in sorted order, joined one by one: gathered by bytes and counts, as the definition says it token by token."""
    draw = random.Random(seed)
    tokens: list[Tokens] = []
    for _ in range(60):
        passage = [draw.randrange(3, 3 + draw.choice([2, 5, 30000])) for _ in range(draw.randrange(40))]
        for _ in range(draw.randrange(1, 6)):
            rest = [draw.randrange(3, 6) for _ in range(draw.randrange(20))]
            ids = [1, *passage[: draw.choice([len(passage), 8])], *rest, 2]
            tokens.append(Tokens(str(len(tokens)), ids, draw.randrange(1, len(ids))))
    budget = draw.choice([20, 64, 128, 1024])
    found = [(family.prefix, [item.id for item in family.members]) for family in find_families(tokens, budget)]
    assert found == [(prefix, [item.id for item in members]) for prefix, members in by_definition(tokens, budget)]


def by_definition(tokens: list[Tokens], budget: int) -> list[tuple[int, list[Tokens]]]:
    families: list[tuple[int, list[Tokens]]] = []
    for item in sorted(tokens, key=lambda item: array("I", item.input_ids).tobytes()):
        if families:
            before, members = families[-1]
            pairs = zip(members[0].input_ids, item.input_ids, strict=False)
            alike = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
            prefix = min([alike, *(m.prompt_length for m in [*members, item]), *([before] if before else [])])
            lengths = [len(m.input_ids) for m in [*members, item]]
            cost = sum(lengths) - (len(lengths) - 1) * prefix
            alone = sum(lengths) - (len(members) - 1) * before
            half = all(2 * prefix >= length for length in lengths)
            if half and cost <= budget and sum(lengths) <= 4 * budget and cost < alone:
                families[-1] = (prefix, [*members, item])
                continue
        families.append((0, [item]))
    return sorted(families, key=lambda family: min(int(item.id) for item in family[1]))


def test_a_family_fits_a_batch() -> None:
    families = find_families(questions(2, 30, random.Random(4)), 120)
    assert all(family.num_tokens <= 120 for family in families)
    assert sum(len(family.members) for family in families) == 60


def test_a_template_alone_makes_no_family_and_order_stays() -> None:
    tokens = questions(20, 1, random.Random(5))
    assert [family.members for family in find_families(tokens, 1000)] == [(item,) for item in tokens]


def test_a_prefix_ends_before_the_first_target() -> None:
    """Two rows with the same prompt and answers that begin alike."""
    twins = [Tokens("a", [1, 2, 3, 4, 5, 6, 9, 7], 6), Tokens("b", [1, 2, 3, 4, 5, 6, 9, 8], 6)]
    (family,) = find_families(twins, 100)
    assert family.prefix == 6
    assert collate([family]).num_targets == sum(label != IGNORE for t in twins for label in t.labels)
