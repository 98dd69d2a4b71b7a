"""Run a benchmark's own scorer in a process of its own, and the shapes' exact detector here."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.evaluation.benchmarks.layouts import METADATA_FILE
from minit2i_deploy.evaluation.benchmarks.scores import Scores
from minit2i_deploy.evaluation.benchmarks.shapes_items import spec_of
from minit2i_deploy.evaluation.benchmarks.suites import DPG, FID, GENEVAL, Suite
from minit2i_deploy.evaluation.shapes import judge
from minit2i_deploy.io.images import read_rgb
from minit2i_deploy.progress import Progress, no_progress

_FID_LINE: Final = re.compile(r"FID:\s+([0-9.eE+-]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """A benchmark's own code.

    Args:
        folder: clone of its repository; unused by fid.
        python: interpreter that has what it imports.
        models: folder of the detector's weights, for geneval.
        stats: file of the reference's statistics, for fid.
        resolution: side of one image, for dpg.
    """

    folder: Path | None
    python: str
    models: Path | None
    stats: Path | None
    resolution: int

    def command(self, suite: Suite, images: Path, results: Path) -> list[str]:
        """The command line that scores a folder.

        Raises:
            UsageError: the suite has no scorer of its own here, or a path that it takes is missing.
        """
        if suite.name == FID:
            if self.stats is None:
                raise UsageError("fid requires --stats: the statistics of the reference images")
            return [self.python, "-m", "pytorch_fid", str(images), str(self.stats)]
        if suite.name == GENEVAL:
            script = self._script("evaluation/evaluate_images.py")
            models = "." if self.models is None else str(self.models)
            options = ["--outfile", str(results), "--model-path", models]
            return [self.python, script, str(images), *options]
        if suite.name == DPG:
            script = self._script("dpg_bench/compute_dpg_bench.py")
            options = ["--resolution", str(self.resolution), "--pic-num", "4"]
            options += [
                "--res-path",
                str(results),
                "--csv",
                self._script("dpg_bench/dpg_bench.csv"),
            ]
            return [self.python, script, "--image-root-path", str(images), *options]
        raise UsageError(
            f"{suite.name}: its scorer is not run from here; run it on {images} and name its "
            "--results"
        )

    def _script(self, name: str) -> str:
        if self.folder is None:
            raise UsageError("--scorer: name a clone of the benchmark's repository")
        path = self.folder / name
        if not path.is_file():
            raise UsageError(f"{path}: no such file; --scorer names a clone of the benchmark")
        return str(path.resolve())


def run_scorer(command: list[str]) -> str:
    """Run a scorer; its messages go to stderr.

    Returns:
        what it printed.

    Raises:
        Minit2iError: it cannot be started, or failed.
    """
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise Minit2iError(f"{command[0]}: cannot be started ({error.strerror})") from error
    if done.returncode:
        raise Minit2iError(
            f"{' '.join(command[:2])} failed with exit code {done.returncode}; its messages are "
            "above"
        )
    return done.stdout


def fid_of(output: str) -> float:
    """The number that pytorch-fid printed.

    Raises:
        Minit2iError: there is none.
    """
    match = _FID_LINE.search(output)
    if match is None:
        raise Minit2iError(f"pytorch-fid printed no FID: {output[-200:]!r}")
    return float(match[1])


def shapes_scores(folder: Path, progress: Progress = no_progress) -> Scores:
    """Judge images of the suite ``shapes`` by the exact detector.

    Args:
        folder: of the suite.
        progress: called with the share of images.

    Raises:
        UsageError: an image or its metadata is missing or not of the suite.
    """
    values, groups = dict[str, float](), dict[str, str]()
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    for place, prompt in enumerate(folders):
        path = prompt / METADATA_FILE
        try:
            spec = spec_of(json.loads(path.read_text("utf-8")), str(path))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read as metadata ({error})") from error
        for image in sorted((prompt / "samples").glob("*.png")):
            key = f"{prompt.name}/samples/{image.name}"
            values[key] = float(judge(read_rgb(image), spec).correct)
            groups[key] = spec.kind
        progress((place + 1) / len(folders))
    return Scores(values=values, groups=groups, by_group=False)
