"""The meter of editing: scenes to change, judged by the shapes detector."""

from __future__ import annotations

from minit2i_deploy.evaluation.editing.cases import TASKS, EditingCase, editing_cases
from minit2i_deploy.evaluation.editing.editing_report import EditingOutcome, EditingReport
from minit2i_deploy.evaluation.editing.meter import EditingSettings, measure_editing

__all__ = [
    "TASKS",
    "EditingCase",
    "EditingOutcome",
    "EditingReport",
    "EditingSettings",
    "editing_cases",
    "measure_editing",
]
