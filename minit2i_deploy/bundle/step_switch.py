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
from jaxtyping import Float32, Int64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.protocol import Runtime, Trajectory
from minit2i_deploy.solvers.row import Row

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
        """Start a trajectory that switches graphs; arguments as in ``protocol.Runtime``."""
        return SplitTrajectory(self._early, self._late, self._t, x, tokens)

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
    """State of one batch, on the early runtime until the first late row and then on the late one.

    Args:
        early: runs the rows before the switch.
        late: runs the rows from the first one at t or later on.
        t: time of the switch, 0 noise to 1 data.
        x: float32 [batch, 3, H, W].
        tokens: float32 [branches, batch, adapted tokens, hidden].
    """

    def __init__(
        self,
        early: Runtime,
        late: Runtime,
        t: float,
        x: Float32[np.ndarray, "batch 3 height width"],
        tokens: Float32[np.ndarray, "branches batch adapted hidden"],
    ) -> None:
        self._late, self._t, self._tokens = late, t, tokens
        self._now, self._switched = early.start(x, tokens), False

    def step(
        self, row: Row, noise: Float32[np.ndarray, "batch 3 height width"] | None = None
    ) -> None:
        """Advance by one row; arguments as in ``protocol.Trajectory``."""
        if not self._switched and row.t >= self._t - TIME_ROUNDING:
            x, h = self._now.state()
            self._now, self._switched = self._late.start(x, self._tokens), True
            # A start has no history, but what takes noise into its slot takes a history too.
            noise = h if noise is None else noise
        self._now.step(row, noise)

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h, float32 [batch, 3, H, W]."""
        return self._now.state()
