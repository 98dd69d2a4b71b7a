"""Compare two bundles on the same prompts, noise and table."""

from __future__ import annotations

from minit2i_deploy.evaluation.compare.comparison import CompareSettings, compare
from minit2i_deploy.evaluation.compare.comparison_result import Comparison
from minit2i_deploy.evaluation.compare.contenders import Contender, check_comparable
from minit2i_deploy.evaluation.compare.prompt_cases import (
    PromptCase,
    caption_cases,
    is_shapes_model,
    prompt_cases,
)

__all__ = [
    "CompareSettings",
    "Comparison",
    "Contender",
    "PromptCase",
    "caption_cases",
    "check_comparable",
    "compare",
    "is_shapes_model",
    "prompt_cases",
]
