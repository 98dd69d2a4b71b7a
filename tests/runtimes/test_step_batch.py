"""Rows of each image and known pixels: in every engine, beside the numpy oracle and version 1."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.step_switch import SwitchRuntime
from minit2i_deploy.errors import UsageError
from minit2i_deploy.generate import generate
from minit2i_deploy.protocol import BatchRuntime
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.row import Known, Row
from minit2i_deploy.solvers.step_inputs import ImageStep, StepBatch, stacked
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.tiny_bundle import tiny_bundle
from tests.helpers.version_one import version_one_bundle

ENGINES: list[tuple[str, dict[str, Any]]] = [
    ("onnxruntime", {"threads": 1}),
    ("openvino", {"threads": 1}),
    ("torch", {}),
    ("fake", {}),
]
# Measured 5.0e-6 at most, on values up to 8.
MAX_ABS_ERROR = 3e-5


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def row(*values: float, weights: tuple[float, ...], t: float = 0.0) -> Row:
    return Row(values=np.array(values, np.float32), weights=np.array(weights, np.float32), t=t)


def images(bundle: Bundle, known: bool = False) -> list[ImageStep]:
    """Three images: guided with history, not guided, and three branches clipped and rescaled."""
    config = bundle.config
    rows = (
        row(0.7, 0.5, -0.2, -1.0, 0.0, 0.0, weights=(2.5, -1.5), t=0.2),
        row(0.9, 0.1, 0.0, 0.0, 0.0, 0.0, weights=(1.0,), t=0.8),
        row(0.1, 0.9, 0.3, 0.0, 0.8, 0.6, weights=(2.0, 1.0, -2.0), t=0.5),
    )
    return [
        ImageStep(
            x=normal(*config.image_shape, seed=index) * 2,
            h=normal(*config.image_shape, seed=10 + index),
            tokens=normal(3, config.num_text_tokens, config.hidden_size, seed=20 + index),
            row=each,
            known=half_known(bundle) if known and index == 1 else None,
        )
        for index, each in enumerate(rows)
    ]


def half_known(bundle: Bundle, batch: int = 1) -> Known:
    """The left half is known, and one column of it half known."""
    shape = (batch, *bundle.config.image_shape)
    mask = np.zeros((batch, 1, *shape[2:]), np.float32)
    mask[..., : shape[3] // 2] = 1.0
    mask[..., shape[3] // 2] = 0.5
    return Known(image=normal(*shape, seed=30), mask=mask)


def alone(runtime: Any, item: ImageStep) -> tuple[np.ndarray, np.ndarray]:
    """One image's step as a trajectory of its own."""
    further = () if item.known is None else (item.known,)
    state = runtime.start(item.x[None], item.tokens[:, None], *further)
    state.step(item.row, item.h[None])
    x, h = state.state()
    return x, h


@pytest.mark.parametrize(("name", "options"), ENGINES)
@pytest.mark.parametrize("version", [1, 2])
def test_a_shared_step_is_each_images_own(name: str, options: dict[str, Any], version: int) -> None:
    bundle = Bundle.open(tiny_bundle() if version == 2 else version_one_bundle())
    parts = images(bundle, known=version == 2)
    with open_runtime(bundle, name, **options) as runtime:
        assert isinstance(runtime, BatchRuntime)
        together = runtime.step_batch(parts)
        for place, item in enumerate(parts):
            for actual, expected in zip(together, alone(runtime, item), strict=True):
                assert actual.dtype == np.float32
                assert np.abs(actual[place] - expected[0]).max() <= MAX_ABS_ERROR


@pytest.mark.parametrize(("name", "options"), ENGINES[:3])
def test_engines_agree_on_known_pixels(name: str, options: dict[str, Any]) -> None:
    bundle = Bundle.open(tiny_bundle())
    parts = images(bundle, known=True)
    with open_runtime(bundle, name, **options) as runtime, open_runtime(bundle, "torch") as oracle:
        assert isinstance(runtime, BatchRuntime) and isinstance(oracle, BatchRuntime)
        for actual, expected in zip(
            runtime.step_batch(parts), oracle.step_batch(parts), strict=True
        ):
            assert np.abs(actual - expected).max() <= MAX_ABS_ERROR


@pytest.mark.parametrize(("name", "options"), ENGINES)
@pytest.mark.parametrize("solver", ["dpmpp2m", "ab2", "heun"])
def test_known_pixels_are_reached_exactly(name: str, options: dict[str, Any], solver: str) -> None:
    bundle = Bundle.open(tiny_bundle())
    known = half_known(bundle, batch=2)
    config = bundle.config
    x = normal(2, *config.image_shape) * 2
    tokens = normal(2, 2, config.num_text_tokens, config.hidden_size, seed=1)
    with open_runtime(bundle, name, **options) as runtime:
        state = runtime.start(x, tokens, known)
        for each in solver_table(solver, steps=4).steps(2.5):
            state.step(each)
        half = x.shape[3] // 2
        final = state.state()[0]
    # The last row of each is x' = y.
    np.testing.assert_array_equal(final[..., :half], known.image[..., :half])
    assert np.abs(final[..., half + 1 :] - known.image[..., half + 1 :]).max() > 0.1


