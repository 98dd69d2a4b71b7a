"""The few-step student's text adapter: condition tokens precede the text tokens.

Shapes: B batch, L prompt length, P prefix length, D width.
Source: minit2i-jax, branch mean_flow_distill, class MeanFlowMMJiT.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from minit2i_deploy.checkpoints.canonical_names import FREQUENCY_CHANNELS
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import UsageError
from minit2i_deploy.model.text_adapter import TextAdapter

_PERIOD: Final = 10000.0


class ScalarEmbedder(nn.Module):
    """Sinusoid of a number, then linear, silu, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCY_CHANNELS, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, value: Tensor) -> Tensor:
        """Embed one number per image: [B] to [B, D]."""
        dtype = next(self.mlp.parameters()).dtype
        return self.mlp(sinusoid(value).to(dtype))


def sinusoid(value: Tensor) -> Tensor:
    """Cosines, then sines, of the value at 128 frequencies from 1 down to almost 1 / 10000.

    Args:
        value: [B]; not scaled, so 0..1 spans one radian at the highest frequency.

    Returns:
        float32 [B, 256], whatever the network's type: the angles need more than half precision.
    """
    half = FREQUENCY_CHANNELS // 2
    index = torch.arange(half, dtype=torch.float32, device=value.device)
    angles = value.to(torch.float32)[:, None] * torch.exp(index * (-math.log(_PERIOD) / half))
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


class StudentAdapter(TextAdapter):
    """The text adapter with a prefix that tells the step's length and the guidance.

    The prefix is rotated in the text-only blocks like any token; the denoiser leaves it unrotated.
    The time itself is not an input: the network infers it from the noisy image, as in the base
    model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        student, width = config.student, config.hidden_size
        assert student is not None, "expected a student's configuration"
        self.context_tokens = _tokens(student.num_context_tokens, width)
        self.omega_tokens = _tokens(student.num_cfg_tokens, width)
        self.t_min_tokens = _tokens(student.num_interval_tokens, width)
        self.t_max_tokens = _tokens(student.num_interval_tokens, width)
        self.time_tokens = _tokens(student.num_time_tokens, width)
        self.aux_pooled_embedder = nn.Linear(config.txt_input_size, width, bias=False)
        self.omega_embedder = ScalarEmbedder(width)
        self.t_min_embedder = ScalarEmbedder(width)
        self.t_max_embedder = ScalarEmbedder(width)
        self.h_embedder = ScalarEmbedder(width)

    def forward(  # type: ignore[override]
        self,
        context: Tensor,
        mask: Tensor,
        h: Tensor | float,
        omega: Tensor | float,
        t_min: Tensor | float,
        t_max: Tensor | float,
    ) -> Tensor:
        """Adapt the text encoder's output to the step's conditions.

        Args:
            context: [B, L, txt_input_size], as in ``TextAdapter``.
            mask: [B, L], as in ``TextAdapter``.
            h: [B], or one number for all images; length of the step in time, 0 to 1.
            omega: as h; guidance scale, 1 or more.
            t_min: as h; where guidance ends; noise level, 0 data to 1 noise.
            t_max: as h; where guidance begins; noise level, at least t_min.

        Returns:
            tokens: [B, P + L, hidden_size].

        Raises:
            UsageError: a condition is neither one number nor one per image.
        """
        masked = self._masked(context, mask)
        conditions = {"h": h, "omega": omega, "t_min": t_min, "t_max": t_max}
        each = (_per_image(name, value, masked) for name, value in conditions.items())
        prefix = self.condition_tokens(masked, *each)
        return self._blocks(torch.cat([prefix, self.txt_embedder(masked)], dim=1))

    def condition_tokens(
        self, masked: Tensor, h: Tensor, omega: Tensor, t_min: Tensor, t_max: Tensor
    ) -> Tensor:
        """The prefix, [B, P, D], from the masked context [B, L, txt_input_size] and scalars [B]."""
        groups = (
            # Averaged over all positions, those with the mask token included.
            (self.context_tokens, self.aux_pooled_embedder(masked.mean(dim=1))),
            (self.omega_tokens, self.omega_embedder(1 - 1 / omega)),
            (self.t_min_tokens, self.t_min_embedder(t_min)),
            (self.t_max_tokens, self.t_max_embedder(t_max)),
            (self.time_tokens, self.h_embedder(h)),
        )
        return torch.cat([tokens + embedded[:, None] for tokens, embedded in groups], dim=1)


def _per_image(name: str, value: Tensor | float, masked: Tensor) -> Tensor:
    """A condition as [B], from one number or one for each image."""
    if not isinstance(value, Tensor):
        value = torch.tensor(value, dtype=torch.float32, device=masked.device)
    if value.ndim == 0:
        return value.expand(len(masked))
    # While exporting, the number of images is symbolic and cannot be compared.
    if not torch.compiler.is_exporting() and value.shape != masked.shape[:1]:
        raise UsageError(
            f"{name} must be one number or [{len(masked)}], one for each image, got "
            f"[{', '.join(map(str, value.shape))}]"
        )
    return value


def _tokens(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(1, count, width))
