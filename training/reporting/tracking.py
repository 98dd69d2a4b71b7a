"""Figures and pictures of a run for TensorBoard and Weights & Biases."""

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
    """One place that figures are sent to."""

    def figures(self, step: int, values: dict[str, float]) -> None:
        """Take named values of a step."""

    def picture(self, step: int, path: Path) -> None:
        """Take a grid of samples."""

    def close(self) -> None:
        """Write out what is held."""


class TensorBoard:
    """Event files in the run's folder; lines of steps that are made again are dropped.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        require("tensorboard", "train")
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / FOLDER), purge_step=step + 1)

    def figures(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image("samples", pixels, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of the recipe's name; the folder it stands in tells a continued run from a new one.

    Raises:
        MissingDependencyError: wandb is not installed.
        TrainingError: wandb refuses to begin.
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
                f"{folder}: wandb cannot begin ({reason}); run wandb login, or take wandb out of "
                "track"
            ) from error

    def figures(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def picture(self, step: int, path: Path) -> None:
        self.run.log({"samples": self.wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self.run.finish()


class Trackers:
    """Those that a recipe names, as one; it may name none."""

    def __init__(self, members: Sequence[Tracker]) -> None:
        self.members = list(members)

    @classmethod
    def open(cls, recipe: Recipe, folder: Path, step: int) -> Trackers:
        """Begin, or continue after ``step``."""
        members: list[Tracker] = []
        if "tensorboard" in recipe.track:
            members.append(TensorBoard(folder, step))
        if "wandb" in recipe.track:
            members.append(WeightsAndBiases(folder, recipe))
        return cls(members)

    def figures(self, step: int, **values: float) -> None:
        for member in self.members:
            member.figures(step, values)

    def picture(self, step: int, path: Path) -> None:
        for member in self.members:
            member.picture(step, path)

    def close(self) -> None:
        for member in self.members:
            member.close()
