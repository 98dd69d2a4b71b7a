"""The reporter of a run: log, progress line, trackers and sample grids."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from torch import Tensor

from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_write_text
from minit2i_deploy.progress import ProgressLine
from minit2i_deploy.training.checkpoint import remove_partial_checkpoints
from minit2i_deploy.training.distributed.processes import Processes
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.reporting.log import Log
from minit2i_deploy.training.reporting.sampler import Sampler
from minit2i_deploy.training.reporting.throughput import Throughput, matrix_rate
from minit2i_deploy.training.reporting.tracking import Trackers

LOG_EVERY_STEPS: Final = 50

_Item = TypeVar("_Item")


class Reporter:
    """Prepares the run's folder and reports to it; does nothing but in the first process.

    log.jsonl holds only functions of the recipe. Speed goes to the progress line and the trackers.

    Args:
        recipe: of the run.
        folder: receives recipe.json, log.jsonl, samples/ and the trackers' files.
        step: optimizer steps made so far.
        processes: of the run.
        sampler: makes and scores the sample grids.
        image_flops: floating-point operations of one image in one step.

    Raises:
        UsageError: the folder cannot be created.
        MissingDependencyError: a tracker of the recipe is not installed.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        step: int,
        processes: Processes,
        sampler: Sampler,
        image_flops: float,
    ) -> None:
        self.recipe, self.sampler, self.is_first = recipe, sampler, processes.is_first
        if not self.is_first:
            return
        _prepare(folder, recipe)
        self.log = Log(folder / "log.jsonl", step)
        self.trackers = Trackers.open(recipe, folder, step)
        rate = matrix_rate(processes.device, recipe.precision) * processes.count
        self.throughput = Throughput(recipe.batch, image_flops, rate)
        self.progress = ProgressLine(recipe.name, start=step / recipe.steps, log_ends=True)
        self.metrics: dict[str, float] = {}
        self._step_start = time.monotonic()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_first:
            self.progress.close()
            self.trackers.close()

    def timed(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The same items; the clock of a step starts when its item is requested."""
        iterator = iter(items)
        while True:
            self._step_start = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            yield item

    def step(self, step: int, loss: float) -> None:
        """Report that step number ``step``, from 1, is finished."""
        if not self.is_first:
            return
        self.throughput.add(time.monotonic() - self._step_start)
        self.metrics |= {"loss": loss} | self.throughput.figures()
        if step % LOG_EVERY_STEPS == 0 or step == self.recipe.steps:
            lr = self.recipe.lr_at(step - 1)
            self.log.write(step=step, loss=loss, lr=lr)
            self.trackers.log_metrics(step, loss=loss, lr=lr, **self.throughput.figures())
        metrics = " ".join(f"{name}={value:.4g}" for name, value in self.metrics.items())
        self.progress(step / self.recipe.steps, f"{step}/{self.recipe.steps} {metrics}")

    def sample(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Make and score a sample grid with the averaged weights."""
        if not self.is_first:
            return
        grid = self.sampler(weights, step)
        self.trackers.log_image(step, grid.path)
        if grid.score is not None:
            score = grid.score.overall.accuracy
            self.metrics["score"] = score
            self.log.write(step=step, score=score)
            self.trackers.log_metrics(step, score=score)


def _prepare(folder: Path, recipe: Recipe) -> None:
    resolved = json.dumps(recipe.to_dict(), indent=2, sort_keys=True) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be created ({error.strerror}); choose a folder you can write"
        ) from error
    remove_partial_checkpoints(folder)
    atomic_write_text(folder / "recipe.json", resolved)
