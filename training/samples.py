"""Sample grids and the shapes score while training, with the averaged weights."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minit2i_deploy.demo.shapes import ShapesScore, held_out_captions, judge
from minit2i_deploy.images import grid, to_pil, to_uint8
from minit2i_deploy.mean_flow import MEAN_FLOW
from minit2i_deploy.model.loop import run_table
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.model.step import Step
from minit2i_deploy.noise import standard_noise
from minit2i_deploy.table import Table, solver_table
from minit2i_deploy.training.loss import NOISE_SCALE
from minit2i_deploy.training.recipe import Recipe
from minit2i_deploy.training.text import FrozenText

PER_KIND = 8
SCORE_SEED = 1


class Sampler:
    """Paints held-out captions and scores them.

    Args:
        net: a network of the recipe's shape; its weights are copied, never changed.
        text: the frozen encoder.
        recipe: sampling steps and guidance.
        folder: receives step-NNNNNN.png.
    """

    def __init__(self, net: MMJiT, text: FrozenText, recipe: Recipe, folder: Path) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.text, self.recipe, self.folder = text, recipe, folder
        self.table = _table(recipe)
        self.prompts = held_out_captions(PER_KIND, SCORE_SEED)

    @torch.no_grad()
    def __call__(self, ema: dict[str, Tensor], step: int) -> ShapesScore:
        """Write the grid of this step and return the score over its captions."""
        for name, value in self.net.canonical_parameters().items():
            value.copy_(ema[name])
        x = self._paint([caption for _, caption in self.prompts])
        self.folder.mkdir(parents=True, exist_ok=True)
        grid(to_pil(x), columns=PER_KIND).save(self.folder / f"step-{step:06d}.png")
        specs = [spec for spec, _ in self.prompts]
        verdicts = [judge(image, spec) for image, spec in zip(to_uint8(x), specs, strict=True)]
        return ShapesScore.of(zip(specs, verdicts, strict=True))

    def _paint(self, captions: list[str]) -> np.ndarray:
        device = self.net.denoiser.position_table.device
        context, mask = (value.to(device) for value in self.text(captions))
        if self.table.is_conditioned:
            told = torch.from_numpy(self.table.conditions()[0]).to(context)
            tokens = self.net.text_adapter(context, mask, *told.expand(len(mask), -1).unbind(1))
            tokens = tokens.unsqueeze(0)
        else:
            tokens = torch.stack(
                [self.net.text_adapter(context, m) for m in (mask, torch.zeros_like(mask))]
            )
        size = self.recipe.model.image_size
        noise = np.stack([standard_noise(i, (3, size, size)) for i in range(len(captions))])
        start = torch.from_numpy(noise).to(device) * NOISE_SCALE
        x = start
        rows = run_table(
            Step(self.net.denoiser), start, tokens, self.table, self.recipe.sample_guidance
        )
        for state, _ in rows:
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
