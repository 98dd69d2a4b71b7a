"""All rows as one recording: the CPU's stand-in of it replays by running again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import CudaGraphWarning, UsageError
from minit2i_deploy.runtimes.torch.row_graphs import (
    MAX_GRAPHS,
    Record,
    RowGraphs,
    RowInputs,
    states_of_rows,
)
from minit2i_deploy.runtimes.torch.runtime import TorchRuntime
from tests.helpers.bundles import write_bundle

SHAPE = (1, 3, 4, 4)


def step(x: torch.Tensor, h: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Reads every input, as the network does."""
    tokens, image, sequence, weights, values, known, known_mask = rest
    guided = (weights * tokens.mean()).sum() * x[image].mean() + sequence.sum()
    y = guided + known_mask * (known - guided)
    return values[0, 0] * x + values[0, 1] * y + values[0, 2] * h, y - x


def inputs(seed: int, branches: tuple[int, ...] = (2, 1, 2), noisy: int = 1) -> RowInputs:
    """Rows with guidance and without, one of which draws noise."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    fixed = {
        size: {
            "tokens": draw(size, 5, 6),
            "image": torch.zeros(size, dtype=torch.int64),
            "sequence": torch.arange(size)[:, None],
            "known": draw(*SHAPE),
            "known_mask": draw(1, 1, 4, 4),
        }
        for size in set(branches)
    }
    return RowInputs(
        x=draw(*SHAPE),
        h=torch.zeros(SHAPE),
        fixed=fixed,
        weights=[draw(size, 1) for size in branches],
        values=[draw(1, 6) for _ in branches],
        noise=[draw(*SHAPE) if row == noisy else None for row in range(len(branches))],
    )


class Recorder:
    """Records by keeping the call."""

    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1

        def replay() -> None:
            self.replays += 1
            work()

        return replay


def end(values: RowInputs) -> torch.Tensor:
    *_, (x, h) = states_of_rows(step, values)
    return torch.stack([x, h])


def test_images_are_those_of_single_rows_and_recorded_once() -> None:
    recorder = Recorder()
    graphs = RowGraphs(step, recorder)
    for seed in range(4):
        state = graphs.run(inputs(seed))
        assert state is not None
        assert torch.equal(torch.stack(state), end(inputs(seed)))
    assert (recorder.recordings, recorder.replays) == (1, 4)
    # Other branches, or noise in another row, are another recording.
    graphs.run(inputs(0, branches=(2, 2, 2)))
    graphs.run(inputs(0, noisy=2))
    assert recorder.recordings == 3


def test_results_stay_when_the_next_image_comes() -> None:
    graphs = RowGraphs(step, Recorder())
    first = graphs.run(inputs(0))
    assert first is not None
    before = [tensor.clone() for tensor in first]
    graphs.run(inputs(1))
    assert all(map(torch.equal, first, before))


def stale(work: Callable[[], None]) -> Callable[[], None]:
    """Replays what it has computed once."""
    work()
    return lambda: None


def refusing(work: Callable[[], None]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


@pytest.mark.parametrize(
    ("record", "num_right", "reason"),
    [(refusing, 0, r"\(operation not permitted when stream is capturing\)"),
     (stale, 1, r"\(its image differs from that of single rows by .*\)")],
)  # fmt: skip
def test_a_recording_that_fails_or_is_stale_is_given_up(
    record: Record, num_right: int, reason: str
) -> None:
    graphs = RowGraphs(step, record)
    # The first image is what was recorded, which even a stale recording has.
    for seed in range(num_right):
        assert graphs.run(inputs(seed)) is not None
    with pytest.warns(CudaGraphWarning, match=f"^torch records no CUDA graph of all rows {reason}"):
        assert graphs.run(inputs(7)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert graphs.run(inputs(8)) is None


def test_the_last_recordings_stay() -> None:
    recorder = Recorder()
    graphs = RowGraphs(step, recorder)
    forms = [(2,) * (number + 1) for number in range(MAX_GRAPHS + 1)]
    for form in (*forms, forms[-1], forms[1]):
        graphs.run(inputs(0, branches=form, noisy=-1))
    assert recorder.recordings == len(forms)
    graphs.run(inputs(0, branches=forms[0], noisy=-1))
    assert recorder.recordings == len(forms) + 1


def test_rows_of_the_network_never_look_at_a_value() -> None:
    """A device without values refuses what a recording forbids: reads, and copies to the host."""
    from minit2i_deploy.config import ModelConfig
    from minit2i_deploy.model.mmjit import MMJiT
    from minit2i_deploy.model.step import Step

    config = ModelConfig(
        image_size=16, patch_size=8, hidden_size=16, num_heads=2, head_dim=8, depth_double=2,
        txt_input_size=8, prompt_length=3, pca_channels=4,
    )  # fmt: skip
    network = Step(MMJiT(config).eval().denoiser).to("meta")
    with torch.device("meta"):
        shape, tokens = (1, 3, 16, 16), (2, config.num_text_tokens, 16)
        fixed = {
            "tokens": torch.empty(tokens),
            "image": torch.zeros(2, dtype=torch.int64),
            "sequence": torch.zeros((2, 1), dtype=torch.int64),
            "known": torch.empty(shape),
            "known_mask": torch.empty((1, 1, 16, 16)),
        }
        values = RowInputs(
            x=torch.empty(shape), h=torch.empty(shape), fixed={2: fixed},
            weights=[torch.empty(2, 1)] * 2, values=[torch.empty(1, 6)] * 2,
            noise=[None, torch.empty(shape)],
        )  # fmt: skip
    with torch.no_grad():
        *_, (x, h) = states_of_rows(network, values)
    assert x.device.type == h.device.type == "meta" and x.shape == h.shape == shape


def test_a_trajectory_runs_its_rows_by_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minit2i_deploy.runtimes.torch.trajectory import TorchTrajectory
    from minit2i_deploy.solvers.step_inputs import StepInputs
    from minit2i_deploy.solvers.table import solver_table

    rows = solver_table("sde", steps=3).steps(2.0)
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((2, 1, 5, 6), dtype=np.float32)
    x = torch.from_numpy(rng.standard_normal(SHAPE, dtype=np.float32))
    noise = {row: rng.standard_normal(SHAPE, dtype=np.float32) for row in rows if row.draws_noise}
    settings = StepInputs(image_shape=SHAPE, tokens=tokens, known=None, per_image=True)
    recorder, counted, ends = Recorder(), [], []
    for record in (None, recorder, refusing):
        graphs = None if record is None else RowGraphs(step, record)
        state = TorchTrajectory(step, x, settings, None, graphs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CudaGraphWarning)
            state.run_rows(rows, noise.get, counted.append)
        ends.append(np.stack(state.state()))
    assert np.array_equal(ends[1], ends[0]) and np.array_equal(ends[2], ends[0])
    assert recorder.replays == 1 and counted == [1, 2, 3, 3, 1, 2, 3]


def test_a_cpu_records_nothing(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bundle"))
    with pytest.raises(UsageError, match="'cpu' records no CUDA graph; one_graph is for cuda"):
        TorchRuntime(bundle, one_graph=True)
