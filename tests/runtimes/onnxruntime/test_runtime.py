"""ONNX Runtime against the torch runtime and the official trajectories, on a real bundle."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.evaluation.relative_error import max_relative_error
from minit2i_deploy.generate import generate
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.protocol import Runtime, Trajectory
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.runtimes.torch.runtime import TorchRuntime
from minit2i_deploy.solvers.noise import batch_noise, standard_noise
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.text.conditioning import branch_tokens
from minit2i_deploy.text.embed import embed
from minit2i_deploy.text.prompts import Mix
from tests.helpers.checkpoint_forms import arrays
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import overflowing, tiny_bundle

PROMPTS = ["a red circle", "green", ""]
# Measured: encode 2.4e-7, adapt 2.5e-7, embed 3.6e-7, one step of any table 2.2e-6.
MAX_RELATIVE_ERROR = 1e-5
# Measured 7.5e-6 in onnxruntime and 6.0e-6 in torch, on states up to 5.1.
MAX_GOLDEN_ERROR = 1e-4


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


@pytest.fixture(scope="module")
def ort(bundle: Bundle) -> Iterator[OnnxRuntime]:
    with OnnxRuntime(bundle, threads=1) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def torch_runtime(bundle: Bundle) -> Iterator[TorchRuntime]:
    with TorchRuntime(bundle) as runtime:
        yield runtime


@pytest.fixture(params=["onnxruntime", "torch"])
def runtime(
    request: pytest.FixtureRequest, ort: OnnxRuntime, torch_runtime: TorchRuntime
) -> Runtime:
    return ort if request.param == "onnxruntime" else torch_runtime


def tokens_of(bundle: Bundle, runtime: Runtime, prompts: list[str]) -> np.ndarray:
    return branch_tokens(bundle, runtime, prompts, None, True, {})


def start_of(bundle: Bundle, count: int) -> np.ndarray:
    size = bundle.config.image_size
    return 2.0 * batch_noise(range(count), (3, size, size))


@pytest.mark.parametrize("lengths", [[1], [5, 12, 1], [12, 12]])
def test_encode_agrees(ort: OnnxRuntime, torch_runtime: TorchRuntime, lengths: list[int]) -> None:
    rng = np.random.default_rng(1)
    mask = (np.arange(max(lengths))[None] < np.array(lengths)[:, None]).astype(np.int64)
    ids = rng.integers(3, 30, mask.shape) * mask
    actual, expected = ort.encode(ids, mask), torch_runtime.encode(ids, mask)
    assert actual.dtype == expected.dtype == np.float32
    real = mask > 0
    assert max_relative_error(actual[real], expected[real]) <= MAX_RELATIVE_ERROR


def test_adapt_agrees(bundle: Bundle, ort: OnnxRuntime, torch_runtime: TorchRuntime) -> None:
    config = bundle.config
    rng = np.random.default_rng(2)
    shape = (3, config.prompt_length, config.txt_input_size)
    context = rng.standard_normal(shape).astype(np.float32)
    mask = np.arange(config.prompt_length)[None] < np.array([[12], [4], [0]])
    actual, expected = (r.adapt(context, mask.astype(np.int64)) for r in (ort, torch_runtime))
    assert actual.shape == (3, config.num_text_tokens, config.hidden_size)
    assert max_relative_error(actual, expected) <= MAX_RELATIVE_ERROR
    # What stands where the mask is zero does not reach the network.
    context[2] = 9.0
    assert np.array_equal(ort.adapt(context, mask.astype(np.int64))[2], actual[2])


TABLES = [
    solver_table("euler", steps=10),
    solver_table("heun", steps=5),
    solver_table("euler", steps=6, interval=(0.3, 0.8), clip=1.0, rescale=0.7),
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("count", [1, 2])
def test_each_step_agrees(
    bundle: Bundle,
    ort: OnnxRuntime,
    torch_runtime: TorchRuntime,
    table: Table,
    guidance: float,
    count: int,
) -> None:
    tokens = tokens_of(bundle, torch_runtime, PROMPTS[:count])
    state = torch_runtime.start(start_of(bundle, count), tokens)
    for row in table.steps(guidance):
        x, h = state.state()
        state.step(row)
        # Both begin each row at the same state, so errors do not add up; the noise argument is
        # the way into the history slot.
        fresh = ort.start(x, tokens)
        fresh.step(row, h)
        for actual, expected in zip(fresh.state(), state.state(), strict=True):
            assert max_relative_error(actual, expected) <= MAX_RELATIVE_ERROR


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (solver_table("euler", steps=100), {"guidance": 2.5}),
        (solver_table("euler", steps=20), {"guidance": 6.0, "negative": "green"}),
        (solver_table("heun", steps=20), {"guidance": 2.5}),
        (solver_table("euler", steps=20), {"guidance": 1.0}),
    ],
    ids=["euler-100", "euler-20-negative", "heun-20", "euler-20-unguided"],
)
def test_whole_images_agree(
    bundle: Bundle,
    ort: OnnxRuntime,
    torch_runtime: TorchRuntime,
    table: Table,
    options: dict[str, Any],
) -> None:
    results = [
        generate(bundle, runtime, PROMPTS, seed=[1, 2, 3], table=table, **options)
        for runtime in (ort, torch_runtime)
    ]
    pixels = [to_uint8(result.x).astype(np.int64) for result in results]
    within = np.abs(pixels[0] - pixels[1]) <= 1
    assert within.mean() >= 0.999
    # Measured 1.5e-5 on values up to 7, and not one byte of the images differs.
    assert np.abs(results[0].x - results[1].x).max() <= 2e-4
    assert pixels[0].std() > 10


def golden_states(runtime: Runtime, name: str, table: Table) -> tuple[float, np.ndarray]:
    """Largest difference from the official states, and the last state."""
    golden = arrays(name)
    expected = golden["x"].transpose(0, 1, 4, 2, 3)
    context, mask = golden["context"], golden["mask"].astype(np.int64)
    tokens = np.stack([runtime.adapt(context, mask), runtime.adapt(context, np.zeros_like(mask))])
    state: Trajectory = runtime.start(expected[0], tokens)
    error, reached = 0.0, 0
    for row in table.steps(float(golden["cfg_scale"])):
        state.step(row)
        # Heun's first evaluation of a step leaves a state of its own, not one of the solver's.
        if not row.slope:
            reached += 1
            error = max(error, float(np.abs(state.state()[0] - expected[reached]).max()))
    assert reached == len(expected) - 1
    return error, state.state()[0]


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_golden_trajectories(runtime: Runtime, solver: str) -> None:
    golden = arrays(f"sampler_{solver}")
    table = solver_table(solver, steps=6, a_min=float(golden["a_min"]))
    error, last = golden_states(runtime, f"sampler_{solver}", table)
    assert error <= MAX_GOLDEN_ERROR
    off = np.abs(to_uint8(last).astype(np.int64) - golden["images_uint8"])
    assert off.max() <= 1


def test_an_image_does_not_depend_on_its_batch(bundle: Bundle, runtime: Runtime) -> None:
    table = solver_table("euler", steps=10)
    together = generate(bundle, runtime, PROMPTS, seed=[4, 5, 6], table=table)
    for k, prompt in enumerate(PROMPTS):
        alone = generate(bundle, runtime, prompt, seed=4 + k, table=table)
        # Measured 5.3e-6 in torch, whose kernels depend on the batch, and 0 in onnxruntime.
        assert np.abs(alone.x[0] - together.x[k]).max() <= 1e-5
        off = np.asarray(alone.images[0]).astype(int) - np.asarray(together.images[k])
        assert np.abs(off).max() <= 1


def test_embeddings_agree_and_load_no_denoiser(bundle: Bundle, torch_runtime: TorchRuntime) -> None:
    with OnnxRuntime(bundle, threads=1) as runtime:
        actual = embed(bundle, runtime, PROMPTS, batch_size=2)
        assert set(runtime._sessions) == {"text_encoder"}
    expected = embed(bundle, torch_runtime, PROMPTS, batch_size=2)
    assert np.array_equal(actual.mask, expected.mask)
    assert max_relative_error(actual.values, expected.values) <= MAX_RELATIVE_ERROR
    assert max_relative_error(actual.pooled(), expected.pooled()) <= MAX_RELATIVE_ERROR
    assert not runtime._sessions


def test_states_are_copies_and_arguments_are_left_alone(bundle: Bundle, runtime: Runtime) -> None:
    x = start_of(bundle, 1)
    tokens = tokens_of(bundle, runtime, ["red"])
    noise = batch_noise([9], x.shape[1:])
    copies = [array.copy() for array in (x, tokens, noise)]
    table = solver_table("heun", steps=2)
    row = table.steps(2.0)[0]
    state = runtime.start(x, tokens)
    first = state.state()
    assert np.array_equal(first[0], x)
    assert not first[1].any()
    state.step(row, noise)
    second = state.state()
    state.step(row)
    assert all(map(np.array_equal, (x, tokens, noise), copies))
    x[:], tokens[:], noise[:] = 0, 0, 0
    again = runtime.start(copies[0], copies[1])
    again.step(row, copies[2])
    assert all(map(np.array_equal, second, again.state()))
    again.step(row)
    assert all(map(np.array_equal, state.state(), again.state()))


def test_two_trajectories_share_nothing(bundle: Bundle, runtime: Runtime) -> None:
    tokens = tokens_of(bundle, runtime, ["red"])
    x = start_of(bundle, 1)
    rows = solver_table("euler", steps=3).steps(2.0)
    alone, first, second = (runtime.start(x, tokens) for _ in range(3))
    for row in rows:
        alone.step(row)
    for row in rows:
        first.step(row)
        second.step(row)
    assert np.array_equal(first.state()[0], alone.state()[0])
    assert np.array_equal(second.state()[0], alone.state()[0])


def test_noise_in_any_memory_order(bundle: Bundle, runtime: Runtime) -> None:
    size = bundle.config.image_size
    noise = standard_noise(3, (1, size, size, 3)).transpose(0, 3, 1, 2)
    assert not noise.flags.c_contiguous
    table = solver_table("heun", steps=3)
    strided = generate(bundle, runtime, "red", noise=noise, table=table)
    plain = generate(bundle, runtime, "red", noise=np.ascontiguousarray(noise), table=table)
    assert np.array_equal(strided.x, plain.x)


def test_rows_may_change_their_number_of_branches(bundle: Bundle, runtime: Runtime) -> None:
    """Guidance 2 in the middle only equals a run that computes both branches everywhere."""
    table = solver_table("euler", steps=6, interval=(0.3, 0.7))
    tokens = tokens_of(bundle, runtime, ["red"])
    x = start_of(bundle, 1)
    sparse, full = runtime.start(x, tokens), runtime.start(x, tokens)
    for row in table.steps(2.0):
        sparse.step(row)
        both = row.weights if len(row.weights) == 2 else np.array([1, 0], np.float32)
        full.step(dataclasses.replace(row, weights=both))
    assert max_relative_error(sparse.state()[0], full.state()[0]) <= MAX_RELATIVE_ERROR


def test_an_engine_error_is_one_line_and_leaves_the_runtime_usable(
    bundle: Bundle, ort: OnnxRuntime
) -> None:
    with pytest.raises(RuntimeFailure, match="onnxruntime failed in text_encoder: ") as caught:
        ort.encode(np.ones((1, 2), np.int64), np.ones((1, 3), np.int64))
    assert "\n" not in str(caught.value)
    state = ort.start(start_of(bundle, 1), tokens_of(bundle, ort, ["red"]))
    with pytest.raises(RuntimeFailure, match="onnxruntime failed in transformer: ") as caught:
        state.step(dataclasses.replace(TABLES[0].steps()[0], weights=np.ones(3, np.float32)))
    assert "\n" not in str(caught.value)
    assert np.isfinite(generate(bundle, ort, "red", table=TABLES[0]).x).all()


def test_a_graph_that_went_missing_is_named(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    copy = Bundle.open(tmp_path / "bundle")
    copy.graph_path("text_encoder").unlink()
    with OnnxRuntime(copy) as runtime, pytest.raises(RuntimeFailure, match=r"text_encoder.*open"):
        embed(copy, runtime, "red")


def test_threads_are_the_callers_choice(bundle: Bundle) -> None:
    with OnnxRuntime(bundle, threads=1) as one, OnnxRuntime(bundle) as every:
        assert one.threads == 1
        assert every.threads >= 1
        ids = np.ones((1, 2), np.int64)
        one.encode(ids, ids)
        options = one._sessions["text_encoder"].get_session_options()
        assert options.intra_op_num_threads == 1
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("solver", ["heun", "sde"])
def test_a_seed_is_one_image_in_any_batch_and_runtime(
    bundle: Bundle, ort: OnnxRuntime, torch_runtime: TorchRuntime, solver: str
) -> None:
    table, seeds = solver_table(solver, steps=6), [7, 2**63, 0]
    settings: dict[str, Any] = {"table": table, "guidance": 2.5, "negative": "blue"}
    mixes = [Mix(parts=((text, 1.0), ("a circle", 0.5))) for text in PROMPTS]
    together = generate(bundle, ort, mixes, seed=seeds, **settings)
    for index, (mix, seed) in enumerate(zip(mixes, seeds, strict=True)):
        for runtime in (ort, torch_runtime):
            alone = generate(bundle, runtime, mix, seed=seed, **settings)
            # Measured 0 in onnxruntime and 2.7e-6 in torch, and no byte differs.
            assert max_relative_error(alone.x[0], together.x[index]) <= MAX_RELATIVE_ERROR
            same = np.asarray(alone.images[0]) == np.asarray(together.images[index])
            assert same.mean() >= 0.999


def test_an_image_is_made_again_to_the_byte(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    arguments = ["--solver", "sde", "--steps", 5, "--seed", 3, "--also", "green:0.5"]
    assert run(capsys, "generate", bundle.path, "red", *arguments, "-o", first).code == 0
    assert run(capsys, "generate", bundle.path, "--from", first, "-o", again).code == 0
    assert again.read_bytes() == first.read_bytes()


def test_an_encoder_that_overflows_is_refused_at_its_first_use(
    bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    copy = Bundle.open(tmp_path / "bundle")
    overflowing(copy.data_path("text_encoder"))
    ids = np.array([[20, 1]], np.int64)
    with OnnxRuntime(copy, threads=1) as runtime:
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match=r"bundle: .* infinity on onnxruntime; its"):
                runtime.encode(ids, np.ones_like(ids))


def test_painting_several_prompts_opens_every_graph_once_and_frees_the_encoder(
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    open_sessions: list[set[str]] = []
    real, freeing = OnnxRuntime._opened, OnnxRuntime._free

    def spied(self: OnnxRuntime, graph: str, **settings: Any) -> Any:
        opened.append(graph)
        return real(self, graph, **settings)

    def noted(self: OnnxRuntime) -> None:
        open_sessions.append(set(self._sessions))
        freeing(self)

    monkeypatch.setattr(OnnxRuntime, "_opened", spied)
    monkeypatch.setattr(OnnxRuntime, "_free", noted)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red\ngreen\na circle\n", encoding="utf-8")
    arguments = ["--prompts", prompts, "--negative", "blue", "--steps", 2]
    assert run(capsys, "generate", bundle.path, *arguments, "-o", tmp_path / "images").code == 0
    assert sorted(opened) == ["text_adapter", "text_encoder", "transformer"]
    assert open_sessions == [{"text_adapter", "transformer"}]


def test_a_lean_runtime_does_not_copy_the_weights_of_its_encoder(bundle: Bundle) -> None:
    ids = np.arange(3, 9)[None]
    values, copies = [], []
    for lean in (False, True):
        with OnnxRuntime(bundle, lean=lean) as runtime:
            generate(bundle, runtime, "red", table=TABLES[0])
            values.append(runtime.encode(ids, np.ones_like(ids)))
            graphs = ("text_encoder", "transformer")
            copies.append([_copies_weights(runtime._sessions[name]) for name in graphs])
    assert copies == [[True, True], [False, True]]
    # Sums of another order: 0 here, 2e-7 at FLAN-T5-Large's size.
    np.testing.assert_allclose(values[1], values[0], atol=1e-6)


def _copies_weights(session: Any) -> bool:
    try:
        entry = session.get_session_options().get_session_config_entry("session.disable_prepacking")
    except RuntimeError:  # it was not set
        return True
    return bool(entry != "1")
