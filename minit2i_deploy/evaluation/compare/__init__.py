"""Two bundles on the same prompts, noise and table: where they part, and what it costs."""

from __future__ import annotations

from minit2i_deploy.evaluation.compare.comparison import CompareSettings, compare
from minit2i_deploy.evaluation.compare.prompt_set import (
    Task,
    caption_tasks,
    is_shapes_model,
    prompt_tasks,
)
from minit2i_deploy.evaluation.compare.report import Comparison
from minit2i_deploy.evaluation.compare.subjects import Side, check_comparable

__all__ = [
    "CompareSettings",
    "Comparison",
    "Side",
    "Task",
    "caption_tasks",
    "check_comparable",
    "compare",
    "is_shapes_model",
    "prompt_tasks",
]
