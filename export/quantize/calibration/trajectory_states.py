"""States along real trajectories of the model, for calibration and measurements."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.step_switch import SwitchRuntime
from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime, GraphTrajectory
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.request import Request
from minit2i_deploy.solvers.table import Table


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class State:
    """One call of the step graph.

    Args:
        t: its time, 0 noise to 1 data.
        index: of its row in the table.
        prompt: number of its prompt.
        inputs: of the step graph, by name; one image.
    """

    t: float
    index: int
    prompt: int
    inputs: dict[str, np.ndarray]

    def estimate_inputs(self) -> dict[str, np.ndarray]:
        """The same state with a row whose x_next is the guided estimate itself."""
        row = np.array([0, 1, 0, 0, 0, 0], dtype=np.float32)
        return {**self.inputs, "row": row.reshape(self.inputs["row"].shape)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trajectory:
    """One trajectory: the recorded states, and its end.

    Args:
        states: in the order of their rows.
        final: float32 [1, 3, H, W].
        tokens: float32 [branches, 1, tokens, hidden].
    """

    states: tuple[State, ...]
    final: np.ndarray
    tokens: np.ndarray


def run_trajectories(
    bundle: Bundle,
    runtime: GraphsRuntime | SwitchRuntime,
    prompts: Sequence[str],
    seeds: Sequence[int],
    rows: Sequence[Collection[int]],
    table: Table,
    guidance: float,
    progress: Progress = no_progress,
) -> list[Trajectory]:
    """Run one trajectory per prompt, each on its own, and record states of it.

    Args:
        bundle: has sizes and noise.
        runtime: its graphs, or other versions of them; states are recorded only without a
            switch of step graphs.
        prompts: one per image.
        seeds: of the start noise, one per prompt.
        rows: indices of the rows whose states are recorded, a collection per prompt.
        table: the solver, without fresh noise.
        guidance: its scale.
        progress: called with the share that is done.

    Raises:
        UsageError: the table draws fresh noise.
    """
    if table.column("n").any():
        raise UsageError(f"table {table.name} is stochastic; calibrate on another one")
    trajectories = []
    for number, (prompt, seed, indices) in enumerate(zip(prompts, seeds, rows, strict=True)):
        request = Request.of(bundle, prompt, seed=seed, table=table, guidance=guidance)
        tokens = request.tokens(bundle, runtime)
        state = runtime.start(request.start(bundle), tokens)
        states = []
        for row in request.rows:
            if row.index in indices:
                assert isinstance(state, GraphTrajectory), "a switch hides its inputs"
                inputs = state.inputs(row)
                states.append(State(t=row.t, index=row.index, prompt=number, inputs=inputs))
            state.step(row)
            progress((number + (row.index + 1) / len(table)) / len(prompts))
        final = state.state()[0]
        trajectories.append(Trajectory(states=tuple(states), final=final, tokens=tokens))
    return trajectories
