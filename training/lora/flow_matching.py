"""LoRA training as an objective: flow matching with adapters on a frozen base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from minit2i_deploy.checkpoints import Checkpoint, linear_modules, load_checkpoint
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.initial_weights import check_same_network, copy_weights
from minit2i_deploy.training.lora.layers import add_adapters
from minit2i_deploy.training.lora.targets import lora_targets
from minit2i_deploy.training.objectives.flow_matching import FlowMatching, TargetFunction
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.prior_preservation import PriorPreservation
from minit2i_deploy.training.objectives.random_draws import draw_seed
from minit2i_deploy.training.recipe.recipe import Recipe

# Separates the stream of dropped inputs from that of times and noise.
_DROPOUT_STREAM = 0x2545F491


class LoraFlowMatching(FlowMatching):
    """The reported loss is the minimized one.

    Args:
        recipe: with ``lora`` set.
        device: where the network computes.

    Raises:
        CheckpointError: the base cannot be read.
        TrainingError: the base is another network than the recipe's.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        assert recipe.lora is not None, "the recipe has no lora"
        super().__init__(recipe, device)
        self.lora = recipe.lora
        self.targets = lora_targets(recipe.model, self.lora.targets)
        base = self._read_base()
        self.base_sha256 = base.report.sha256
        self._use_base(base)

    def _use_base(self, base: Checkpoint) -> None:
        """What an objective makes of the base's weights, which are not kept."""
        new_words = bool(self.lora.new_words)
        self.prior = PriorPreservation(base, self.recipe, self.device) if new_words else None

    @property
    def image_flops(self) -> float:
        # In its backward pass the base only passes gradients on, while a pair computes its own
        # too. Prior preservation evaluates the base once more.
        model = self.recipe.model
        passes = 2.0 if self.prior is None else 3.0
        return passes * (denoiser_flops(model) + adapter_flops(model)) + 3.0 * pair_flops(
            model, self.targets, self.lora.rank
        )

    def initialize(self, net: MMJiT) -> None:
        """The base's averaged weights, and adapters that change nothing yet."""
        copy_weights(net, self._read_base().tensors)
        add_adapters(net, self.lora, self.targets, self.recipe.seed)

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        self._seed_dropout(batch, step)
        return super().loss(net, batch, step)

    def _seed_dropout(self, batch: Batch, step: int) -> None:
        if self.lora.dropout:
            # peft's dropout draws from torch's own generator, which nothing else here uses.
            stream = _DROPOUT_STREAM * (1 + batch.positions[0])
            torch.manual_seed((draw_seed(self.recipe.seed, step) ^ stream) & 0xFFFFFFFF)

    def _target(self, images: Tensor, captions: Sequence[str]) -> TargetFunction | None:
        if self.prior is None:
            return None
        is_new = self.prior.mentions_new(captions).to(self.device)
        return partial(self.prior.target, images, is_new)

    def deployable_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The base with adapters merged, W + alpha / rank * B @ A.

        The base is read anew, so that no second copy of it takes memory between two calls.
        """
        tensors = {n: torch.from_numpy(value) for n, value in self._read_base().tensors.items()}
        for module in self.targets:
            a, b = (weights[f"{module}.lora_{side}.weight"] for side in "AB")
            tensors[f"{module}.weight"] += (b @ a) * (self.lora.alpha / self.lora.rank)
        return tensors

    def _read_base(self) -> Checkpoint:
        base = load_checkpoint(self.lora.base_folder)
        check_same_network(self.lora.base_folder, base.config, self.recipe.model)
        return base


def pair_flops(model: ModelConfig, targets: tuple[str, ...], rank: int) -> float:
    """Operations of one image through every pair, in a forward pass."""
    sizes = linear_modules(model)
    num_image, num_text = model.num_image_tokens, model.num_text_tokens
    return sum(
        2.0 * rank * sum(sizes[name]) * (num_text if "txt_" in name else num_image)
        for name in targets
    )
