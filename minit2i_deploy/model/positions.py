"""Position tables: rotary angles of text and image, and the fixed table added to image tokens.

Source: minit2i-jax main, MMJiT's rope helpers and get_2d_sincos_pos_embed. All tables are computed
in float64 and rounded once, so they do not depend on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

THETA = 10000.0


def _inverse_frequencies(num_channels: int) -> np.ndarray:
    return THETA ** (-np.arange(0, num_channels, 2, dtype=np.float64) / num_channels)


def _cos_sin(angles: np.ndarray) -> Float32[np.ndarray, "2 tokens head_dim"]:
    repeated = np.concatenate([angles, angles], axis=1)
    return np.stack([np.cos(repeated), np.sin(repeated)]).astype(np.float32)


def text_rotary(
    num_tokens: int, head_dim: int, num_unrotated: int = 0
) -> Float32[np.ndarray, "2 tokens head_dim"]:
    """Cosines and sines for text positions 0..num_tokens-1, rotate-half over all of the head.

    Args:
        num_tokens: length of the text stream.
        head_dim: width of one head.
        num_unrotated: leading tokens that are not rotated (the student's prefix in the
            joint blocks); the others keep their position after them.

    Returns:
        float32 [2, num_tokens, head_dim]: [cos, sin].
    """
    positions = np.arange(num_tokens, dtype=np.float64)
    positions[:num_unrotated] = 0.0
    return _cos_sin(np.outer(positions, _inverse_frequencies(head_dim)))


def image_rotary(grid: tuple[int, int], head_dim: int) -> Float32[np.ndarray, "2 tokens head_dim"]:
    """Cosines and sines for a grid of image tokens in row-major order.

    Half of the pairs rotate by the line, half by the column of a token.

    Args:
        grid: numbers of lines and of columns.
        head_dim: width of one head.

    Returns:
        float32 [2, lines * columns, head_dim]: [cos, sin].
    """
    frequencies = _inverse_frequencies(head_dim // 2)
    line, column = _lines_and_columns(grid)
    angles = [np.outer(axis.astype(np.float64), frequencies) for axis in (line, column)]
    return _cos_sin(np.concatenate(angles, axis=1))


def axis_parts(
    table_of: Callable[[tuple[int, int]], np.ndarray], num_patches: int
) -> tuple[np.ndarray, np.ndarray]:
    """A table's values by line and by column: their sum over a grid is that grid's table, exactly.

    No channel depends on both axes, so each is zero in one of the parts.

    Args:
        table_of: the table of a grid of lines and columns, float32 [..., tokens, channels].
        num_patches: most lines and most columns.

    Returns:
        two arrays float32 [..., num_patches, channels].
    """
    line, column = table_of((num_patches, 1)), table_of((1, num_patches))
    outer = tuple(range(column.ndim - 1))
    is_of_column = (column != column[..., :1, :]).any(axis=outer)
    zero = np.float32(0)
    return np.where(is_of_column, zero, line), np.where(is_of_column, column, zero)


def _lines_and_columns(grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Line and column of every token, counted from the top left as at any other size."""
    num_lines, num_columns = grid
    return np.divmod(np.arange(num_lines * num_columns), num_columns)


def image_position_table(grid: tuple[int, int], width: int) -> Float32[np.ndarray, "tokens width"]:
    """The fixed sin-cos table: first half of the channels from x, second half from y.

    Args:
        grid: numbers of lines and of columns.
        width: of the network's streams.

    Returns:
        float32 [lines * columns, width]; each half is [sin | cos].
    """
    frequencies = _inverse_frequencies(width // 2)
    y, x = _lines_and_columns(grid)
    parts = []
    for axis in (x, y):
        angles = np.outer(axis.astype(np.float64), frequencies)
        parts += [np.sin(angles), np.cos(angles)]
    return np.concatenate(parts, axis=1).astype(np.float32)
