"""Properties of packed batches over random examples: the mathematics of one example at a time, nobody moved by a neighbour,
every example once, batches that nothing left could have joined."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_tasks.model import NativeLlamaConfig, NativeLlamaForCausalLM
from llama_tasks.packing import Batch, Family, collate, pack
from llama_tasks.packing.plan import MemoryPlan, families_of, find_families, plan_epoch
from llama_tasks.recipe import TrainConfig
from llama_tasks.tokens import IGNORE, Tokens

VOCABULARY = 48
ids = st.integers(3, VOCABULARY - 1)


@st.composite
def examples(draw: st.DrawFn) -> list[Tokens]:
    """Up to nine examples: some begin with one of two passages, all with prompt, answer and now and then a later question
    without loss and a weight."""
    passages = [draw(st.lists(ids, min_size=6, max_size=20)) for _ in range(2)]
    made = []
    for i in range(draw(st.integers(1, 9))):
        stem = draw(st.sampled_from([*passages, []]))
        asked = draw(st.lists(ids, min_size=1, max_size=5))
        answer = draw(st.lists(ids, min_size=2, max_size=12))
        head = len(stem) + len(asked)
        ignored = ()
        if len(answer) > 4 and draw(st.booleans()):
            first = head + draw(st.integers(1, 2))
            ignored = ((first, first + draw(st.integers(1, 2))),)
        weight = draw(st.sampled_from([1.0, 1.0, 0.25, 3.0]))
        made.append(Tokens(str(i), [*stem, *asked, *answer], head, ignored, weight))
    return made


@pytest.fixture(scope="module")
def model() -> NativeLlamaForCausalLM:
    torch.manual_seed(0)
    config = NativeLlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return NativeLlamaForCausalLM(config).float()


def gradients(model: NativeLlamaForCausalLM, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Loss and gradients of the sum over all batches, divided by all targets."""
    model.zero_grad(set_to_none=True)
    targets = sum(batch.num_targets for batch in batches)
    total = torch.zeros(())
    for batch in batches:
        loss = model(**batch.inputs(), labels=batch.labels, num_items_in_batch=targets, skip_logits=True).loss
        loss.backward()
        total += loss.detach()
    return {"loss": total} | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@settings(max_examples=25, deadline=None)
@given(items=examples(), budget=st.integers(24, 200))
def test_packed_and_shared_batches_are_the_mathematics_of_one_example_at_a_time(
    model: NativeLlamaForCausalLM, items: list[Tokens], budget: int
) -> None:
    plain = gradients(model, [collate([item]) for item in items])
    for families in ([Family((item,)) for item in items], find_families(items, budget)):
        plan = pack([family.num_tokens for family in families], budget)
        found = gradients(model, [collate([families[i] for i in batch]) for batch in plan])
        assert found.keys() == plain.keys()
        for name, value in plain.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(items=examples(), data=st.data())
def test_changing_a_document_moves_no_logit_of_another(
    model: NativeLlamaForCausalLM, items: list[Tokens], data: st.DataObject
) -> None:
    """To the bit, also among documents that continue one prefix."""
    families = find_families(items, 10_000)
    at = data.draw(st.integers(0, len(families) - 1))
    family = families[at]
    member = data.draw(st.integers(0, len(family.members) - 1))
    own = family.members[member]
    other = [3 + (token - 2) % (VOCABULARY - 3) for token in own.input_ids[family.prefix :]]
    changed = replace(own, input_ids=own.input_ids[: family.prefix] + other)
    members = tuple(changed if i == member else item for i, item in enumerate(family.members))
    batches = [collate([replace(f, members=members) if i == at and new else f for i, f in enumerate(families)])
               for new in (False, True)]  # fmt: skip
    with torch.inference_mode():
        before, after = (model(**batch.inputs()).logits[0] for batch in batches)
    number = sum(len(f.members) for f in families[:at]) + member
    document = int(batches[0].own_documents[number])
    start, end = batches[0].cu_seq_lens[document : document + 2].tolist()
    assert torch.equal(before[:start], after[:start])
    assert torch.equal(before[end:], after[end:])
    assert not torch.equal(before[start:end], after[start:end])


