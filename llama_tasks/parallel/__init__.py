"""Several processes: what the launcher asked for made true, and a model that is cut over them in one piece and back."""

from llama_tasks.parallel.processes import (
    backward,
    clip,
    is_deepspeed,
    is_lost,
    is_spread,
    layout,
    make_accelerator,
    needs_others,
    parameters_of,
    prepare,
    put_weights,
    spread,
    spread_like,
    whole,
    whole_weights,
    will_spread,
)
from llama_tasks.parallel.zero import shape_of

__all__ = [
    "backward",
    "clip",
    "is_deepspeed",
    "is_lost",
    "is_spread",
    "layout",
    "make_accelerator",
    "needs_others",
    "parameters_of",
    "prepare",
    "put_weights",
    "shape_of",
    "spread",
    "spread_like",
    "whole",
    "whole_weights",
    "will_spread",
]
