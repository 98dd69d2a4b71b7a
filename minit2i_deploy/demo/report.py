"""The demo's findings as plain values; report.json is exactly these."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from minit2i_deploy._version import __version__
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.evaluation.shapes import ShapesScore
from minit2i_deploy.evaluation.shapes.judged_images import JudgedImage
from minit2i_deploy.io.strict_json import encode
from minit2i_deploy.machine import describe_machine
from minit2i_deploy.solvers.table import Table

KIND: Final = "minit2i-demo"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """The captions painted with one table, each picture on its own."""

    name: str
    table: Table
    guidance: float
    painted: Sequence[JudgedImage]

    def file_name(self, index: int) -> str:
        """Name of one picture, inside the output folder."""
        kind = self.painted[index].spec.kind.replace("_", "-")
        return f"pictures/{self.name}-{index:02d}-{kind}.png"

    def score(self) -> ShapesScore:
        """How many of them are right."""
        return ShapesScore.of((item.spec, item.verdict) for item in self.painted)

    def to_dict(self) -> dict[str, Any]:
        """Table, score, times and verdicts, ready for JSON."""
        return {
            "name": self.name,
            "table": self.table.name,
            "rows": len(self.table),
            "guidance": self.guidance,
            "score": self.score().to_dict(),
            "seconds_p50": median_times([item.timings for item in self.painted]),
            "pictures": [
                {"file": self.file_name(index), **item.to_dict()}
                for index, item in enumerate(self.painted)
            ],
        }


def median_times(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median seconds of each stage, and of the whole picture as ``total``."""
    medians = {stage: statistics.median(item[stage] for item in timings) for stage in timings[0]}
    return medians | {"total": statistics.median(sum(item.values()) for item in timings)}


def report_values(
    bundle: Bundle, runtime: str, runs: Sequence[Run], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Everything the demo found.

    Args:
        bundle: the exported bundle.
        runtime: name of the runtime that painted.
        runs: the first is the bundle's default preset.
        seconds: of export, verify and whatever else was done once.
    """
    return {
        "kind": KIND,
        "version": __version__,
        "machine": describe_machine(),
        "model": bundle.config.to_dict(),
        "bundle": {
            "digest": bundle.digest,
            "bytes": bundle.manifest.num_bytes,
            "checkpoint_sha256": bundle.manifest.provenance.checkpoint_sha256,
            "precision": bundle.manifest.graphs["transformer"].precision,
        },
        "runtime": runtime,
        "seconds": dict(seconds),
        "checks": encode(bundle.manifest.checks),
        "runs": [run.to_dict() for run in runs],
    }
