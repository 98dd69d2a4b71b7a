"""The training loop, read from top to bottom.

Everything random in step k is drawn from (seed, k, an image's position in the batch), so a run that
is stopped and resumed makes the same weights as one that is not, to the last bit on one machine,
and any number of processes trains on the same batches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

from minit2i_deploy.checkpoints.find import find_checkpoint
from minit2i_deploy.checkpoints.text_identity import (
    TextIdentity,
    check_text_identity,
    recorded_identity,
)
from minit2i_deploy.errors import (
    CheckpointError,
    DataWarning,
    TrainingError,
    TrainingInterrupted,
)
from minit2i_deploy.io.lock import output_lock
from minit2i_deploy.training.caption_encoder import CaptionEncoder
from minit2i_deploy.training.checkpoint import (
    list_checkpoints,
    load_checkpoint_state,
    save_checkpoint,
)
from minit2i_deploy.training.data import Batches, DataBatch, to_network_range
from minit2i_deploy.training.learner import Learner
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import steps_back
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.reporting.reporter import Reporter
from minit2i_deploy.training.reporting.sampler import Sampler
from minit2i_deploy.training.stop_request import StopRequest


class Trainer(Learner):
    """One run: a learner with its data and its folder.

    Args:
        recipe: what to train, and by which objective.
        folder: receives checkpoints, sample grids, log.jsonl and recipe.json. If it holds
            checkpoints of the same network, the run continues after the last one.

    Raises:
        TrainingError: the folder belongs to another network, optimizer, teacher or base, its last
            checkpoint is corrupt, or the device is missing.
        CheckpointError: the teacher, the base, the starting weights or the text encoder cannot be
            read, or the text encoder is another one than they were trained with.
        UsageError: the batch does not divide into equal parts for the processes.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        super().__init__(recipe, str(folder))
        recipe = self.recipe
        self.folder = folder
        self.text = CaptionEncoder(
            recipe.text_encoder_folder,
            recipe.tokenizer_folder,
            recipe.model.prompt_length,
            recipe.model.txt_input_size,
        )
        self._check_text_encoder()
        self.source = Batches(recipe, rank=self.processes.index, world_size=self.processes.count)
        self._checkpoints = list_checkpoints(folder)
        if self._checkpoints:
            self._resume(self._checkpoints[-1])

    def _check_text_encoder(self) -> None:
        """Compare the text encoder with those of the checkpoints that the recipe names."""
        recipe = self.recipe
        folders = [] if recipe.distill is None else [recipe.distill.teacher_folder]
        folders += [] if recipe.lora is None else [recipe.lora.base_folder]
        for folder in folders:
            path = find_checkpoint(folder).path
            self._check_same_text_encoder(recorded_identity(path), path)
        if not recipe.start_from:
            return
        path = find_checkpoint(recipe.start_folder).path
        try:
            self._check_same_text_encoder(recorded_identity(path), path)
        except CheckpointError as error:
            # Training adapts the weights to what they read.
            warnings.warn(f"{error}; training starts from it", DataWarning, stacklevel=3)

    def _check_same_text_encoder(self, expected: TextIdentity | None, path: Path) -> None:
        folder = self.recipe.text_encoder_folder
        check_text_identity(expected, self.text.identity, str(path), folder)

    def _resume(self, path: Path) -> None:
        state = load_checkpoint_state(path, self.recipe)
        self._check_same_text_encoder(state.text_identity, path)
        if state.teacher_sha256 != self.objective.teacher_sha256:
            raise TrainingError(
                f"{path}: was distilled from another teacher than distill.teacher; use another "
                "output folder or that teacher"
            )
        if state.base_sha256 != self.objective.base_sha256:
            raise TrainingError(
                f"{path}: was trained on another base than lora.base; use another output folder "
                "or that base"
            )
        try:
            self.load_state(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{path}: its tensors do not fit the recipe ({error}); resume with the optimizer "
                "it was written with, or use another output folder"
            ) from error
        # Early checkpoints, of shapes only, have no such state: their data follows from the step.
        implied = {"samples_seen": self.step * self.recipe.batch}
        self.source.load_state_dict(self.source.state_dict() | dict(state.data or implied))

    def run(self) -> Path:
        """Train to the recipe's last step, or to a Ctrl-C or SIGTERM.

        Returns:
            the last checkpoint's folder.

        Raises:
            TrainingInterrupted: a signal came; the step that was being made is finished and saved.
            TrainingError: the loss or the gradient stopped being finite, or a checkpoint cannot
                be written; the last checkpoint is untouched.
            Minit2iError: another process is training in the folder.
            UsageError: the folder cannot be written.
        """
        if self.step >= self.recipe.steps:
            return self._checkpoints[-1]
        # First, because a lock without a handler around it lets SIGTERM end the process unsaved.
        with StopRequest() as stop, self._locked_folder():
            self._train(stop)
        path = self.folder / f"step-{self.step:06d}"
        if self.step < self.recipe.steps:
            number = stop.signal_number or signal.SIGINT
            raise TrainingInterrupted(
                f"saved as {path}; the same command continues from there", number
            )
        return path

    def _train(self, stop: StopRequest) -> None:
        recipe = self.recipe
        sampler = Sampler(self.text, recipe, self.folder / "samples", self.device)
        image_flops = self.objective.image_flops
        arguments = (recipe, self.folder, self.step, self.processes, sampler, image_flops)
        steps = range(self.step, recipe.steps)
        batches = self.source.read(len(steps), steps_back=steps_back(recipe, steps))
        # Closed on every way out, so that its processes end with it.
        with contextlib.closing(batches), Reporter(*arguments) as report:
            for data in report.timed(batches):
                loss = self.train_step(data)
                report.step(self.step, loss)
                is_last = self.step == recipe.steps
                is_stopped = self.processes.any(stop.is_made)
                if is_last or _is_due(self.step, recipe.sample_every):
                    report.sample(self.step, self.deployable_weights())
                if is_last or is_stopped or _is_due(self.step, recipe.checkpoint_every):
                    self.save()
                if is_stopped:
                    return

    @contextlib.contextmanager
    def _locked_folder(self) -> Iterator[None]:
        """Be the only run in the folder, and see that none has written there meanwhile."""
        if not self.processes.is_first:
            yield
            return
        with output_lock(self.folder):
            if list_checkpoints(self.folder) != self._checkpoints:
                raise TrainingError(
                    f"{self.folder}: another run has written checkpoints while this one started; "
                    "run the same command again, or name another output"
                )
            yield

    def train_step(self, data: DataBatch) -> float:
        """One optimizer step.

        Args:
            data: this process's part of the global batch.

        Returns:
            the objective's reported loss over the global batch, before the update.

        Raises:
            TrainingError: the loss or the gradient is not finite; nothing was updated.
        """
        return self.update(self._micro_batches(data))

    def _micro_batches(self, data: DataBatch) -> Iterator[Batch]:
        count = self.recipe.accumulate
        if data.values is None:
            context, mask = self.text(data.captions)
        else:
            context, mask = data.context_and_mask(self.recipe.model.prompt_length)
        images = to_network_range(data.images)
        for i in range(count):
            yield Batch(
                images=images[i::count],
                context=context[i::count],
                mask=mask[i::count],
                captions=data.captions[i::count],
                positions=self.positions[i::count],
            )

    def save(self) -> None:
        """Write a checkpoint of this step, from which a later run resumes; one process writes."""
        state = dataclasses.replace(
            self.state(), data=self.source.state_dict(), text_identity=self.text.identity
        )
        if self.processes.is_first:
            save_checkpoint(self.folder, self.recipe, state)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
