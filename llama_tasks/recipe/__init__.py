"""What a run is told: strict typed loading, dotted overrides, "did you mean".

fields.py           Recipe and Suite, field by field        typed_yaml.py   YAML into declared types
decoding_fields.py  how outputs are made, checked           suites.py       a suite file of several sets
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
    dump,
    leaves,
    load_recipe,
    load_suite,
)

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
