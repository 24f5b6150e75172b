"""What is added to the loss: each term equals plain torch over one example at a time, however batches are made, and does what it
is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from loops import BASE, CONFIG, ONE_STEP, TINY, assert_resumes_exactly, examples, families
from tiny import make_base
from torch import Tensor

from llama_tasks import adapters
from llama_tasks.errors import RecipeError
from llama_tasks.model import loss as model_loss
from llama_tasks.packing import collate
from llama_tasks.recipe import BaseConfig, DistillConfig, Recipe, TrainConfig
from llama_tasks.tokens import Tokens
from llama_tasks.train import Training, distillation
from llama_tasks.train.perturbation import Perturbation

Term = Callable[[Tensor, int], Tensor]  # (logits [V] of a position, its target) -> loss
WAYS = {"one batch": (10_000, 1), "accumulated": (60, 100), "one a batch": (1, 100)}


@pytest.fixture
def few_logits_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss is of several chunks."""
    monkeypatch.setattr(model_loss, "ROWS_PER_CHUNK", 7)
    monkeypatch.setattr(model_loss, "LOGITS_PER_CHUNK", {"cpu": 1, "other": 1})


def weighted(tokens: list[Tokens]) -> list[Tokens]:
    """Every third example counts half, as class weights have it."""
    return [replace(item, weight=0.5) if i % 3 == 0 else item for i, item in enumerate(tokens)]


def make(
    config: TrainConfig,
    tokens: list[Tokens],
    teacher: distillation.Teacher | None = None,
    adapter: dict[str, Any] | None = None,
) -> Training:
    set_seed(5)
    fields = {"r": 4, "lora_alpha": 8, "init_lora_weights": False} if adapter is None else adapter
    model = adapters.attach(adapters.load_base(BASE), fields, BASE)
    return Training(model, tokens, config, Accelerator(), float(config.learning_rate), teacher)


def make_teacher(**settings: Any) -> distillation.Teacher:
    torch.manual_seed(9)
    config = {**TINY, "hidden_size": 48, "num_hidden_layers": 3, "vocab_size": 70, "initializer_range": 0.3}
    model = adapters.load_base(BaseConfig(config=config))
    return distillation.Teacher(model, DistillConfig("", **settings))


def memorise(teacher: distillation.Teacher | None = None, **settings: Any) -> tuple[Training, list[Tokens]]:
    """All weights, over three examples, until they are known; and those."""
    tokens = examples(3)
    set_seed(5)
    config = replace(CONFIG, num_train_epochs=40, tokens_per_batch=500, learning_rate=2e-2, **settings)
    run = Training(adapters.attach(adapters.load_base(BASE), None, BASE), tokens, config, Accelerator(), 2e-2, teacher)
    list(run.run())
    run.model.eval()
    return run, tokens


