"""Two step graphs in one bundle, switched at a time of the trajectory.

The rows before the switch may run in fewer bits than those after it. Both graphs take and return
the same state, so a switch is a start from the state of the other graph, and no runtime needs to
know of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.protocol import BatchRuntime, Runtime, Trajectory
from minit2i_deploy.solvers.row import Known, Row
from minit2i_deploy.solvers.step_inputs import ImageStep

_STEP: Final = "transformer"
TIME_ROUNDING: Final = 1e-9


def bundle_after_switch(bundle: Bundle) -> Bundle:
    """The bundle with the graph of the rows after the switch as its step graph.

    Its digest is another one, so that nothing compiled for one graph is taken for the other.
    """
    switch = bundle.manifest.switch
    assert switch is not None, "the bundle has one step graph"
    graphs = {**bundle.manifest.graphs, _STEP: switch.graph}
    manifest = dataclasses.replace(bundle.manifest, graphs=graphs, switch=None)
    # Caches of compiled graphs are found by this word.
    digest = hashlib.sha256(f"{bundle.digest} late".encode("ascii")).hexdigest()
    return dataclasses.replace(bundle, manifest=manifest, digest=digest)


class SwitchRuntime:
    """Two open runtimes of one bundle: one for the rows before the switch, one for those after.

    Args:
        before: of the bundle; its graphs read the text as well.
        after: of ``bundle_after_switch``.
        t: time of the switch, 0 noise to 1 data; rows from this time on run after it.
    """

    def __init__(self, before: Runtime, after: Runtime, t: float) -> None:
        self.name, self._before, self._after, self._t = before.name, before, after, t
        # A runtime from outside may have no bundle.
        self.bundle = getattr(before, "bundle", None)

    @property
    def is_open(self) -> bool:
        """Whether both runtimes are open; one without this attribute counts as open."""
        return all(getattr(each, "is_open", True) for each in (self._before, self._after))

    @property
    def provider(self) -> str:
        """Name of the provider in use, or "" where the runtime has no such choice."""
        return str(getattr(self._before, "provider", ""))

    def runs_precision(self, precision: str) -> bool:
        """Whether both have kernels for graphs of this precision; see ``base.BaseRuntime``."""
        checks = (getattr(each, "runs_precision", None) for each in (self._before, self._after))
        return all(runs is None or runs(precision) for runs in checks)

    def encode(
        self,
        input_ids: Int64[np.ndarray, "n tokens"],
        attention_mask: Int64[np.ndarray, "n tokens"],
    ) -> Float32[np.ndarray, "n tokens width"]:
        """Run the text encoder; arguments and result as in ``protocol.Runtime``."""
        return self._before.encode(input_ids, attention_mask)

    def adapt(
        self,
        context: Float32[np.ndarray, "n length width"],
        mask: Int64[np.ndarray, "n length"],
        conditions: Float32[np.ndarray, "n 4"] | None = None,
    ) -> Float32[np.ndarray, "n adapted hidden"]:
        """Run the text adapter; arguments and result as in ``protocol.Runtime``."""
        return self._before.adapt(context, mask, conditions)

    def start(
        self,
        x: Float32[np.ndarray, "batch 3 height width"],
        tokens: Float32[np.ndarray, "branches batch adapted hidden"],
        known: Known | None = None,
    ) -> Trajectory:
        """Start a trajectory that switches graphs; arguments as in ``protocol.Runtime``."""
        return SwitchTrajectory(self._before, self._after, self._t, x, tokens, known)

    def step_batch(
        self, images: Sequence[ImageStep]
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Step each image on the runtime of its row's time; see ``protocol.BatchRuntime``."""
        after = [item.row.t >= self._t - TIME_ROUNDING for item in images]
        states = [np.empty((len(images), *images[0].x.shape), np.float32) for _ in "xh"]
        for runtime, is_after in ((self._before, False), (self._after, True)):
            places = [place for place, late in enumerate(after) if late is is_after]
            if places:
                assert isinstance(runtime, BatchRuntime), "a switch is opened on our runtimes"
                stepped = runtime.step_batch([images[place] for place in places])
                for state, values in zip(states, stepped, strict=True):
                    state[places] = values
        x, h = states
        return x, h

    def close(self) -> None:
        """Close both runtimes."""
        self._before.close()
        self._after.close()

    def __enter__(self) -> Self:
        self._before.__enter__()
        self._after.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SwitchTrajectory:
    """State of one batch, on one runtime before the switch and on the other one after it.

    Args:
        before: runs the rows before the switch.
        after: runs the first row at t or later, and all that follow.
        t: time of the switch, 0 noise to 1 data.
        x: float32 [batch, 3, H, W].
        tokens: float32 [branches, batch, adapted tokens, hidden].
        known: pixels that stay as they are, or None.
    """

    def __init__(
        self,
        before: Runtime,
        after: Runtime,
        t: float,
        x: Float32[np.ndarray, "batch 3 height width"],
        tokens: Float32[np.ndarray, "branches batch adapted hidden"],
        known: Known | None = None,
    ) -> None:
        self._after, self._t, self._tokens = after, t, tokens
        # Runtimes that cannot edit take two arguments.
        self._known = () if known is None else (known,)
        self._state, self._switched = before.start(x, tokens, *self._known), False

    def step(
        self, row: Row, noise: Float32[np.ndarray, "batch 3 height width"] | None = None
    ) -> None:
        """Advance by one row; arguments as in ``protocol.Trajectory``."""
        if not self._switched and row.t >= self._t - TIME_ROUNDING:
            x, h = self._state.state()
            self._state, self._switched = self._after.start(x, self._tokens, *self._known), True
            # A start has no history; the noise argument is the way into the history slot.
            noise = h if noise is None else noise
        self._state.step(row, noise)

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h, float32 [batch, 3, H, W]."""
        return self._state.state()
