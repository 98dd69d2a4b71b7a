"""The main path on the fake runtime: against a textbook loop, and its promises one by one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import PromptTruncatedWarning, SettingIgnoredWarning, UsageError
from minit2i_deploy.generate import Frame, generate, trajectory
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import COLUMNS, Table, solver_table
from minit2i_deploy.text.prompts import Mix
from tests.helpers.bundles import CONFIG, write_bundle
from tests.helpers.fakes.spies import SpyRuntime, tone

SHAPE = (3, CONFIG.image_size, CONFIG.image_size)
PROMPTS = ["a red circle", "green", ""]
# Measured 5.5e-7 on values up to 1.
MAX_FLOAT32_ERROR = 5e-6


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("generate") / "bundle"))


@pytest.fixture
def runtime(bundle: Bundle) -> Iterator[SpyRuntime]:
    with SpyRuntime(bundle) as opened:
        yield opened


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Remove the shape checks that tests run under, which would raise before the code does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def hand_table(name: str, rows: list[dict[str, float]]) -> Table:
    """Rows that name only what is not zero, under full guidance."""
    usual = dict.fromkeys(COLUMNS, 0.0) | {"share": 1.0}
    values = [list((usual | row).values()) for row in rows]
    return Table(name=name, columns=COLUMNS, rows=np.array(values))


def textbook_euler(
    x: np.ndarray, steps: int, a_min: float, guidance: float, tones: tuple[float, float]
) -> np.ndarray:
    """dx/dt = v with v_u + g (v_c - v_u), in float64, one image."""
    x = x.astype(np.float64)
    for i in range(steps):
        t = i / steps
        conditional, other = ((np.tanh(x + value) - x) / max(1 - t, a_min) for value in tones)
        x = x + (other + guidance * (conditional - other)) / steps
    return x


@pytest.mark.parametrize("guidance", [1.0, 2.5, 0.0])
@pytest.mark.parametrize("negative", [None, "", "red"])
def test_equals_a_textbook_loop(bundle: Bundle, guidance: float, negative: str | None) -> None:
    with FakeRuntime(bundle) as runtime, warnings.catch_warnings():
        warnings.simplefilter("ignore", SettingIgnoredWarning)
        result = generate(
            bundle,
            runtime,
            PROMPTS,
            seed=[5, 6, 7],
            table=solver_table("euler", steps=9),
            guidance=guidance,
            negative=negative,
        )
    for k, prompt in enumerate(PROMPTS):
        start = 2.0 * standard_noise(5 + k, SHAPE)
        tones = (tone(bundle, prompt), tone(bundle, negative))
        expected = textbook_euler(start, 9, 0.05, guidance, tones)
        assert np.abs(result.x[k] - expected).max() < MAX_FLOAT32_ERROR
        pixels = np.clip(np.clip(expected, -1, 1) * 127.5 + 128, 0, 255).transpose(1, 2, 0)
        assert np.abs(np.asarray(result.images[k]) - np.trunc(pixels)).max() <= 1
    assert result.seeds == (5, 6, 7)
    assert (result.table, result.guidance) == ("euler-9", guidance)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("negative", [None, "red"])
def test_a_mix_equals_a_textbook_loop(
    bundle: Bundle, guidance: float, negative: str | None
) -> None:
    mix = Mix(parts=(("a red circle", 3.0), ("green", 1.0), ("", -2.0)))
    with FakeRuntime(bundle) as runtime, warnings.catch_warnings():
        warnings.simplefilter("ignore", SettingIgnoredWarning)
        table = solver_table("euler", steps=9)
        result = generate(
            bundle, runtime, mix, seed=5, table=table, guidance=guidance, negative=negative
        )
    x = 2.0 * standard_noise(5, SHAPE).astype(np.float64)
    for i in range(9):
        t = i / 9
        # A mix of velocities, which for one (x, t) is the mix of estimates.
        parts = [(np.tanh(x + tone(bundle, text)) - x, weight) for text, weight in mix.parts]
        conditional = sum(weight / 2 * v for v, weight in parts) / max(1 - t, 0.05)
        other = (np.tanh(x + tone(bundle, negative)) - x) / max(1 - t, 0.05)
        x = x + (other + guidance * (conditional - other)) / 9
    assert np.abs(result.x[0] - x).max() < MAX_FLOAT32_ERROR


def test_a_mix_runs_a_branch_for_each_part(bundle: Bundle, runtime: SpyRuntime) -> None:
    mixes = [Mix(parts=(("red", 1.0), (text, 3.0))) for text in ("green", "a circle")]
    table = solver_table("euler", steps=3, interval=(0.2, 0.5))
    generate(bundle, runtime, mixes, table=table, guidance=3.0)
    # Outside the interval the parts alone are run.
    assert runtime.started[0].weights == [[0.25, 0.75], [0.75, 2.25, -2.0], [0.25, 0.75]]
    assert runtime.adapted == [5]


def test_a_mix_of_one_text_is_that_text(bundle: Bundle, runtime: SpyRuntime) -> None:
    mix = Mix(parts=(("red", 0.3), ("red", 0.5)))
    plain = generate(bundle, runtime, "red")
    assert np.array_equal(generate(bundle, runtime, Mix(parts=(("red", 7.0),))).x, plain.x)
    assert np.abs(generate(bundle, runtime, mix).x - plain.x).max() < MAX_FLOAT32_ERROR


def test_mixes_of_other_weights_are_refused(bundle: Bundle, runtime: SpyRuntime) -> None:
    with pytest.raises(UsageError, match="prompt 1 has weights"):
        generate(bundle, runtime, ["red", Mix(parts=(("red", 1.0), ("green", 1.0)))])
    assert not runtime.started


def test_prompt_seed_and_negative_all_matter(bundle: Bundle, runtime: SpyRuntime) -> None:
    def image_of(prompt: str = "a red circle", **options: Any) -> np.ndarray:
        return generate(bundle, runtime, prompt, **options).x

    base = image_of()
    assert np.array_equal(image_of(), base)
    for other in (
        image_of("green"),
        image_of(seed=1),
        image_of(negative="green"),
        image_of(guidance=5.0),
    ):
        assert np.abs(other - base).max() > 1e-3


def test_defaults_are_the_default_preset(bundle: Bundle, runtime: SpyRuntime) -> None:
    result = generate(bundle, runtime, "red")
    table, guidance = bundle.preset()
    assert (result.table, result.guidance) == (table.name, guidance) == ("euler-4", 2.5)
    assert np.array_equal(result.x, generate(bundle, runtime, "red", table=table).x)
    assert result.seeds == (0,)


def test_an_image_does_not_depend_on_its_batch(bundle: Bundle, runtime: SpyRuntime) -> None:
    together = generate(bundle, runtime, PROMPTS, seed=[3, 4, 5])
    for k, prompt in enumerate(PROMPTS):
        alone = generate(bundle, runtime, prompt, seed=3 + k)
        assert np.array_equal(alone.x[0], together.x[k])
        assert alone.images[0].tobytes() == together.images[k].tobytes()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("seed", [9, np.int64(9), np.array([9, 9]), (9, 9)])
def test_one_seed_serves_all_images(bundle: Bundle, runtime: SpyRuntime, seed: Any) -> None:
    result = generate(bundle, runtime, ["red", "red"], seed=seed)
    assert np.array_equal(result.x[0], result.x[1])
    assert np.array_equal(result.x[:1], generate(bundle, runtime, "red", seed=9).x)
    assert result.seeds == (9, 9)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("seed", [[1], [1, 2, 3], [], -1, 2**64, 1.5, True, "7", None])
def test_bad_seeds_are_refused(bundle: Bundle, runtime: SpyRuntime, seed: Any) -> None:
    with pytest.raises(UsageError):
        generate(bundle, runtime, ["red", "green"], seed=seed)
    assert not runtime.started


def test_guidance_1_runs_one_branch(bundle: Bundle, runtime: SpyRuntime) -> None:
    generate(bundle, runtime, PROMPTS, guidance=1.0)
    assert runtime.started[0].weights == [[1.0]] * 4
    assert runtime.adapted == [3]


def test_guidance_runs_two_branches_adapted_once(bundle: Bundle, runtime: SpyRuntime) -> None:
    generate(bundle, runtime, PROMPTS, guidance=3.0)
    assert runtime.started[0].weights == [[3.0, -2.0]] * 4
    # One text is the unconditional branch of the complete batch.
    assert runtime.adapted == [4]
    assert [shape[0] for shape in runtime.encoded] == [3]


def test_encoder_sees_no_more_padding_than_the_longest_prompt(
    bundle: Bundle, runtime: SpyRuntime
) -> None:
    generate(bundle, runtime, ["a red circle", "red"])
    longest = len(bundle.tokenizer().encode(["a red circle"])[0].ids)
    assert longest < CONFIG.prompt_length
    assert runtime.encoded == [(2, longest)]


def test_rows_outside_the_interval_run_one_branch(bundle: Bundle, runtime: SpyRuntime) -> None:
    table = solver_table("euler", steps=5, interval=(0.2, 0.7))
    generate(bundle, runtime, "red", table=table, guidance=3.0)
    one, two = [1.0], [3.0, -2.0]
    assert runtime.started[0].weights == [one, two, two, two, one]


def test_partial_share_scales_the_guidance(bundle: Bundle, runtime: SpyRuntime) -> None:
    table = hand_table("half", [{"b": 1.0, "share": 0.5}, {"b": 1.0, "share": 0.0}])
    generate(bundle, runtime, "red", table=table, guidance=3.0)
    assert runtime.started[0].weights == [[2.0, -1.0], [1.0]]


def test_a_negative_prompt_without_guidance_warns(bundle: Bundle, runtime: SpyRuntime) -> None:
    with pytest.warns(SettingIgnoredWarning, match="no effect at guidance 1 "):
        result = generate(bundle, runtime, "red", guidance=1.0, negative="green")
    assert np.array_equal(result.x, generate(bundle, runtime, "red", guidance=1.0).x)


def test_noisy_rows_use_one_stream_each(bundle: Bundle, runtime: SpyRuntime) -> None:
    noisy = {"a": 0.5, "b": 0.5, "n": 0.25}
    table = hand_table("noisy", [noisy, {"a": 0.5, "b": 0.5}, noisy | {"t": 0.5}])
    result = generate(bundle, runtime, ["red", "red"], seed=[1, 2], table=table, guidance=1.0)
    passed = runtime.started[0].noise
    assert passed[1] is None
    x = np.stack([2.0 * standard_noise(seed, SHAPE) for seed in (1, 2)]).astype(np.float64)
    for row in range(3):
        x = 0.5 * x + 0.5 * np.tanh(x + tone(bundle, "red"))
        if row != 1:
            fresh = np.stack([standard_noise(seed, SHAPE, stream=row + 1) for seed in (1, 2)])
            assert np.array_equal(passed[row], fresh)
            x = x + 0.25 * fresh
    assert np.abs(result.x - x).max() < MAX_FLOAT32_ERROR


def test_noise_takes_the_place_of_the_seed(bundle: Bundle, runtime: SpyRuntime) -> None:
    noise = np.stack([standard_noise(11, SHAPE)])
    before = noise.copy()
    passed = generate(bundle, runtime, "red", seed=3, noise=noise)
    assert np.array_equal(passed.x, generate(bundle, runtime, "red", seed=11).x)
    assert np.array_equal(noise, before)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (
            np.zeros((1, 3, 32, 31), np.float32),
            r"float32 \[1, 3, 32, 32\], .*, got float32 \[1, 3, 32, 31\]",
        ),
        (np.zeros((2, 3, 32, 32), np.float32), r"got float32 \[2, 3, 32, 32\]"),
        (np.zeros((3, 32, 32), np.float32), r"got float32 \[3, 32, 32\]"),
        (np.zeros((1, 3, 32, 32), np.float64), "got float64"),
        (np.full((1, 3, 32, 32), np.nan, np.float32), "NaN or infinity"),
        (np.full((1, 3, 32, 32), np.inf, np.float32), "NaN or infinity"),
    ],
)
def test_wrong_noise_is_refused(
    bundle: Bundle, runtime: SpyRuntime, noise: np.ndarray, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        generate(bundle, runtime, "red", noise=noise)
    assert not runtime.started


def test_leaving_the_loop_cancels_and_the_runtime_lives_on(
    bundle: Bundle, runtime: SpyRuntime
) -> None:
    for frame in trajectory(bundle, runtime, "red"):
        if frame.index == 1:
            break
    assert len(runtime.started[0].weights) == 2
    complete = generate(bundle, runtime, "red")
    with FakeRuntime(bundle) as fresh:
        assert np.array_equal(complete.x, generate(bundle, fresh, "red").x)


def test_frames_tell_where_the_run_is(bundle: Bundle, runtime: SpyRuntime) -> None:
    progress: list[tuple[int, int, float]] = []

    def note(frame: Frame) -> None:
        progress.append((frame.index, frame.total, frame.t))
        assert frame.x().shape == (1, *SHAPE)

    generate(bundle, runtime, "red", on_frame=note)
    assert progress == [(0, 4, 0.0), (1, 4, 0.25), (2, 4, 0.5), (3, 4, 0.75)]


def test_a_frame_gives_copies(bundle: Bundle, runtime: SpyRuntime) -> None:
    for frame in trajectory(bundle, runtime, "red"):
        frame.x()[:] = np.nan
        frame.estimate()[:] = np.nan
    assert np.isfinite(frame.x()).all()


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_previews_are_the_estimates_of_the_rows(
    bundle: Bundle, runtime: SpyRuntime, solver: str
) -> None:
    table = solver_table(solver, steps=5)
    assert np.any(table.column("s")) == (solver == "heun")
    tones = tone(bundle, "red"), tone(bundle, None)
    x = 2.0 * standard_noise(0, SHAPE)
    for frame in trajectory(bundle, runtime, "red", table=table, guidance=2.5, previews=True):
        # frame.x() is the state after the row; the estimate was made at the state before it.
        guided = 2.5 * np.tanh(x + tones[0]) - 1.5 * np.tanh(x + tones[1])
        assert np.abs(frame.estimate()[0] - guided).max() < MAX_FLOAT32_ERROR
        x = frame.x()[0].astype(np.float64)


def test_an_estimate_without_previews_is_refused(bundle: Bundle, runtime: SpyRuntime) -> None:
    frames = trajectory(bundle, runtime, "red", table=solver_table("heun", steps=2))
    with pytest.raises(UsageError, match="previews=True"):
        next(frames).estimate()


def test_timings_name_every_stage(bundle: Bundle, runtime: SpyRuntime) -> None:
    timings = generate(bundle, runtime, "red").timings
    assert list(timings) == ["tokenise", "encode", "adapt", "noise", "steps", "image"]
    assert all(seconds > 0 for seconds in timings.values())


def test_a_long_prompt_is_cut_where_the_warning_says(bundle: Bundle, runtime: SpyRuntime) -> None:
    text = "a red circle " * 770
    assert len(text) > 10_000
    with pytest.warns(PromptTruncatedWarning, match="cut after [0-9]+ characters") as caught:
        result = generate(bundle, runtime, text)
    assert len(caught) == 1
    used = int(str(caught[0].message).split("after ")[1].split(" ")[0])
    assert 0 < used < 100
    assert np.array_equal(result.x, generate(bundle, runtime, text[:used]).x)


def test_an_empty_prompt_is_not_the_unconditional_branch(
    bundle: Bundle, runtime: SpyRuntime
) -> None:
    empty = generate(bundle, runtime, "", guidance=1.0)
    assert np.isfinite(empty.x).all()
    # Guidance 0 leaves the second branch alone.
    unconditional = generate(bundle, runtime, "", guidance=0.0)
    assert np.abs(empty.x - unconditional.x).max() > 1e-4


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("a\0b", {}, "NUL character at position 1"),
        ("red", {"negative": "\0"}, "NUL character at position 0"),
        ([], {}, "at least one"),
        ("red", {"guidance": float("nan")}, "got nan"),
        ("red", {"guidance": float("inf")}, "got inf"),
    ],
)
def test_wrong_calls_are_refused_before_any_step(
    bundle: Bundle, runtime: SpyRuntime, prompts: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        generate(bundle, runtime, prompts, **options)
    assert not runtime.started