def step_of(run: Training) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first step, as the loop makes them."""
    found: dict[str, Tensor] = {}
    for name, weight in run.model.named_parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda p, name=name: found.update({name: p.grad.clone()}))
    return next(run.run()).loss, found


def targets_of(item: Tokens) -> Iterator[tuple[int, int]]:
    return ((i, label) for i, label in enumerate(item.labels) if i and label >= 0)


def plain_step(
    run: Training, tokens: list[Tokens], loss_of: Callable[[Any, Tokens], Tensor]
) -> tuple[float, dict[str, Tensor]]:
    """The same by autograd over one example at a time: sum of weighted losses / sum of weights."""
    count = sum(item.weight for item in tokens for _ in targets_of(item))
    total = torch.zeros(())
    run.model.zero_grad()
    for item in tokens:
        loss = item.weight * loss_of(run.model, item) / count
        loss.backward()
        total += loss.detach()
    gradients = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
    run.model.zero_grad()
    return float(total), gradients


def by_terms(term: Term) -> Callable[[Any, Tokens], Tensor]:
    def loss_of(model: Any, item: Tokens) -> Tensor:
        logits = model(input_ids=torch.tensor([item.input_ids])).logits[0]
        return torch.stack([term(logits[i - 1], label) for i, label in targets_of(item)]).sum()

    return loss_of


def assert_same(found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]) -> None:
    """To 1e-6 of the loss, and of the gradient as one vector."""
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    apart = [(found[1][name] - gradient).flatten() for name, gradient in expected[1].items()]
    whole = [gradient.flatten() for gradient in expected[1].values()]
    assert torch.cat(apart).norm() < 1e-6 * torch.cat(whole).norm()


def smooth(logits: Tensor, target: int) -> Tensor:
    """0.9 on the target, 0.1 spread over the vocabulary."""
    log_p = logits.log_softmax(-1)
    return -0.9 * log_p[target] - 0.1 * log_p.mean()


# --- label smoothing -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_logits_at_a_time")
@pytest.mark.parametrize("way", WAYS)
def test_label_smoothing_is_that_of_one_example_at_a_time(way: str) -> None:
    size, rounds = WAYS[way]
    tokens = weighted(examples(12))
    config = replace(ONE_STEP, label_smoothing_factor=0.1, tokens_per_batch=size, gradient_accumulation_steps=rounds)
    run = make(config, tokens)
    assert_same(step_of(make(config, tokens)), plain_step(run, tokens, by_terms(smooth)))


@pytest.mark.usefixtures("few_logits_at_a_time")
@pytest.mark.parametrize("adapter", [{"r": 2, "target_modules": ["lm_head"], "init_lora_weights": False}, None])
def test_label_smoothing_under_shared_prefixes_and_an_adapted_head(adapter: dict[str, Any] | None) -> None:
    tokens = weighted(families())
    config = replace(ONE_STEP, label_smoothing_factor=0.1, tokens_per_batch=10_000, share_prefixes=True)
    run = make(config, tokens, adapter=adapter)
    assert run.plan.saved > 0.5
    assert_same(step_of(make(config, tokens, adapter=adapter)), plain_step(run, tokens, by_terms(smooth)))


def test_label_smoothing_trains_the_head_and_the_embedding_too() -> None:
    """The loss with its gradient written out, by the weight it multiplies."""
    torch.manual_seed(1)
    head, hidden = torch.nn.Linear(16, 50, bias=False), torch.randn(20, 16, requires_grad=True)
    targets, weights = torch.randint(50, (20,)), torch.rand(20)
    found = model_loss.sum_of_losses(head, hidden, targets, weights, smoothing=0.2)
    grads = torch.autograd.grad(found, (hidden, head.weight))
    losses = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none", label_smoothing=0.2)
    expected = (weights * losses).sum()
    torch.testing.assert_close(found, expected)
    for gradient, wanted in zip(grads, torch.autograd.grad(expected, (hidden, head.weight)), strict=True):
        torch.testing.assert_close(gradient, wanted)


def confidence(run: Training, tokens: list[Tokens]) -> float:
    with torch.no_grad():
        logits = [
            run.model(input_ids=torch.tensor([item.input_ids])).logits[0, 1:-1] for item in tokens
        ]  # at the targets
    return float(torch.cat(logits).softmax(-1).amax(-1).mean())


def test_label_smoothing_lowers_confidence() -> None:
    sure, smoothed = memorise(), memorise(label_smoothing_factor=0.3)
    assert confidence(*smoothed) < confidence(*sure) - 0.1


# --- noise and attack ------------------------------------------------------------------------------------------------


def embedded(model: Any, item: Tokens) -> Tensor:
    return model.get_input_embeddings()(torch.tensor([item.input_ids])).detach()


def cross_entropy(model: Any, item: Tokens, inputs: Tensor) -> Tensor:
    log_p = model(inputs_embeds=inputs).logits[0].log_softmax(-1)
    return -torch.stack([log_p[i - 1, label] for i, label in targets_of(item)]).sum()


@pytest.mark.usefixtures("few_logits_at_a_time")
@pytest.mark.parametrize("way", WAYS)
def test_noise_is_that_of_one_example_at_a_time(way: str) -> None:
    size, rounds = WAYS[way]
    tokens = weighted(examples(12))
    config = replace(ONE_STEP, neftune_noise_alpha=5.0, tokens_per_batch=size, gradient_accumulation_steps=rounds)
    run = make(config, tokens)

    def loss_of(model: Any, item: Tokens) -> Tensor:
        return cross_entropy(model, item, embedded(model, item) + run.perturbation._noise(collate([item]), 0))

    assert_same(step_of(make(config, tokens)), plain_step(run, tokens, loss_of))


def test_noise_is_scaled_by_the_documents_own_length() -> None:
    """Uniform within alpha / sqrt(L d), new in every epoch and for every seed, and gone outside of a training pass."""
    run = make(replace(ONE_STEP, neftune_noise_alpha=5.0), examples())
    items = [Tokens(f"train:{n}", [5] * n, 2) for n in (4, 100)]
    noise = run.perturbation._noise(collate(items), 0)[0]
    for part, length in zip(noise.split([4, 100]), (4, 100), strict=True):
        bound = 5.0 / (length * 32) ** 0.5
        assert 0.9 * bound < part.abs().max() <= bound
        assert abs(float(part.mean())) < 0.1 * bound
    assert not torch.equal(noise, run.perturbation._noise(collate(items), 1)[0])
    other = Perturbation(run.model, replace(ONE_STEP, neftune_noise_alpha=5.0, seed=4))
    assert not torch.equal(noise, other._noise(collate(items), 0)[0])
    ids = torch.tensor([items[0].input_ids])
    quiet = run.model(input_ids=ids).logits
    torch.testing.assert_close(quiet, make(ONE_STEP, examples()).model(input_ids=ids).logits, atol=0, rtol=0)


def attacked(model: Any, item: Tokens, epsilon: float) -> Tensor:
    inputs = embedded(model, item).requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model, item, inputs), inputs)
    return cross_entropy(model, item, inputs.detach() + epsilon * gradient / gradient.norm())


@pytest.mark.usefixtures("few_logits_at_a_time")
@pytest.mark.parametrize("way", WAYS)
def test_the_attack_is_that_of_one_example_at_a_time(way: str) -> None:
    size, rounds = WAYS[way]
    tokens = weighted(examples(12))
    config = replace(ONE_STEP, fgm_epsilon=0.01, tokens_per_batch=size, gradient_accumulation_steps=rounds)
    run = make(config, tokens)

    def loss_of(model: Any, item: Tokens) -> Tensor:
        return cross_entropy(model, item, embedded(model, item)) + attacked(model, item, 0.01)

    assert_same(step_of(make(config, tokens)), plain_step(run, tokens, loss_of))


def test_adversarial_training_resists_the_attack() -> None:
    harm = []
    for epsilon in (None, 0.05):
        run, tokens = memorise(fgm_epsilon=epsilon)
        clean = sum(float(cross_entropy(run.model, item, embedded(run.model, item)).detach()) for item in tokens)
        harm.append(sum(float(attacked(run.model, item, 0.05).detach()) for item in tokens) - clean)
    assert 0 < harm[1] < 0.9 * harm[0]


def test_noise_and_attack_resume_exactly(tmp_path: Path) -> None:
    config = replace(CONFIG, neftune_noise_alpha=5.0, fgm_epsilon=0.02, label_smoothing_factor=0.1)
    assert_resumes_exactly(tmp_path, 9, config=config, dropout=0.1)  # in the second epoch


def test_noise_changes_a_run_of_all_weights() -> None:
    """Where the embedding itself is trained, it learns under the noise, and gradients pass through it."""
    found = []
    for alpha in (None, 5.0):
        set_seed(5)
        model = adapters.attach(adapters.load_base(BASE), None, BASE)
        run = Training(
            model, examples(6), replace(ONE_STEP, neftune_noise_alpha=alpha, fgm_epsilon=0.01), Accelerator(), 1e-2
        )
        found.append(step_of(run)[1]["model.embed_tokens.weight"])
    assert found[0].any() and found[1].any() and not torch.equal(*found)


# --- distillation ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_logits_at_a_time")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_distillation_is_that_of_one_example_at_a_time(shared: bool, smoothing: float) -> None:
    """Over the words that both have: this teacher's embedding is wider."""
    teacher = make_teacher(temperature=3.0, alpha=0.7)
    tokens = weighted(families())
    config = replace(ONE_STEP, tokens_per_batch=120, gradient_accumulation_steps=100, share_prefixes=shared,
                     label_smoothing_factor=smoothing)  # fmt: skip
    run = make(config, tokens)

    def loss_of(model: Any, item: Tokens) -> Tensor:
        ids = torch.tensor([item.input_ids])
        logits, wanted = model(input_ids=ids).logits[0], teacher.model(input_ids=ids).logits[0, :, :64].detach()
        p, log_q = (wanted / 3.0).softmax(-1), (logits / 3.0).log_softmax(-1)
        kl = (p * (p.log() - log_q)).sum(-1)
        log_p = logits.log_softmax(-1)
        hard = [
            -(1 - smoothing) * log_p[i - 1, label] - smoothing * log_p[i - 1].mean() for i, label in targets_of(item)
        ]
        soft = [kl[i - 1] for i, _ in targets_of(item)]
        return 0.3 * torch.stack(hard).sum() + 0.7 * 9.0 * torch.stack(soft).sum()

    assert_same(step_of(make(config, tokens, teacher)), plain_step(run, tokens, loss_of))


