"""The quality meter: what fewer evaluations cost, measured and not promised."""

from __future__ import annotations

from minit2i_deploy.evaluation.quality.candidates import Candidate, parse_table
from minit2i_deploy.evaluation.quality.meter import measure, outcomes, planned_evaluations
from minit2i_deploy.evaluation.quality.report import Distance, MeterReport, Outcome
from minit2i_deploy.evaluation.quality.settings import MeterSettings
from minit2i_deploy.solvers.guidance import adjust_guidance

__all__ = [
    "Candidate",
    "Distance",
    "MeterReport",
    "MeterSettings",
    "Outcome",
    "adjust_guidance",
    "measure",
    "outcomes",
    "parse_table",
    "planned_evaluations",
]
