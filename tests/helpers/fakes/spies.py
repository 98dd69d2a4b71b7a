"""The fake runtime with a notebook, and what it paints by its description alone."""

from __future__ import annotations

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.runtimes.fake import FakeRuntime, FakeTrajectory
from minit2i_deploy.solvers.row import Row
from tests.helpers.bundles import CONFIG


class SpyTrajectory(FakeTrajectory):
    """Notes the weights and the noise of every row."""

    def __init__(self, x: np.ndarray, tokens: np.ndarray) -> None:
        super().__init__(x, tokens)
        self.weights: list[list[float]] = []
        self.noise: list[np.ndarray | None] = []

    def step(self, row: Row, noise: np.ndarray | None = None) -> None:
        self.weights.append(row.weights.tolist())
        self.noise.append(noise)
        super().step(row, noise)


class SpyRuntime(FakeRuntime):
    """Keeps its calls: texts encoded at once, texts adapted at once, trajectories started."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.encoded: list[tuple[int, ...]] = []
        self.adapted: list[int] = []
        self.started: list[SpyTrajectory] = []

    def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        self.encoded.append(input_ids.shape)
        return super().encode(input_ids, attention_mask)

    def adapt(
        self, context: np.ndarray, mask: np.ndarray, conditions: np.ndarray | None = None
    ) -> np.ndarray:
        self.adapted.append(len(context))
        return super().adapt(context, mask, conditions)

    def start(self, x: np.ndarray, tokens: np.ndarray) -> SpyTrajectory:
        self.started.append(SpyTrajectory(x.copy(), tokens))
        return self.started[-1]


def tone(bundle: Bundle, text: str | None) -> float:
    """What the fake network makes of a prompt, from its description alone; None is no prompt."""
    if text is None:
        return 0.0
    ids = bundle.tokenizer().encode([text])[0].ids
    width = CONFIG.txt_input_size
    waves = [np.sin(float(i) * (k + 1) / width) for i in ids for k in range(width)]
    return float(np.sum(waves)) / (CONFIG.prompt_length * width)