def divergence(run: Training, teacher: distillation.Teacher, tokens: list[Tokens]) -> float:
    total = 0.0
    with torch.no_grad():
        for item in tokens:
            ids = torch.tensor([item.input_ids])
            p = teacher.model(input_ids=ids).logits[0, :, :64].softmax(-1)
            total += float((p * (p.log() - run.model(input_ids=ids).logits[0].log_softmax(-1))).sum(-1).mean())
    return total / len(tokens)


def test_a_student_comes_closer_to_its_teacher() -> None:
    """Nearer than before, and nearer than by the targets alone; the teacher stays as it is."""
    teacher = make_teacher(alpha=0.9)
    before = {name: weight.clone() for name, weight in teacher.model.state_dict().items()}
    untrained = divergence(make(CONFIG, examples(3)), teacher, examples(3))
    alone, taught = (divergence(run, teacher, tokens) for run, tokens in (memorise(), memorise(teacher)))
    assert taught < 0.7 * untrained and taught < 0.7 * alone
    after = teacher.model.state_dict()
    assert not teacher.model.training and all(torch.equal(weight, before[name]) for name, weight in after.items())


def test_a_teacher_in_four_bits_is_loaded_and_teaches(tmp_path: Path) -> None:
    base = str(make_base(tmp_path / "base"))
    tokenizer = adapters.load_tokenizer(BaseConfig(base))
    recipe = Recipe("summarize", base=BaseConfig(base), distill=DistillConfig("embedded", quantization="nf4"))
    teacher = distillation.load_teacher(
        replace(recipe, prompt=replace(recipe.prompt, max_length=128)), tokenizer, "cpu"
    )
    assert teacher is not None and teacher.model.is_loaded_in_4bit
    set_seed(1)
    student = adapters.attach(adapters.load_base(recipe.base), {"r": 4}, recipe.base)
    reports = list(
        Training(student, examples(8), replace(CONFIG, num_train_epochs=8), Accelerator(), 2e-2, teacher).run()
    )
    assert reports[-1].loss < reports[0].loss


def test_a_teacher_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    import json

    place = make_base(tmp_path / "teacher")
    tree = json.loads((place / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tree["model"]["vocab"]
    one, other = list(vocabulary)[4000:4002]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (place / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    recipe = Recipe("summarize", distill=DistillConfig(str(place)))
    with pytest.raises(RecipeError, match="has another tokenizer than 'embedded'.* 2 tokens differ"):
        distillation.load_teacher(recipe, adapters.load_tokenizer(BaseConfig()), "cpu")


def test_a_teacher_of_shorter_texts_is_refused(tmp_path: Path) -> None:
    place = make_base(tmp_path / "teacher")
    with pytest.raises(RecipeError, match=r"prompt\.max_length is 512.*was made for 256"):
        distillation.load_teacher(
            Recipe("summarize", distill=DistillConfig(str(place))), adapters.load_tokenizer(BaseConfig()), "cpu"
        )
