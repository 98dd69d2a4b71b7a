"""The training of adapters as an objective: flow matching while the base stands still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from minit2i_deploy.checkpoints import Checkpoint, linear_modules, load_checkpoint
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.lora.layers import add_adapters
from minit2i_deploy.training.lora.targets import lora_targets
from minit2i_deploy.training.objectives.draws import draw_seed
from minit2i_deploy.training.objectives.flow_matching import FlowMatching, Wanted
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.prior_preservation import Prior
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.starting_weights import check_network, copy_weights

# Keeps the stream of dropped inputs apart from that of times and noise.
_DROPOUT_STREAM = 0x2545F491


class LoraFlowMatching(FlowMatching):
    """The loss is reported as it is.

    Args:
        recipe: with ``lora`` set.
        device: where the network computes.

    Raises:
        CheckpointError: the base cannot be read.
        TrainingError: the base is another network than the recipe's.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        assert recipe.lora is not None, "a recipe with lora is needed here"
        super().__init__(recipe, device)
        self.lora = recipe.lora
        self.targets = lora_targets(recipe.model, self.lora.targets)
        base = self._read_base()
        self.base_sha256 = base.report.sha256
        self.prior = Prior(base, recipe, device) if self.lora.new_words else None

    @property
    def picture_flops(self) -> float:
        # Backwards the base passes gradients on and takes none; a pair does both. A prior is
        # asked once more.
        model = self.recipe.model
        passes = 2.0 if self.prior is None else 3.0
        return passes * (denoiser_flops(model) + adapter_flops(model)) + 3.0 * _pair_flops(
            model, self.targets, self.lora.rank
        )

    def fill(self, net: MMJiT) -> None:
        """The base's deployed weights, and adapters that change nothing yet."""
        copy_weights(net, self._read_base().tensors)
        add_adapters(net, self.lora, self.targets, self.recipe.seed)

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        if self.lora.dropout:
            # peft's dropout draws from torch's own generator, which nothing else here uses.
            place = _DROPOUT_STREAM * (1 + batch.rows[0])
            torch.manual_seed((draw_seed(self.recipe.seed, step) ^ place) & 0xFFFFFFFF)
        return super().loss(net, batch, step)

    def _wanted(self, images: Tensor, captions: Sequence[str]) -> Wanted | None:
        if self.prior is None:
            return None
        new = self.prior.has_new(captions).to(self.device)
        return partial(self.prior.wanted, images, new)

    def deployed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The base with adapters merged, W + alpha / rank * B @ A.

        The base is read anew, so that a second copy of it takes no room between two calls.
        """
        tensors = {n: torch.from_numpy(value) for n, value in self._read_base().tensors.items()}
        for module in self.targets:
            a, b = (weights[f"{module}.lora_{side}.weight"] for side in "AB")
            tensors[f"{module}.weight"] += (b @ a) * (self.lora.alpha / self.lora.rank)
        return tensors

    def _read_base(self) -> Checkpoint:
        base = load_checkpoint(self.lora.base_folder)
        check_network(self.lora.base_folder, base.config, self.recipe.model)
        return base


def _pair_flops(model: ModelConfig, targets: tuple[str, ...], rank: int) -> float:
    """Of one picture through every pair, forwards."""
    sizes = linear_modules(model)
    num_image, num_text = model.num_patches_side**2, model.num_text_tokens
    return sum(
        2.0 * rank * sum(sizes[name]) * (num_text if "txt_" in name else num_image)
        for name in targets
    )
