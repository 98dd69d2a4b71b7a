"""Sample grids and the shapes score during training, with the averaged weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from minit2i_deploy.evaluation.shapes import (
    KINDS,
    NOVEL_KINDS,
    ShapesScore,
    Spec,
    held_out_captions,
    judge,
)
from minit2i_deploy.io.images import grid, to_pil, to_uint8
from minit2i_deploy.model.build import network_from_config
from minit2i_deploy.model.loop import run_table
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.model.step import Step
from minit2i_deploy.solvers.mean_flow import MEAN_FLOW
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.training.caption_encoder import CaptionEncoder
from minit2i_deploy.training.objectives.flow_matching_loss import NOISE_SCALE
from minit2i_deploy.training.recipe.recipe import Recipe

PER_KIND: Final = 8
SCORE_SEED: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleGrid:
    """One grid.

    Args:
        path: file of the grid.
        score: over held-out captions of shapes; None for a recipe's own prompts.
    """

    path: Path
    score: ShapesScore | None


class Sampler:
    """Samples the recipe's prompts, or held-out captions of shapes, which it scores.

    Args:
        text: the frozen encoder.
        recipe: network, prompts, sampling steps and guidance.
        folder: receives step-NNNNNN.png.
        device: where the network runs.
    """

    def __init__(
        self, text: CaptionEncoder, recipe: Recipe, folder: Path, device: torch.device
    ) -> None:
        self.text, self.recipe, self.folder, self.device = text, recipe, folder, device
        self.table = _table(recipe)
        # Where an adapter gives the guided estimate, its one branch is the sample.
        learns_guidance = recipe.lora is not None and recipe.lora.learns_guidance
        self._guidance = 1.0 if learns_guidance else recipe.sample_guidance
        self.specs: list[Spec] = []
        self.captions = list(recipe.sample_prompts)
        if not self.captions:
            novel = tuple(kind for kind in NOVEL_KINDS if recipe.kind_weights.get(kind))
            drawn = held_out_captions(PER_KIND, SCORE_SEED, (*KINDS, *novel))
            self.specs = [spec for spec, _ in drawn]
            self.captions = [caption for _, caption in drawn]

    @torch.no_grad()
    def __call__(self, weights: Mapping[str, Tensor], step: int) -> SampleGrid:
        """Write the grid of this step and score it.

        Args:
            weights: float32 under canonical names, on the CPU; not changed.
            step: part of the file's name.
        """
        # Built anew each time, so that a large network takes no memory between grids.
        arrays = {name: value.numpy() for name, value in weights.items()}
        net = network_from_config(self.recipe.model, arrays).to(self.device)
        x = self._generate(net)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:06d}.png"
        columns = PER_KIND if self.specs else math.ceil(math.sqrt(len(x)))
        grid(to_pil(x), columns=columns).save(path)
        return SampleGrid(path=path, score=self._score(x))

    def _score(self, x: np.ndarray) -> ShapesScore | None:
        if not self.specs:
            return None
        verdicts = [judge(image, s) for image, s in zip(to_uint8(x), self.specs, strict=True)]
        return ShapesScore.of(zip(self.specs, verdicts, strict=True))

    def _generate(self, net: MMJiT) -> np.ndarray:
        context, mask = (value.to(self.device) for value in self.text(self.captions))
        if self.table.is_conditioned:
            conditions = torch.from_numpy(self.table.conditions()[0]).to(context)
            conditions = conditions.expand(len(mask), -1)
            tokens = net.text_adapter(context, mask, *conditions.unbind(1))
            tokens = tokens.unsqueeze(0)
        else:
            tokens = torch.stack(
                [net.text_adapter(context, m) for m in (mask, torch.zeros_like(mask))]
            )
        size = self.recipe.model.image_size
        noise = np.stack([standard_noise(i, (3, size, size)) for i in range(len(mask))])
        start = torch.from_numpy(noise).to(self.device) * NOISE_SCALE
        x = start
        guidance = self._guidance
        for state, _ in run_table(Step(net.denoiser), start, tokens, self.table, guidance):
            x = state
        return x.cpu().numpy()


def _table(recipe: Recipe) -> Table:
    if recipe.distill is None:
        return solver_table("euler", steps=recipe.sample_steps)
    return solver_table(
        MEAN_FLOW,
        steps=recipe.sample_steps,
        omega=recipe.sample_guidance,
        t_min=recipe.distill.sample_t_min,
        t_max=recipe.distill.sample_t_max,
    )