@settings(max_examples=100, deadline=None)
@given(items=examples())
def test_labels_and_weights_stand_at_their_tokens(items: list[Tokens]) -> None:
    batch = collate(find_families(items, 10_000))
    weights = torch.ones_like(batch.labels, dtype=torch.float32) if batch.loss_weights is None else batch.loss_weights
    assert (batch.loss_weights is None) == all(item.weight == 1.0 for item in items)
    assert weights.shape == batch.labels.shape
    kept = {item.id: item for item in items}
    for name, document in zip(batch.ids, batch.own_documents.tolist(), strict=True):
        start, end = batch.cu_seq_lens[document : document + 2].tolist()
        labels = kept[name].labels[len(kept[name].labels) - (end - start) :]
        assert batch.labels[0, start:end].tolist() == labels
        assert set(weights[0, start:end].tolist()) == {kept[name].weight}
    expected = [item.weight for item in items for label in item.labels if label != IGNORE]
    assert batch.num_targets == len(expected)
    assert batch.target_weight == pytest.approx(math.fsum(expected))


lengths = st.lists(st.one_of(st.integers(1, 130), st.integers(1, 9)), min_size=1, max_size=200)


@settings(max_examples=200, deadline=None)
@given(lengths=lengths, budget=st.integers(20, 120))
def test_pack_holds_everything_once_and_leaves_no_room_that_somebody_fits(lengths: list[int], budget: int) -> None:
    batches = pack(lengths, budget)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in batch) for batch in batches]
    assert all(total <= budget or len(batch) == 1 for total, batch in zip(sums, batches, strict=True))
    for at, total in enumerate(sums[:-1]):
        assert total + min(lengths[i] for i in itertools.chain(*batches[at + 1 :])) > budget
    assert pack(lengths, budget) == batches


@settings(max_examples=100, deadline=None)
@given(lengths=lengths, seed=st.integers(0, 2**31), world=st.sampled_from([2, 4]))
def test_an_epoch_is_the_same_for_a_seed_and_any_world_size(lengths: list[int], seed: int, world: int) -> None:
    tokens = [Tokens(str(i), [5] * n, 1) for i, n in enumerate(lengths)]
    config = TrainConfig(num_train_epochs=1, tokens_per_batch=100, seed=seed, share_prefixes=False)
    one, many = (MemoryPlan(tokens, config, per_step) for per_step in (1, world))
    assert [b for _, step in one.steps for b in step] == [b for _, step in many.steps for b in step]
    assert sorted(i for _, step in one.steps for batch in step for i in batch) == list(range(len(lengths)))
    assert plan_epoch(lengths, 100, seed, 0) == [b for _, step in one.steps for b in step]


@settings(max_examples=100, deadline=None)
@given(items=examples(), budget=st.integers(10, 100))
def test_families_hold_every_example_once_and_share_only_prompts(items: list[Tokens], budget: int) -> None:
    families = find_families(items, budget)
    assert sorted(m.id for f in families for m in f.members) == sorted(item.id for item in items)
    for family in families:
        assert len(family.members) == 1 or family.num_tokens <= budget
        for member in family.members:
            assert member.input_ids[: family.prefix] == family.members[0].input_ids[: family.prefix]
            assert family.prefix <= member.prompt_length
            assert len(family.members) == 1 or 2 * family.prefix >= len(member.input_ids)
    shared, saved = families_of(items, TrainConfig(tokens_per_batch=budget))
    computed, laid_out = sum(f.num_tokens for f in shared), sum(f.num_laid_out for f in shared)
    assert saved == pytest.approx(1 - computed / laid_out)
    assert saved == 0 or saved >= 0.25
