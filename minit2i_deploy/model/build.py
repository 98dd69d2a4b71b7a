"""Build a network from a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import CheckpointError
from minit2i_deploy.model.mmjit import MMJiT

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from minit2i_deploy.checkpoints import Checkpoint


def network_from_config(
    config: ModelConfig, tensors: Mapping[str, np.ndarray], max_side: int | None = None
) -> MMJiT:
    """A float32 network; it shares memory with those ``tensors`` that are float32.

    Args:
        config: shape of the network.
        tensors: canonical names to arrays, every one of the network's and no other.
        max_side: as for ``MMJiT``.

    Raises:
        CheckpointError: names or shapes differ from the configuration's.
    """
    with torch.device("meta"):
        net = MMJiT(config, max_side)
    expected = {name: tuple(value.shape) for name, value in net.canonical_parameters().items()}
    actual = {name: tuple(value.shape) for name, value in tensors.items()}
    wrong = sorted(
        name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)
    )
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{len(wrong)} tensors do not fit the configuration, first {name}: "
            f"expected shape {expected.get(name)}, got {actual.get(name)}; check config.json"
        )
    net.load_state_dict(
        {
            full_name: torch.from_numpy(tensors[full_name.split(".", 1)[1]]).to(torch.float32)
            for full_name, _ in net.named_parameters()
        },
        strict=True,
        assign=True,
    )
    return net.eval().requires_grad_(False)


def build_network(checkpoint: Checkpoint, max_side: int | None = None) -> MMJiT:
    """The network of a checkpoint, in float32 and evaluation mode.

    Args:
        checkpoint: from ``load_checkpoint``.
        max_side: pixels of the largest side, for images of any size up to it; None builds it for
            the checkpoint's size alone.

    Returns:
        ``net(x, context, mask) -> x0`` with x and x0 [B, 3, H, W] in pixel units of [-1, 1],
        context [B, L, txt_input_size] and mask [B, L]; a few-step student's is
        ``net(x, context, mask, h=, omega=, t_min=, t_max=) -> x0``, each of the four [B] or one
        number for all images. A looped network's (Looped-DiT) also takes ``loops=N``, the passes
        through its core; without it the checkpoint's own number.

    Raises:
        CheckpointError: names or shapes differ from the configuration's.
    """
    return network_from_config(checkpoint.config, checkpoint.tensors, max_side)
