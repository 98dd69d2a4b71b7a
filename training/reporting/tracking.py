"""Metrics and sample grids of a run for TensorBoard and Weights & Biases."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image

from minit2i_deploy.errors import TrainingError, require
from minit2i_deploy.training.recipe.recipe import Recipe

FOLDER: Final = "tensorboard"


class Tracker(Protocol):
    """One service that metrics are sent to."""

    def log_metrics(self, step: int, values: dict[str, float]) -> None:
        """Log named values of a step."""

    def log_image(self, step: int, path: Path) -> None:
        """Log a grid of samples."""

    def close(self) -> None:
        """Flush and close."""


class TensorBoard:
    """Event files in the run's folder; events of steps that are made again are purged.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        require("tensorboard", "train")
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / FOLDER), purge_step=step + 1)

    def log_metrics(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def log_image(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image("samples", pixels, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of the recipe's name, identified by its folder, so that a resumed run continues it.

    Raises:
        MissingDependencyError: wandb is not installed.
        TrainingError: wandb cannot start.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.wandb = require("wandb", "train")
        try:
            self.run = self.wandb.init(
                project="minit2i",
                name=recipe.name,
                id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
                resume="allow",
                dir=str(folder),
                config=recipe.to_dict(),
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"{folder}: wandb cannot start ({reason}); run wandb login, or remove wandb from "
                "track"
            ) from error

    def log_metrics(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def log_image(self, step: int, path: Path) -> None:
        self.run.log({"samples": self.wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self.run.finish()


class Trackers:
    """The trackers of a recipe as one; there may be none."""

    def __init__(self, members: Sequence[Tracker]) -> None:
        self.members = list(members)

    @classmethod
    def open(cls, recipe: Recipe, folder: Path, step: int) -> Trackers:
        """Start, or continue after ``step``."""
        members: list[Tracker] = []
        if "tensorboard" in recipe.track:
            members.append(TensorBoard(folder, step))
        if "wandb" in recipe.track:
            members.append(WeightsAndBiases(folder, recipe))
        return cls(members)

    def log_metrics(self, step: int, **values: float) -> None:
        for member in self.members:
            member.log_metrics(step, values)

    def log_image(self, step: int, path: Path) -> None:
        for member in self.members:
            member.log_image(step, path)

    def close(self) -> None:
        for member in self.members:
            member.close()
