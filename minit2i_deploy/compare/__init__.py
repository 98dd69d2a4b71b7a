"""Two bundles on the same prompts, noise and table: where they part, and what it costs."""

from __future__ import annotations

from minit2i_deploy.compare.measure import CompareSettings, compare
from minit2i_deploy.compare.report import Comparison
from minit2i_deploy.compare.sides import Side, check_comparable
from minit2i_deploy.compare.tasks import Task, caption_tasks, is_shapes_model, prompt_tasks

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