@pytest.mark.parametrize(("name", "options"), ENGINES[:3])
def test_nothing_known_changes_no_bit(name: str, options: dict[str, Any]) -> None:
    bundle = Bundle.open(tiny_bundle())
    shape = (1, *bundle.config.image_shape)
    nothing = Known(image=normal(*shape), mask=np.zeros((1, 1, *shape[2:]), np.float32))
    tokens = normal(2, 1, bundle.config.num_text_tokens, bundle.config.hidden_size, seed=1)
    finals = []
    with open_runtime(bundle, name, **options) as runtime:
        for further in ((), (nothing,)):
            state = runtime.start(normal(*shape) * 2, tokens, *further)
            for each in solver_table("ab2", steps=3).steps(2.5):
                state.step(each)
            finals.append(state.state()[0])
    np.testing.assert_array_equal(*finals)


def test_version_one_gives_the_same_image() -> None:
    finals = []
    for folder in (tiny_bundle(), version_one_bundle()):
        bundle = Bundle.open(folder)
        with open_runtime(bundle, "onnxruntime", threads=1) as runtime:
            finals.append(generate(bundle, runtime, ["red", "blue"], seed=[1, 2]).x)
    # The graphs mix and advance by the same operators in the same order.
    np.testing.assert_array_equal(*finals)


@pytest.mark.parametrize(("name", "options"), ENGINES)
def test_version_one_cannot_edit(name: str, options: dict[str, Any]) -> None:
    bundle = Bundle.open(version_one_bundle())
    item = images(bundle)[0]
    with open_runtime(bundle, name, **options) as runtime:
        with pytest.raises(UsageError, match=r"cannot edit images, .* format version 1; re-run"):
            runtime.start(item.x[None], item.tokens[:, None], half_known(bundle))
        with pytest.raises(UsageError, match="cannot edit images"):
            assert isinstance(runtime, BatchRuntime)
            runtime.step_batch([item, dataclasses.replace(item, known=half_known(bundle))])


@pytest.mark.parametrize(("name", "options"), [ENGINES[0], *ENGINES[2:]])
def test_nan_stays_in_its_image(name: str, options: dict[str, Any]) -> None:
    """OpenVINO is not among them: its operators turn NaN into numbers."""
    bundle = Bundle.open(tiny_bundle())
    good = images(bundle)
    bad = images(bundle)
    bad[1].x[...] = np.nan
    with open_runtime(bundle, name, **options) as runtime:
        assert isinstance(runtime, BatchRuntime)
        expected, actual = runtime.step_batch(good), runtime.step_batch(bad)
    for one, other in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(one[[0, 2]], other[[0, 2]])
        assert np.isnan(other[1]).any()


def test_a_batch_computes_no_sequence_that_nobody_reads() -> None:
    batch = StepBatch.join(images(Bundle.open(tiny_bundle())))
    assert batch.image.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.sequence.tolist() == [[0, 2, 3], [1, 2, 4], [0, 2, 5]]
    np.testing.assert_array_equal(
        batch.weights, np.array([[2.5, 1.0, 2.0], [-1.5, 0.0, 1.0], [0.0, 0.0, -2.0]], np.float32)
    )
    with pytest.raises(UsageError, match="expected at least one image to step, got none"):
        StepBatch.join([])


def test_a_switch_steps_images_on_both_sides() -> None:
    bundle = Bundle.open(tiny_bundle())
    parts = images(bundle)
    with open_runtime(bundle, "fake") as before, open_runtime(bundle, "onnxruntime") as after:
        both = SwitchRuntime(before, after, 0.5)
        actual = both.step_batch(parts)
        assert isinstance(before, BatchRuntime) and isinstance(after, BatchRuntime)
        early, late = before.step_batch(parts), after.step_batch(parts)
    for value, first, second in zip(actual, early, late, strict=True):
        np.testing.assert_array_equal(value[0], first[0])
        assert np.abs(value[1:] - second[1:]).max() <= MAX_ABS_ERROR


def test_states_that_lie_together_are_not_copied() -> None:
    together = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2).copy()
    first, second = together
    assert stacked([first, second]) is together
    for parts in ([second, first], [first, second.copy()], [first], [first, first]):
        copied = stacked(parts)
        np.testing.assert_array_equal(copied, np.stack(parts))
        assert not np.shares_memory(copied, together)
    wider = np.zeros((2, 3, 2, 4), np.float32)[..., :2]
    assert not np.shares_memory(stacked(list(wider)), wider)
