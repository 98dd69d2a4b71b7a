"""The loop over a table's rows in torch, for a network without a bundle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from minit2i_deploy.model.step import Step
from minit2i_deploy.solvers.table import Table


def run_row(
    step: Step, x: Tensor, h: Tensor, tokens: Tensor, weights: Tensor, row: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance a batch by one row that all its images share, with no pixel known.

    Args:
        step: the step module.
        x: [B, 3, H, W], the noisy images.
        h: [B, 3, H, W], the history slot.
        tokens: [branches, B, L, D], adapted tokens, the conditional branch first.
        weights: [branches].
        row: [6], ``row.GRAPH_COLUMNS``.

    Returns:
        the next x and h.
    """
    branches, batch = tokens.shape[:2]
    places = torch.arange(branches * batch, device=x.device)
    after: tuple[Tensor, Tensor] = step(
        x,
        h,
        tokens.flatten(0, 1),
        places % batch,
        places.reshape(branches, batch),
        weights[:, None].expand(-1, batch),
        row.expand(batch, -1),
        torch.zeros_like(x),
        torch.zeros_like(x[:, :1]),
    )
    return after


@torch.no_grad()
def run_table(
    step: Step, x: Tensor, tokens: Tensor, table: Table, guidance: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Advance a state through every row.

    Args:
        step: the step module.
        x: float32 [B, 3, H, W], the start noise, already scaled.
        tokens: [branches, B, L, D], adapted tokens, the conditional branch first.
        table: the solver; rows that ask for noise are refused by an assertion, because training
            and verification use deterministic solvers.
        guidance: scale of classifier-free guidance.

    Yields:
        (x, h) after each row.
    """
    assert not np.any(table.column("n")), "expected a deterministic table"
    h = torch.zeros_like(x)
    for row in table.steps(guidance):
        values, weights = (torch.from_numpy(a).to(x.device) for a in (row.values, row.weights))
        x, h = run_row(step, x, h, tokens[: len(weights)], weights, values)
        yield x, h
