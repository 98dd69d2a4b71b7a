"""Reference values of the graphs: torch in float32 at real prompts, along a real trajectory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from minit2i_deploy.bundle.flavours import NOISE_SCALE
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.export.graphs.modules import AdapterGraph
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.model import MMJiT, Step
from minit2i_deploy.model.loop import run_table
from minit2i_deploy.progress import Progress
from minit2i_deploy.solvers.mean_flow import MEAN_FLOW, StudentSettings
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.row import Known, Row
from minit2i_deploy.solvers.step_inputs import ImageStep, StepBatch, StepInputs
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.tokenizer import Tokenizer

Arrays = Mapping[str, np.ndarray]

GUIDANCE: Final = 2.5
STEPS: Final = 20
STUDENT_STEPS: Final = 4

_PROMPTS: Final = ("a red circle", "two blue squares to the left of a small green triangle", "")
_SEED: Final = 7
# Times of the recorded steps: the row nearest to each.
_STEP_TIMES: Final = (0.0, 0.2, 0.5, 0.8, 0.95)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Inputs of one graph call and torch's outputs.

    Args:
        inputs: by name.
        outputs: by name, in the graph's order.
        t: time of a step that the reference trajectory took, 0 noise to 1 data; None for any
            other call.
    """

    inputs: Arrays
    outputs: Arrays
    t: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TextReference:
    """Reference of the text encoder, and the contexts that the network's reference starts from.

    Args:
        samples: the prompts as a padded batch, and the first one alone; outputs are zero at
            padding, where the encoder's own are undefined.
        context: float32 [prompts + 1, L, width], padded; the last entry is the unconditional one.
        mask: int64 [prompts + 1, L].
    """

    samples: tuple[Sample, ...]
    context: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkReference:
    """Samples of adapter and step, and a complete trajectory.

    Args:
        adapter: samples of the text adapter.
        steps: samples of the step graph.
        table: rows of the trajectory.
        start: float32 [1, 3, H, W], its start noise, scaled.
        image: uint8 [1, H, W, 3], what it ends in.
    """

    adapter: tuple[Sample, ...]
    steps: tuple[Sample, ...]
    table: Table
    start: np.ndarray
    image: np.ndarray


def record_text(encoder: Any, tokenizer: Tokenizer, config: ModelConfig) -> TextReference:
    """Encode the prompts as a padded batch, and one of them alone."""
    ids, mask = _pad([item.ids for item in tokenizer.encode(_PROMPTS)], tokenizer.pad_id)
    length = int(mask[0].sum())
    batch, single = (
        _encode(encoder, ids, mask),
        _encode(encoder, ids[:1, :length], mask[:1, :length]),
    )
    hidden = batch.outputs["last_hidden_state"]
    room = ((0, 1), (0, config.prompt_length - ids.shape[1]))
    return TextReference(
        samples=(batch, single),
        context=np.pad(hidden, (*room, (0, 0))),
        mask=np.pad(mask, room),
    )


def record_network(
    net: MMJiT,
    text: TextReference,
    a_min: float,
    conditions: StudentSettings | None,
    progress: Progress,
) -> NetworkReference:
    """Adapt the prompts, run the reference trajectory and keep steps from along it.

    Args:
        net: in float32.
        text: the prompts' contexts.
        a_min: of the table.
        conditions: omega, t_min and t_max of a few-step student; None takes the released recipe's.
        progress: called with the share that is done.
    """
    adapter, step = AdapterGraph(net.text_adapter), Step(net.denoiser)
    table = _reference_table(net.config, a_min, conditions or {})
    inputs = {"context": text.context, "mask": text.mask}
    if table.is_conditioned:
        first = table.conditions()[:1].astype(np.float32)
        inputs["conditions"] = np.repeat(first, len(text.context), axis=0)
    batch = run_module(adapter, inputs, ("tokens",))
    single = run_module(adapter, {name: value[:1] for name, value in inputs.items()}, ("tokens",))
    tokens = batch.outputs["tokens"]
    start = NOISE_SCALE * batch_noise([_SEED], net.config.image_shape)
    branches = tokens[[0, -1], None]
    states = [(start, np.zeros_like(start))]
    for x, h in run_table(step, _tensor(start), _tensor(branches), table, GUIDANCE):
        states.append((x.numpy(), h.numpy()))
        progress(len(states) / (len(table) + 3))
    return NetworkReference(
        adapter=(batch, single),
        steps=(*_steps_along(states, branches, table), *_variations(step, states, tokens, table)),
        table=table,
        start=start,
        image=to_uint8(states[-1][0]),
    )


