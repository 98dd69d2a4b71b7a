"""The tiny bundle calibrated and quantized, once a test process."""

from __future__ import annotations

import functools

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.evaluation.relative_error import l2_relative_errors
from minit2i_deploy.export.quantize import (
    Calibration,
    DrawSettings,
    Graph,
    QuantizableGraph,
    State,
    calibrate,
    run_trajectories,
)
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from tests.helpers.tiny_bundle import tiny_bundle

PROMPTS = PromptSet(name="test", texts=("a red circle", "a star", "two dots", "blue", ""))
SETTINGS = DrawSettings(samples=3, strata=2, activations=96)


@functools.cache
def source() -> Bundle:
    return Bundle.open(tiny_bundle())


@functools.cache
def step() -> QuantizableGraph:
    return QuantizableGraph.read(source().graph_path("transformer"))


def step_graph() -> Graph:
    return step().graph


@functools.cache
def ranges() -> Calibration:
    return calibrate(source(), PROMPTS, SETTINGS)


@functools.cache
def states() -> tuple[State, ...]:
    """A guided state early and one late, of the source's own trajectory."""
    with GraphsRuntime(source()) as runtime:
        table = source().table("euler-20")
        (trajectory,) = run_trajectories(source(), runtime, ["a star"], [3], [{4, 17}], table, 2.5)
    return trajectory.states


def estimates(graph: Graph) -> list[np.ndarray]:
    """Guided estimates of a version of the step graph at ``states()``."""
    with GraphsRuntime(source(), {"transformer": graph}) as runtime:
        run = runtime.session("transformer")
        return [run(state.estimate_inputs())[0] for state in states()]


def l2_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(l2_relative_errors(actual[None], expected[None])[0])
