"""The base model that a few-step student learns from, and the student's first weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.model.build import build_network
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.distributed.parallel import compile_blocks
from minit2i_deploy.training.initial_weights import (
    check_same_network,
    copy_weights,
    initialize_weights,
    load_change,
    load_starting_weights,
)
from minit2i_deploy.training.recipe.recipe import Recipe


class Teacher:
    """A frozen base model.

    Args:
        recipe: with ``distill`` set.
        device: where the network computes.

    Raises:
        CheckpointError: the teacher cannot be read.
        TrainingError: the teacher is another network than the recipe's without the student.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        assert recipe.distill is not None, "the recipe has no distill"
        folder = recipe.distill.teacher_folder
        checkpoint = load_checkpoint(folder)
        expected = dataclasses.replace(recipe.model, student=None)
        check_same_network(folder, checkpoint.config, expected)
        self.recipe = recipe
        self.sha256 = checkpoint.report.sha256
        self.net = build_network(checkpoint).to(device)
        if recipe.compile:
            compile_blocks(self.net)

    def initialize_student(self, student: MMJiT) -> None:
        """Give a student its first weights, in place.

        They are those of the recipe's ``start_from``, or the teacher's changed as those are from
        ``distill.former_teacher``, or else the teacher's, with fresh ones for the layers that only
        a student has.
        """
        initialize_weights(student, self.recipe.seed)
        copy_weights(student, self._student_weights())

    def _student_weights(self) -> Mapping[str, np.ndarray]:
        recipe, distill = self.recipe, self.recipe.distill
        if not recipe.start_from:
            return self._weights()
        if distill is None or not distill.former_teacher:
            return load_starting_weights(recipe)
        return load_change(recipe, self._weights(), distill.former_teacher_folder)

    def _weights(self) -> Mapping[str, np.ndarray]:
        parameters = self.net.canonical_parameters()
        return {name: value.detach().cpu().numpy() for name, value in parameters.items()}