def _reference_table(config: ModelConfig, a_min: float, conditions: StudentSettings) -> Table:
    if config.student is None:
        return solver_table("euler", steps=STEPS, a_min=a_min)
    return solver_table(MEAN_FLOW, steps=STUDENT_STEPS, a_min=a_min, **conditions)


def run_module(module: torch.nn.Module, inputs: Arrays, outputs: tuple[str, ...]) -> Sample:
    """Run a module once, without gradients; ``outputs`` are the names of its results."""
    with torch.no_grad():
        result = module(**{name: _tensor(value) for name, value in inputs.items()})
    values = result if isinstance(result, tuple) else (result,)
    return Sample(
        inputs=inputs,
        outputs={name: v.numpy() for name, v in zip(outputs, values, strict=True)},
    )


def _encode(encoder: Any, ids: np.ndarray, mask: np.ndarray) -> Sample:
    inputs = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        hidden = encoder(**{k: _tensor(v) for k, v in inputs.items()}).last_hidden_state.numpy()
    hidden = np.where(mask[..., None] > 0, hidden, np.float32(0))
    return Sample(inputs=inputs, outputs={"last_hidden_state": hidden})


def _pad(ids: list[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    shape = len(ids), max(map(len, ids))
    padded, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    for index, values in enumerate(ids):
        padded[index, : len(values)], mask[index, : len(values)] = values, 1
    return padded, mask


def _steps_along(
    states: list[tuple[np.ndarray, np.ndarray]], branches: np.ndarray, table: Table
) -> list[Sample]:
    """Steps that the trajectory itself took, from its own states: those nearest to _STEP_TIMES."""
    rows = table.steps(GUIDANCE)
    nearest = (min(rows, key=lambda row: abs(row.t - t)) for t in _STEP_TIMES)
    samples = []
    for row in dict.fromkeys(nearest):
        inputs = step_inputs(*states[row.index], branches, row)
        x_next, h_next = states[row.index + 1]
        outputs = {"x_next": x_next, "h_next": h_next}
        samples.append(Sample(inputs=inputs, outputs=outputs, t=row.t))
    return samples


def _variations(
    step: Step,
    states: list[tuple[np.ndarray, np.ndarray]],
    tokens: np.ndarray,
    table: Table,
) -> list[Sample]:
    """One branch, conditional and not, and a batch of two states and prompts."""
    rows = table.steps(GUIDANCE)
    middle, last = rows[len(rows) // 2], rows[-1]
    one = np.ones(1, np.float32)
    x, h = (np.concatenate([states[r.index][i] for r in (middle, last)]) for i in (0, 1))
    two_prompts = np.stack([tokens[[0, 1]], tokens[[-1, -1]]])
    alone = dataclasses.replace(middle, weights=one)
    all_inputs = (
        step_inputs(*states[middle.index], tokens[None, :1], alone),
        step_inputs(*states[middle.index], tokens[None, -1:], alone),
        step_inputs(x, h, two_prompts, middle),
        _mixed_rows(x, h, two_prompts, middle, alone),
    )
    return [run_module(step, inputs, ("x_next", "h_next")) for inputs in all_inputs]


def _mixed_rows(
    x: np.ndarray, h: np.ndarray, tokens: np.ndarray, guided: Row, alone: Row
) -> dict[str, np.ndarray]:
    """Two images at rows of their own, one of them without guidance and with a known corner."""
    size = x.shape[-1] // 2
    known, mask = np.full_like(x[:1], 0.5), np.zeros_like(x[:1, :1])
    mask[..., :size, :size] = 1.0
    first = ImageStep(x=x[0], h=h[0], tokens=tokens[:, 0], row=guided)
    second = ImageStep(
        x=x[1], h=h[1], tokens=tokens[:, 1], row=alone, known=Known(image=known, mask=mask)
    )
    return StepBatch.join([first, second]).inputs()


def step_inputs(
    x: np.ndarray, h: np.ndarray, tokens: np.ndarray, row: Row
) -> dict[str, np.ndarray]:
    """Inputs of the step graph for images that share a row.

    Args:
        x, h: float32 [batch, 3, H, W].
        tokens: float32 [branches, batch, tokens, hidden]; the first of them take part.
        row: the images'.
    """
    inputs = StepInputs(image_shape=x.shape, tokens=tokens, known=None, per_image=True)
    return {"x": x, "h": h} | inputs.fixed(len(row.weights)) | inputs.of_row(row)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
