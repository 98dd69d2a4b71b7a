"""How far one engine's estimate of the clean image is from another's, at several noise levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.evaluation.quality.image_metrics import psnr
from minit2i_deploy.evaluation.relative_error import l2_relative_errors
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.solvers.row import Row

# x float32 [1, 3, H, W] at time t, 0 noise to 1 data, to the guided estimate of the clean image.
Estimate = Callable[[np.ndarray, float], np.ndarray]
# A state near the data holds the image already, so an estimate from noise tells most.
TIMES: Final = (0.0, 0.5, 0.9)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EstimateError:
    """The worst over the noise levels.

    Args:
        relative: Euclidean norm of the difference over that of the reference.
        psnr_db: PSNR of the two estimates as images; infinity where they are equal.
    """

    relative: float
    psnr_db: float


def make_estimate(
    runtime: Runtime, tokens: Float32[np.ndarray, "branches 1 adapted hidden"], row: Row
) -> Estimate:
    """The guided estimate of an engine for one prompt.

    The network sees no time, so any row gives it; the time only says which step graph a bundle
    of two takes.

    Args:
        runtime: open.
        tokens: float32 [branches, 1, adapted tokens, hidden].
        row: with a weight for each branch.
    """

    def estimate(x: np.ndarray, t: float) -> np.ndarray:
        state = runtime.start(x, tokens)
        state.step(dataclasses.replace(row, t=t))
        # h' = y + s x
        return state.state()[1] - np.float32(row.slope) * x

    return estimate


def reference_states(
    estimate: Estimate, noise: Float32[np.ndarray, "1 3 height width"]
) -> list[tuple[float, np.ndarray]]:
    """States on the line from the noise to the image that one engine sees in it, with their times.

    Args:
        estimate: of the engine.
        noise: float32 [1, 3, H, W], start noise as the network takes it.
    """
    image = estimate(noise, 0.0)
    return [(t, np.float32(t) * image + np.float32(1.0 - t) * noise) for t in TIMES]


def estimate_error(
    estimate: Estimate,
    states: Sequence[tuple[float, np.ndarray]],
    references: Sequence[np.ndarray],
) -> EstimateError:
    """Compare an engine's estimates with those of another from the same states.

    Args:
        estimate: of the engine.
        states: times and states.
        references: what the other engine gave for each of them.
    """
    pairs = [(estimate(x, t), y) for (t, x), y in zip(states, references, strict=True)]
    return EstimateError(
        relative=max(float(l2_relative_errors(actual, y).max()) for actual, y in pairs),
        psnr_db=min(float(psnr(actual, y).min()) for actual, y in pairs),
    )
