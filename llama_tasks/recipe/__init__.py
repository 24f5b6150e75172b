"""What a run is told: strict typed loading, dotted overrides, "did you mean".

fields.py           Recipe and Suite, field by field        loading.py      from their files, and as YAML again
decoding_fields.py  how outputs are made, checked           suites.py       a suite file of several sets
typed_yaml.py       YAML into declared types
"""

from __future__ import annotations

from llama_tasks.recipe.fields import (
    TASKS,
    BaseConfig,
    CleanConfig,
    DataConfig,
    DistillConfig,
    PromptConfig,
    Recipe,
    Suite,
    TrainConfig,
)
from llama_tasks.recipe.loading import dump, leaves, load_recipe, load_suite

__all__ = [
    "TASKS",
    "BaseConfig",
    "CleanConfig",
    "DataConfig",
    "DistillConfig",
    "PromptConfig",
    "Recipe",
    "Suite",
    "TrainConfig",
    "dump",
    "leaves",
    "load_recipe",
    "load_suite",
]
