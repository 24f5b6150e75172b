"""What a recipe leaves open: written out when a run begins, taken from there when it is resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_tasks.recipe import BaseConfig, DistillConfig, Recipe
from llama_tasks.supervise.settling import pin_like

RECIPE = Recipe(task="text", base=BaseConfig("org/base"), distill=DistillConfig("org/teacher"))


def begun(dtype: str) -> Recipe:
    """What a run wrote out, on a device that computes in `dtype`."""
    base = replace(RECIPE.base, revision="a" * 40, dtype=dtype)
    return replace(RECIPE, base=base, distill=replace(RECIPE.distill, revision="b" * 40, dtype=dtype))


def test_precisions_are_written_out() -> None:
    pinned = pin_like(RECIPE, None)
    assert pinned.base.dtype == pinned.distill.dtype == "float32"  # of this CPU


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_a_resumed_run_keeps_commits_and_precisions(dtype: str) -> None:
    """Of a GPU, though this is a CPU; and `auto`, which runs of earlier versions wrote."""
    assert pin_like(RECIPE, begun(dtype)) == begun(dtype)


def test_what_is_asked_for_is_not_changed() -> None:
    """So that a resume with another value is refused."""
    asked = replace(RECIPE, base=replace(RECIPE.base, revision="c" * 40, dtype="float16"))
    assert pin_like(asked, begun("bfloat16")).base == asked.base
