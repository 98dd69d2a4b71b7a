"""The quality meter: what fewer evaluations cost, measured and not promised."""

from __future__ import annotations

from minit2i_deploy.quality.candidates import Candidate, parse_table
from minit2i_deploy.quality.meter import measure, outcomes, planned_evaluations
from minit2i_deploy.quality.report import Distance, MeterReport, Outcome
from minit2i_deploy.quality.settings import MeterSettings
from minit2i_deploy.table_edit import adjusted

__all__ = [
    "Candidate",
    "Distance",
    "MeterReport",
    "MeterSettings",
    "Outcome",
    "adjusted",
    "measure",
    "outcomes",
    "parse_table",
    "planned_evaluations",
]
