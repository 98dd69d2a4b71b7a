"""One step from a fixed state, to compare engines with: runtimes of one bundle, or of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.evaluation.relative_error import max_relative_error
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.text.conditioning import student_conditions

PROMPT: Final = "a red circle"
# The next state is then the network's own estimate of the image.
_ESTIMATE: Final = np.array([0, 1, 0, 0, 0, 0], np.float32)
_SEED: Final = 7


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Probe:
    """Inputs of adapter and step: the text encoder's output, a noisy state, tokens and a row."""

    context: np.ndarray
    mask: np.ndarray
    conditions: np.ndarray | None
    x: np.ndarray
    tokens: np.ndarray
    row: Row

    @property
    def encoded(self) -> np.ndarray:
        """The text encoder's output as ``encoded_prompt`` gives it, by the reference runtime."""
        return self.context[:1, : int(self.mask[0].sum())]


def make_probe(bundle: Bundle, runtime: Runtime) -> Probe:
    """Inputs for a bundle's default preset, made by the reference runtime."""
    table, guidance = bundle.preset()
    values = encoded_prompt(bundle, runtime)
    # The second sequence is the unconditional one.
    shape = (2, bundle.config.prompt_length)
    context = np.zeros((*shape, values.shape[2]), np.float32)
    mask = np.zeros(shape, np.int64)
    num_tokens = values.shape[1]
    context[0, :num_tokens], mask[0, :num_tokens] = values[0], 1
    scalars = student_conditions(bundle, table, guidance, None)
    weights = table.steps(guidance)[0].weights
    conditions = None if scalars is None else np.tile(scalars, (2, 1))
    return Probe(
        context=context,
        mask=mask,
        conditions=conditions,
        x=batch_noise([_SEED], bundle.config.image_shape),
        tokens=runtime.adapt(context, mask, conditions)[: len(weights), None],
        row=Row(values=_ESTIMATE, weights=weights),
    )


def encoded_prompt(bundle: Bundle, runtime: Runtime) -> np.ndarray:
    """The text encoder's output for the prompt: float32 [1, tokens, width]."""
    (encoded,) = bundle.tokenizer().encode([PROMPT[: bundle.config.prompt_length]])
    ids = np.asarray(encoded.ids, np.int64)[None]
    return runtime.encode(ids, np.ones_like(ids))


def answers(runtime: Runtime, probe: Probe) -> dict[str, np.ndarray]:
    """Outputs of a runtime's adapter and step for the probe, by graph."""
    state = runtime.start(probe.x, probe.tokens)
    state.step(probe.row)
    return {
        "text_adapter": runtime.adapt(probe.context, probe.mask, probe.conditions),
        "transformer": state.state()[0],
    }


def graph_errors(
    actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Graph to the largest difference over the largest value; NaN if a value is not finite."""
    return {graph: max_relative_error(actual[graph], value) for graph, value in expected.items()}
