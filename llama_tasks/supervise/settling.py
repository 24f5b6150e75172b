"""What a recipe leaves open is settled and written out before a run begins, so that a resumed run and a reader find it: commits
of the Hub, precision, learning rate, whether the base must learn to end a text; and the prompt contract that follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llama_tasks import adapters, parallel, rundir, score, tasks
from llama_tasks.clean import hook_sha256
from llama_tasks.contract import PromptContract, hash_of, options_of, special_ids, tokenizer_sha256
from llama_tasks.dataset import Dataset
from llama_tasks.errors import RecipeError
from llama_tasks.model.attention_packed import SHARES_PREFIXES
from llama_tasks.recipe import BaseConfig, DistillConfig, Recipe
from llama_tasks.recipe.decoding_fields import settings
from llama_tasks.sources import pin

END_SAMPLE = 32  # examples on which a base shows whether it knows how to end
# Share of the vocabulary above EOS at the end of a text: 0.00 to 0.02 on the embedded base, 0.73 to 0.94 on bases of
# llama2.c, which never met EOS.
NEVER_LEARNED = 0.5


def pin_all(recipe: Recipe, resumed: rundir.RunDirectory | None) -> Recipe:
    """`pin_like` with the recipe of the run that is resumed."""
    return pin_like(recipe, resumed.recipe() if resumed is not None else None)


def pin_like(recipe: Recipe, before: Recipe | None) -> Recipe:
    """The recipe with Hub revisions as commits and precisions by name; what goes on keeps those that it began with (`before`).

    All weights are trained in float32 unless the recipe says otherwise: small updates vanish in bfloat16.
    """
    base, data, adapter = recipe.base, recipe.data, recipe.adapter
    if before is not None:
        learned = {key: value for key, value in (before.adapter or {}).items() if key == "trainable_token_indices"}
        adapter = {**learned, **adapter} if adapter is not None else None
        if base.model == before.base.model:
            base = replace(base, revision=base.revision or before.base.revision)
        data = replace(data, revision=data.revision or before.data.revision)
    if recipe.adapter is None and base.dtype == "auto":
        base = replace(base, dtype="float32")
    base = replace(base, dtype=_precision(base.dtype, before.base.dtype if before is not None else None))
    distill = _pin_teacher(recipe.distill, before.distill if before is not None else None)
    return replace(recipe, base=adapters.pin(base), data=pin(data), adapter=adapter, distill=distill)


def _precision(asked: str, before: str | None) -> Any:
    """What `auto` means on this device; or in what went before, where runs of earlier versions say `auto` themselves."""
    if asked != "auto":
        return asked
    return before or str(adapters.resolve_dtype(asked, parallel.process().device)).removeprefix("torch.")


def _pin_teacher(distill: DistillConfig | None, before: DistillConfig | None) -> DistillConfig | None:
    if distill is None:
        return None
    pinned = before.revision if before is not None and before.teacher == distill.teacher else None
    revision = adapters.pin(BaseConfig(distill.teacher, distill.revision or pinned)).revision
    dtype = _precision(distill.dtype, before.dtype if before is not None else None)
    return replace(distill, revision=revision, dtype=dtype)


def settle(recipe: Recipe, base: Any, dataset: Dataset, resume: bool = False) -> Recipe:
    """The recipe with everything derived written out: learning rate, labels, commit of the base, whether the adapter learns
    EOS (a resumed run has that from its own recipe). Raises RecipeError."""
    config = base.config
    limit = config.max_position_embeddings
    if recipe.prompt.max_length > limit:
        raise RecipeError(
            f"prompt.max_length is {recipe.prompt.max_length}, but the base {recipe.base.model!r} was made for {limit} tokens."
        )
    if recipe.base.config is not None:
        _same_ends(config, dataset.encoder.tokenizer)
    if len(dataset.encoder.tokenizer) > base.get_input_embeddings().num_embeddings:
        raise RecipeError(
            f"The tokenizer has {len(dataset.encoder.tokenizer)} tokens, more than the base's embedding "
            f"({base.get_input_embeddings().num_embeddings})."
        )
    share = recipe.train.share_prefixes
    if recipe.train.neftune_noise_alpha or recipe.train.fgm_epsilon:
        if share is True:
            raise RecipeError(
                "train.share_prefixes computes a common beginning once, and train.neftune_noise_alpha and train.fgm_epsilon "
                "give every example its own; leave one out."
            )
        share = False
    if share == "auto" and config._attn_implementation not in SHARES_PREFIXES:
        share = False
    if share is True and config._attn_implementation not in SHARES_PREFIXES:
        raise RecipeError(
            f"train.share_prefixes needs base.attn_implementation {' or '.join(SHARES_PREFIXES)}, not "
            f"{config._attn_implementation}."
        )
    rate = recipe.train.learning_rate
    if rate == "auto":
        if recipe.adapter is None:
            raise RecipeError(
                "train.learning_rate: auto is a rule for LoRA; write a number where all weights are trained."
            )
        if "adam" not in recipe.train.optim.lower():
            raise RecipeError(
                f"train.learning_rate: auto is a rule for Adam and its kin; write a number for {recipe.train.optim}."
            )
        rate = float(f"{adapters.auto_learning_rate(config.hidden_size):.3g}")
    return replace(
        recipe,
        data=replace(recipe.data, labels=dataset.labels or None),
        prompt=replace(recipe.prompt, template=dict(dataset.renderer.templates)),
        adapter=recipe.adapter if resume else learn_to_stop(recipe, base, dataset),
        train=replace(recipe.train, learning_rate=rate, share_prefixes=share),
    )


def _same_ends(config: Any, tokenizer: Any) -> None:
    """Raise RecipeError where a new model would begin or end texts by another token than it is trained with."""
    for name in ("bos_token_id", "eos_token_id"):
        wanted, given = getattr(tokenizer, name), getattr(config, name)
        if wanted is not None and wanted not in (given if isinstance(given, list) else [given]):
            raise RecipeError(f"base.config.{name} is {given}, and the tokenizer's is {wanted}; write that.")


def learn_to_stop(recipe: Recipe, base: Any, dataset: Dataset) -> dict[str, Any] | None:
    """The recipe's adapter; on a base that never met EOS it also trains the row that scores EOS.

    LoRA turns the hidden state, but the row of the head that scores EOS is frozen. In a base whose pre-training had no
    EOS (llama2.c's, many a chat token of a base model) that row is as low as all unused ones, and however long LoRA is
    trained no output ends. The row stands in the embedding where the head is tied to it. A recipe that names
    `trainable_token_indices` itself (null: none), or trains embedding or head, is left alone.
    """
    adapter, eos = recipe.adapter, dataset.encoder.eos
    ended = [item for item in dataset.train.tokens if item.input_ids[-1:] == eos and len(item.input_ids) > 1]
    if adapter is None or "trainable_token_indices" in adapter or not ended:
        return adapter
    if not hasattr(adapters.adapter_config(adapter), "trainable_token_indices") or adapters.reaches_vocabulary(adapter):
        return adapter
    if score.rank_of_end(base, ended[:: -(-len(ended) // END_SAMPLE)]) < NEVER_LEARNED:
        return adapter
    tied = base.config.tie_word_embeddings
    return {**adapter, "trainable_token_indices": list(eos) if tied else {"lm_head": list(eos)}}


def make_contract(recipe: Recipe, dataset: Dataset) -> PromptContract:
    """The prompt contract of a run, with its shortest training example (never a shortened one) as the sample."""
    tokenizer = dataset.encoder.tokenizer
    first = min(dataset.train.tokens, key=lambda item: len(item.input_ids))
    whole = (first.id, first.id.rpartition(".")[0])  # of plain text, the tokens are a numbered block of it
    prompt = next(p for p in dataset.prompts["train"] if p.example.id in whole)
    return PromptContract(
        task=dataset.task.name,
        task_sha256=tasks.source_sha256(recipe.task),
        template=dict(dataset.renderer.templates),
        template_sha256=hash_of(dict(dataset.renderer.templates)),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        hook_sha256=hook_sha256(recipe.clean.hook),
        special_ids=special_ids(tokenizer),
        max_length=recipe.prompt.max_length,
        labels=list(dataset.labels),
        options=options_of(recipe),
        sample={"prompt": prompt.segments[0], "response": prompt.segments[1], "input_ids": list(first.input_ids),
                "prompt_length": first.prompt_length, "variant": prompt.example.variant,
                **{key: value for key, value in prompt.example.fields.items() if key == "labels"},
                **dataset.encoder.pieces(prompt)},
        decoding={"num_beams": 1, "do_sample": False, **settings(recipe.eval)},
    )  # fmt: skip
