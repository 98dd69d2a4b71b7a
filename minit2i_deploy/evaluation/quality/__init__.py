"""The quality meter: score and image quality of solver tables against evaluations."""

from __future__ import annotations

from minit2i_deploy.evaluation.quality.candidates import Candidate, parse_table
from minit2i_deploy.evaluation.quality.meter import (
    count_evaluations,
    iter_outcomes,
    measure_candidates,
)
from minit2i_deploy.evaluation.quality.meter_report import Distance, MeterReport, Outcome
from minit2i_deploy.evaluation.quality.meter_settings import MeterSettings
from minit2i_deploy.solvers.guidance import adjust_guidance

__all__ = [
    "Candidate",
    "Distance",
    "MeterReport",
    "MeterSettings",
    "Outcome",
    "adjust_guidance",
    "count_evaluations",
    "iter_outcomes",
    "measure_candidates",
    "parse_table",
]
