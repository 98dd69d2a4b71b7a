"""Late rows on a step graph of their own, in a bundle that has one.

Early rows may run in fewer bits than late ones. Both graphs take and give the same state, so a
switch is a start from where the other graph stopped, and no runtime needs to know of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from types import TracebackType
from typing import Final, Self

import numpy as np
from jaxtyping import Float32, Float64, Int64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.protocol import Runtime, Trajectory

_STEP: Final = "transformer"
TIME_ROUNDING: Final = 1e-9


def late_view(bundle: Bundle) -> Bundle:
    """The bundle with its late step graph in the step graph's place, as a runtime opens it.

    Its digest is another one, so that nothing compiled for one graph is taken for the other.
    """
    late = bundle.manifest.late
    assert late is not None, "only a bundle with a late graph has this view"
    graphs = {**bundle.manifest.graphs, _STEP: late.graph}
    manifest = dataclasses.replace(bundle.manifest, graphs=graphs, late=None)
    digest = hashlib.sha256(f"{bundle.digest} late".encode("ascii")).hexdigest()
    return dataclasses.replace(bundle, manifest=manifest, digest=digest)


class SplitRuntime:
    """Two open runtimes of one bundle: one for all but the late rows, and one for those.

    Args:
        early: of the bundle; its graphs read the text as well.
        late: of ``late_view``.
        t: rows from this time on are late, 0 noise to 1 data.
    """

    def __init__(self, early: Runtime, late: Runtime, t: float) -> None:
        self.name, self._early, self._late, self._t = early.name, early, late, t
        # Where the early one tells it; what stands for the whole bundle is the early one's.
        self.bundle = getattr(early, "bundle", None)

    @property
    def is_open(self) -> bool:
        """Whether both can be asked; runtimes that do not tell count as open."""
        return all(getattr(each, "is_open", True) for each in (self._early, self._late))

    @property
    def provider(self) -> str:
        """Name of the provider in use, where the runtime has such a choice."""
        return str(getattr(self._early, "provider", ""))

    def encode(
        self,
        input_ids: Int64[np.ndarray, "n tokens"],
        attention_mask: Int64[np.ndarray, "n tokens"],
    ) -> Float32[np.ndarray, "n tokens width"]:
        """Run the text encoder; arguments and result as in ``protocol.Runtime``."""
        return self._early.encode(input_ids, attention_mask)

    def adapt(
        self,
        context: Float32[np.ndarray, "n length width"],
        mask: Int64[np.ndarray, "n length"],
        conditions: Float32[np.ndarray, "n 4"] | None = None,
    ) -> Float32[np.ndarray, "n adapted hidden"]:
        """Run the text adapter; arguments and result as in ``protocol.Runtime``."""
        return self._early.adapt(context, mask, conditions)

    def start(
        self,
        x: Float32[np.ndarray, "batch 3 height width"],
        tokens: Float32[np.ndarray, "branches batch adapted hidden"],
    ) -> Trajectory:
        """Start on the early graph and stay there; ``start_rows`` knows when to switch.

        Arguments as in ``protocol.Runtime``.
        """
        return self._early.start(x, tokens)

    def start_rows(
        self,
        x: Float32[np.ndarray, "batch 3 height width"],
        tokens: Float32[np.ndarray, "branches batch adapted hidden"],
        times: Float64[np.ndarray, " rows"],
    ) -> Trajectory:
        """Start a trajectory whose rows have these times; it switches at the first late one.

        Arguments as in this module's function of that name.
        """
        late = np.flatnonzero(times >= self._t - TIME_ROUNDING)
        if not len(late):
            return self._early.start(x, tokens)
        if late[0] == 0:
            return self._late.start(x, tokens)
        return SplitTrajectory(self._early, self._late, x, tokens, int(late[0]))

    def close(self) -> None:
        """Close both."""
        self._early.close()
        self._late.close()

    def __enter__(self) -> Self:
        self._early.__enter__()
        self._late.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SplitTrajectory:
    """State of one batch, on the early runtime for so many rows and then on the late one."""

    def __init__(
        self, early: Runtime, late: Runtime, x: np.ndarray, tokens: np.ndarray, num_early: int
    ) -> None:
        self._late, self._tokens, self._left = late, tokens, num_early
        self._now = early.start(x, tokens)

    def step(
        self,
        row: Float32[np.ndarray, " 6"],
        weights: Float32[np.ndarray, " branches"],
        noise: Float32[np.ndarray, "batch 3 height width"] | None = None,
    ) -> None:
        """Advance by one row; arguments as in ``protocol.Trajectory``."""
        if self._left == 0:
            x, h = self._now.state()
            self._now = self._late.start(x, self._tokens)
            # A start has no history, but what takes noise into its slot takes a history too.
            noise = h if noise is None else noise
        self._left -= 1
        self._now.step(row, weights, noise)

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h, float32 [batch, 3, H, W]."""
        return self._now.state()


def start_rows(
    runtime: Runtime,
    x: Float32[np.ndarray, "batch 3 height width"],
    tokens: Float32[np.ndarray, "branches batch adapted hidden"],
    times: Float64[np.ndarray, " rows"],
) -> Trajectory:
    """Start a trajectory on any runtime, switching graphs on the way where it has two.

    Args:
        runtime: an open runtime.
        x: float32 [batch, 3, H, W], the start state.
        tokens: float32 [branches, batch, adapted tokens, hidden].
        times: float64 [rows], t of every row to come, 0 noise to 1 data.
    """
    if isinstance(runtime, SplitRuntime):
        return runtime.start_rows(x, tokens, times)
    return runtime.start(x, tokens)
