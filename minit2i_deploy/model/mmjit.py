"""MM-JiT as two modules and the complete network. Parameter names are the Hub release's.

The network does not see the time. What depends on the prompt alone is the text adapter, run once
an image; the denoiser is a function of the noisy image and the adapted tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.model.blocks import DoubleBlock
from minit2i_deploy.model.layers import RMSNorm, as_stream
from minit2i_deploy.model.looped import LoopedBlock
from minit2i_deploy.model.positions import (
    axis_parts,
    image_position_table,
    image_rotary,
    text_rotary,
)
from minit2i_deploy.model.student import StudentAdapter
from minit2i_deploy.model.text_adapter import TextAdapter


class PatchEmbed(nn.Module):
    """Two linear maps of every patch, to pca_channels and then to the network's width.

    Parameters are those of the official convolutions: P x P of stride P, then 1 x 1. As matrix
    products the graph needs no cuDNN, whose search for an algorithm delays the first step.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        patch, pca = config.patch_size, config.pca_channels
        self.proj1 = nn.Conv2d(config.in_channels, pca, patch, stride=patch, bias=False)
        self.proj2 = nn.Conv2d(pca, config.hidden_size, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, D], patches in row-major order."""
        batch, channels, height, width = x_BCHW.shape
        patch = self.proj1.weight.shape[-1]
        lines, columns = height // patch, width // patch
        grid = x_BCHW.reshape(batch, channels, lines, patch, columns, patch)
        # [channel, line, column] within a patch, as the weight has them. One axis for all patches
        # of the batch makes each product one Gemm.
        patches = grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * patch * patch)
        reduced = F.linear(patches, self.proj1.weight.flatten(1))
        tokens = F.linear(reduced, self.proj2.weight.flatten(1), self.proj2.bias)
        return tokens.reshape(-1, lines * columns, tokens.shape[-1])


class FinalLayer(nn.Module):
    """RMSNorm and a linear layer from a token to its patch's pixels, [height, width, channel]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_final = RMSNorm(config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, config.patch_size**2 * config.in_channels)

    def forward(self, img_BND: Tensor) -> Tensor:
        return self.linear(self.norm_final(img_BND))


class Denoiser(nn.Module):
    """Noisy image and adapted tokens to the predicted clean image."""

    position_table: Tensor
    img_rotary: Tensor
    txt_rotary: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        num_prefix = config.student.num_tokens if config.student else 0
        self.img_embedder = PatchEmbed(config)
        self.double_blocks = nn.ModuleList(
            _double_block(config, index) for index in range(config.depth_double)
        )
        self.final_layer = FinalLayer(config)
        tables = {
            "position_table": image_position_table(config.patch_grid, config.hidden_size),
            "img_rotary": image_rotary(config.patch_grid, config.head_dim),
            "txt_rotary": text_rotary(config.num_text_tokens, config.head_dim, num_prefix),
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def forward(self, x: Tensor, tokens: Tensor, loops: int | None = None) -> Tensor:
        """Predict the clean image.

        Args:
            x: [B, 3, H, W], the noisy image, in units of pixels in [-1, 1].
            tokens: [B, L, hidden_size], the text adapter's output.
            loops: passes of a looped network's core; None is the configuration's number.

        Returns:
            x0: [B, 3, H, W], not clipped.

        Raises:
            UsageError: the network has no loop, or cannot run it that often.
        """
        weights = self.final_layer.linear.weight.dtype
        img, txt = as_stream(self.img_embedder(x), weights), as_stream(tokens, weights)
        position_table, img_rotary = self._positions(x)
        img = img + position_table.to(img.dtype)
        *blocks, last = (self.double_blocks[i] for i in self.config.block_order(loops))
        for block in blocks:
            img, txt = block(img, txt, img_rotary, self.txt_rotary)
        img = last.forward_last(img, txt, img_rotary, self.txt_rotary)  # type: ignore[operator]
        return self._unpatchify(self.final_layer(img), x)

    def _positions(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The position table [N, D] and rotary angles [2, N, K] of the image's grid."""
        return self.position_table, self.img_rotary

    def _unpatchify(self, patches_BNX: Tensor, x_BCHW: Tensor) -> Tensor:
        config = self.config
        (lines, columns), patch = config.patch_grid, config.patch_size
        grid = patches_BNX.reshape(-1, lines, columns, patch, patch, config.in_channels)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, *config.image_shape)


class FreeDenoiser(Denoiser):
    """A denoiser of images whose height and width are known only when it runs.

    Positions are sums of stored values by line and by column, so they are those of a ``Denoiser``
    of that size to the last bit, and no engine computes an angle.

    Args:
        config: shape of the network.
        max_side: pixels of the largest side, a multiple of the patch.
    """

    line_positions: Tensor
    column_positions: Tensor
    line_rotary: Tensor
    column_rotary: Tensor

    def __init__(self, config: ModelConfig, max_side: int) -> None:
        super().__init__(config)
        del self.position_table, self.img_rotary
        num_patches = max_side // config.patch_size
        tables = {
            "positions": axis_parts(
                lambda grid: image_position_table(grid, config.hidden_size), num_patches
            ),
            "rotary": axis_parts(lambda grid: image_rotary(grid, config.head_dim), num_patches),
        }
        for name, parts in tables.items():
            for axis, part in zip(("line", "column"), parts, strict=True):
                self.register_buffer(f"{axis}_{name}", torch.from_numpy(part), persistent=False)

    def _positions(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        lines, columns = self._grid(x_BCHW)
        table = self.line_positions[:lines, None] + self.column_positions[None, :columns]
        rotary = self.line_rotary[:, :lines, None] + self.column_rotary[:, None, :columns]
        return table.flatten(0, 1), rotary.flatten(1, 2)

    def _unpatchify(self, patches_BNX: Tensor, x_BCHW: Tensor) -> Tensor:
        (lines, columns), patch = self._grid(x_BCHW), self.config.patch_size
        channels = self.config.in_channels
        grid = patches_BNX.reshape(-1, lines, columns, patch, patch, channels)
        shape = (-1, channels, lines * patch, columns * patch)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(shape)

    def _grid(self, x_BCHW: Tensor) -> tuple[int, int]:
        patch = self.config.patch_size
        return x_BCHW.shape[2] // patch, x_BCHW.shape[3] // patch


def _double_block(config: ModelConfig, index: int) -> DoubleBlock:
    is_core = config.loop is not None and config.loop.is_core(index)
    return LoopedBlock(config) if is_core else DoubleBlock(config)


class MMJiT(nn.Module):
    """The complete network: ``net(x, context, mask) -> x0``.

    A few-step student's is ``net(x, context, mask, h=, omega=, t_min=, t_max=) -> x0``; a looped
    network's takes ``loops=`` as well.

    Args:
        config: shape of the network.
        max_side: pixels of the largest side, for images of any size; None is the configuration's
            size alone.
    """

    def __init__(self, config: ModelConfig, max_side: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.text_adapter = StudentAdapter(config) if config.student else TextAdapter(config)
        self.denoiser = Denoiser(config) if max_side is None else FreeDenoiser(config, max_side)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        mask: Tensor,
        *,
        loops: int | None = None,
        **conditions: Tensor | float,
    ) -> Tensor:
        """Predict the clean image; arguments are those of the text adapter and of ``Denoiser``."""
        return self.denoiser(x, self.text_adapter(context, mask, **conditions), loops)

    def canonical_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters under the Hub release's names, which have no prefix for the two modules."""
        return {name.split(".", 1)[1]: value for name, value in self.named_parameters()}
