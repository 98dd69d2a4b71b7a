"""Several bundles against one reference, on the same prompts, noise and table."""

from __future__ import annotations

from minit2i_deploy.evaluation.side_by_side.measurement import measure_side_by_side
from minit2i_deploy.evaluation.side_by_side.result import Candidate, ShownCase, SideBySide, Speed

__all__ = ["Candidate", "ShownCase", "SideBySide", "Speed", "measure_side_by_side"]
