"""The demo's report as plain values, which are the content of report.json."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from minit2i_deploy._version import __version__
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.demo.edits import EditedImage
from minit2i_deploy.evaluation.shapes import ShapesScore
from minit2i_deploy.evaluation.shapes.judged_images import JudgedImage
from minit2i_deploy.io.strict_json import encode
from minit2i_deploy.machine import describe_machine
from minit2i_deploy.solvers.table import Table

KIND: Final = "minit2i-demo"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """The images of one table, each generated alone."""

    name: str
    table: Table
    guidance: float
    images: Sequence[JudgedImage]

    def file_name(self, index: int) -> str:
        """File name of an image, relative to the output folder."""
        kind = self.images[index].spec.kind.replace("_", "-")
        return f"pictures/{self.name}-{index:02d}-{kind}.png"

    def score(self) -> ShapesScore:
        """Prompt-following score of the images."""
        return ShapesScore.of((item.spec, item.verdict) for item in self.images)

    def to_dict(self) -> dict[str, Any]:
        """Table, score, times and verdicts, ready for JSON."""
        return {
            "name": self.name,
            "table": self.table.name,
            "rows": len(self.table),
            "guidance": self.guidance,
            "a_min": self.table.meta.get("a_min"),
            "residual_noise": residual_noise(self.table),
            "score": self.score().to_dict(),
            "seconds_p50": median_times([item.timings for item in self.images]),
            "pictures": [
                {"file": self.file_name(index), **item.to_dict()}
                for index, item in enumerate(self.images)
            ],
        }


def median_times(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median seconds of each stage, and of all stages together as ``total``."""
    medians = {stage: statistics.median(item[stage] for item in timings) for stage in timings[0]}
    return medians | {"total": statistics.median(sum(item.values()) for item in timings)}


def residual_noise(table: Table) -> float:
    """Share of the start noise that is left in the image if the estimate stays constant.

    0 if the table ends on the network's estimate. The floor a_min of the official samplers, which
    divide by max(1 - t, a_min), leaves some. Noise that a table adds is not counted.
    """
    noise, history = 1.0, 0.0
    for a, c, s in zip(*(table.column(name) for name in "acs"), strict=True):
        # x' = a x + b y + c h and h' = y + s x, with the estimate y at 0.
        noise, history = a * noise + c * history, s * noise
    return abs(float(noise))


def report_values(
    bundle: Bundle,
    runtime: str,
    runs: Sequence[Run],
    edits: Sequence[EditedImage],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """All values of the report.

    Args:
        bundle: the exported bundle.
        runtime: name of the runtime.
        runs: one for each table.
        edits: of drawn scenes.
        seconds: of export, verify and other work done once.
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
        "edits": [edit.to_dict() for edit in edits],
    }
