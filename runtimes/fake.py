"""A runtime without a network: a fixed, cheap, smooth function takes its place.

It shares the loop, the row arithmetic and every shape with the others, so programs around
``generate`` and ``embed`` can be tested without an engine.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.runtimes.base import BaseRuntime
from minit2i_deploy.solvers.row import Known, Row, advance


class FakeRuntime(BaseRuntime):
    """Embeddings are sinusoids of the token ids, and a branch's estimate is tanh of x plus a tone.

    Args:
        bundle: gives the sizes; its graphs are not opened.
    """

    name = "fake"
    switches_step_graph = True
    runs_network = False

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.config = bundle.config

    def _encode(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """sin(id * (k + 1) / width) for channel k."""
        width = self.config.txt_input_size
        wave = np.sin(ids[..., None] * (np.arange(width) + 1.0) / width)
        return (wave * mask[..., None]).astype(np.float32)

    def _adapt(
        self, context: np.ndarray, mask: np.ndarray, conditions: np.ndarray | None
    ) -> np.ndarray:
        """The masked mean of the context and conditions, repeated over tokens and channels."""
        mean = (context * (mask[..., None] > 0)).mean(axis=(1, 2))
        if conditions is not None:
            mean = mean + conditions.mean(axis=1)
        shape = (len(context), self.config.num_text_tokens, self.config.hidden_size)
        return np.broadcast_to(mean[:, None, None], shape).astype(np.float32)

    def _start(
        self, x: np.ndarray, tokens: np.ndarray, known: Known | None = None
    ) -> FakeTrajectory:
        return FakeTrajectory(x.copy(), tokens, known)


class FakeTrajectory:
    """State of one batch in numpy, advanced by ``table.advance``."""

    def __init__(self, x: np.ndarray, tokens: np.ndarray, known: Known | None = None) -> None:
        self._x, self._h, self._known = x, np.zeros_like(x), known
        self._tone = tokens.mean(axis=(2, 3))[:, :, None, None, None]

    def step(
        self, row: Row, noise: Float32[np.ndarray, "batch 3 height width"] | None = None
    ) -> None:
        """Advance by one row; arguments as in ``protocol.Trajectory``."""
        h = self._h if noise is None else noise
        x0 = np.tanh(self._x[None] + self._tone[: len(row.weights)])
        self._x, self._h = advance(self._x, h, x0, row.weights, row.values, self._known)

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h."""
        return self._x.copy(), self._h.copy()
