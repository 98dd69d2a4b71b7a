"""Bundles whose height and width are free, against fixed ones of the same weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Manifest
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import BundleError, RuntimeFailure, UsageError
from minit2i_deploy.export import ExportOptions, export_bundle, verify_bundle
from minit2i_deploy.export.options import SourceOptions
from minit2i_deploy.export.tensorrt.build_options import BuildOptions, sizes_for
from minit2i_deploy.generate import generate, trajectory
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.model import build_network
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.base import BaseRuntime
from minit2i_deploy.runtimes.onnxruntime.provider_options import ProviderSettings, plugin_options
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from minit2i_deploy.solvers.step_inputs import ImageStep
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.free_bundles import LARGE, SIDES, WIDE, fixed_bundle, free_bundle
from tests.helpers.tensorrt_runs import SIZES, install, write_fake_engine
from tests.helpers.tiny_bundle import text_folder, tiny_bundle

OWN = (32, 32)
TABLE = solver_table("ab2", steps=5)
# Largest difference of a state, 4 being usual: measured 0 in onnxruntime and torch, 6e-6 in
# openvino, whose kernels depend on what it knows of the shapes.
MAX_ERROR = {"onnxruntime": 0.0, "torch": 0.0, "openvino": 1e-4}


@pytest.fixture(scope="module")
def free() -> Bundle:
    return Bundle.open(free_bundle())


def fixed(size: tuple[int, int]) -> Bundle:
    return Bundle.open(tiny_bundle() if size == OWN else fixed_bundle(size))


def state(bundle: Bundle, runtime: Any, **arguments: Any) -> np.ndarray:
    prompts = ["a red circle", "two"]
    x: np.ndarray = generate(
        bundle, runtime, prompts, seed=[7, 8], table=TABLE, guidance=3.0, **arguments
    ).x
    return x


@pytest.mark.parametrize("name", sorted(MAX_ERROR))
def test_every_size_gives_the_images_of_a_bundle_of_that_size(free: Bundle, name: str) -> None:
    with open_runtime(free, name) as runtime:
        states = {size: state(free, runtime, size=size) for size in (OWN, LARGE, WIDE, OWN)}
        np.testing.assert_array_equal(state(free, runtime), states[OWN])
    for size, actual in states.items():
        with open_runtime(fixed(size), name) as runtime:
            expected = state(fixed(size), runtime)
        assert actual.shape == expected.shape == (2, 3, size[1], size[0])
        assert np.abs(actual - expected).max() <= MAX_ERROR[name], size


def test_a_step_is_that_of_numpy(free: Bundle) -> None:
    """The oracle: estimates of the graph, mixed and advanced by ``advance``."""
    with open_runtime(free, "onnxruntime") as runtime:
        frame = next(trajectory(free, runtime, "red", table=TABLE, guidance=3.0, size=WIDE))
        x, h = frame.state.state()
        row = TABLE.steps(3.0)[1]
        tokens = np.random.default_rng(0).standard_normal(
            (2, free.config.num_text_tokens, free.config.hidden_size), np.float32
        )
        step = ImageStep(x=x[0], h=h[0], tokens=tokens, row=row)
        actual = runtime.step_batch([step])
        oracle = BaseRuntime._step_batch.__get__(runtime)
        expected = oracle(runtime_batch(step))
    for one, other in zip(actual, expected, strict=True):
        # Measured 1e-6.
        assert np.abs(one - other).max() <= 1e-4


def runtime_batch(step: ImageStep) -> Any:
    from minit2i_deploy.solvers.step_inputs import StepBatch

    return StepBatch.join([step])


def test_tensorrt_takes_engines_whose_profile_holds_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: Bundle
) -> None:
    import shutil

    from tests.helpers.fakes.fake_cuda import FakeCuda
    from tests.helpers.fakes.fake_tensorrt import FakeTensorRt

    library = FakeTensorRt(FakeCuda(), rtx=True)
    install(monkeypatch, library.cuda, library)
    bundle = Bundle.open(shutil.copytree(free.path, tmp_path / "free"))
    sizes = sizes_for(bundle, "transformer", BuildOptions(library="tensorrt_rtx", max_batch=4))
    assert sizes["height"] == sizes["width"] == (16, 32, 64)
    for graph in bundle.manifest.graphs:
        write_fake_engine(bundle, graph, library, sizes=SIZES | sizes | {"width": (16, 32, 48)})
    with open_runtime(bundle, "onnxruntime", threads=1) as runtime:
        expected = {size: state(bundle, runtime, size=size) for size in (OWN, WIDE)}
    with open_runtime(bundle, "tensorrt-rtx") as runtime:
        for size, one in expected.items():
            # The fake engine is onnxruntime; measured 0.
            assert np.abs(state(bundle, runtime, size=size) - one).max() <= 3e-5
        with pytest.raises(RuntimeFailure, match="accepts width from 16 to 48"):
            state(bundle, runtime, size=(64, 32))


def test_profiles_of_onnxruntimes_providers(free: Bundle) -> None:
    free_axes = {"height": (16, 32, 64), "width": (16, 32, 64)}
    info = free.manifest.graphs["transformer"]
    settings = ProviderSettings(info=info, free=free_axes)
    options = plugin_options(PROVIDERS["tensorrt-rtx"], settings)
    assert ",x:1x3x16x16" in options["nv_profile_min_shapes"]
    assert "known_mask:16x1x64x64" in options["nv_profile_max_shapes"]


def test_known_pixels_and_a_start_at_another_size(free: Bundle) -> None:
    known = np.full((3, 24, 48), 0.5, np.float32)
    mask = np.zeros((24, 48), np.float32)
    mask[:, 24:] = 1
    edit = {"known": known, "mask": mask, "init_image": -known, "strength": 0.7}
    with open_runtime(free, "onnxruntime") as runtime:
        actual = state(free, runtime, size=WIDE, **edit)
    with open_runtime(fixed(WIDE), "onnxruntime") as runtime:
        np.testing.assert_array_equal(actual, state(fixed(WIDE), runtime, **edit))
    assert (actual[:, :, :, :24] == 0.5).all()


def test_positions_are_those_of_every_size() -> None:
    """In padded heads too: each channel is stored once, by line or by column."""
    net = build_network(load_checkpoint(hub_folder()), SIDES[1]).denoiser
    for size in ((16, 16), WIDE, (64, 64)):
        other = build_network(load_checkpoint(hub_folder(), image_size=size)).denoiser
        import torch

        x = torch.zeros(1, 3, size[1], size[0])
        for actual, expected in zip(net._positions(x), other._positions(x), strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    "options",
    [{"head_multiple": 32, "opset": 18}, {"only_for": "cpu"}],
)
def test_other_forms_of_graphs(tmp_path: Path, options: dict[str, Any]) -> None:
    bundle = export_bundle(
        hub_folder(),
        tmp_path / "form",
        ExportOptions(text_encoder=text_folder(), sides=SIDES, **options),
    )
    with open_runtime(bundle, "onnxruntime") as runtime:
        actual = state(bundle, runtime, size=WIDE)
    with open_runtime(fixed(WIDE), "onnxruntime") as runtime:
        expected = state(fixed(WIDE), runtime)
    # Measured 5e-6.
    assert np.abs(actual - expected).max() <= 1e-4


def test_manifest_and_record(free: Bundle, tmp_path: Path) -> None:
    assert free.manifest.side_bounds == SIDES
    assert free.manifest.graphs["transformer"].inputs["x"].shape == ("batch", 3, "height", "width")
    assert b"side_bounds" not in Bundle.open(tiny_bundle()).manifest.to_bytes()
    with open_runtime(free, "onnxruntime") as runtime:
        own = generate(free, runtime, "red", table=TABLE, size=OWN)
        wide = generate(free, runtime, "red", table=TABLE, size=WIDE)
    assert own.record().format_version == 1 and wide.images[0].size == WIDE
    wide.save(tmp_path / "wide.png")
    record = Record.read(tmp_path / "wide.png")
    assert (record.format_version, record.size, record.edit) == (3, WIDE, None)


def test_verify_measures_the_own_size(free: Bundle) -> None:
    checks = verify_bundle(free.path, hub_folder(), SourceOptions(text_encoder=text_folder()))
    assert {check.name for check in checks} >= {"transformer", "trajectory"}


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((48, 20), "image size is 48x20, but both sides must be multiples of the patch of 8"),
        ((8, 32), "image size is 8x32, but sides of this bundle are 16 to 64 pixels"),
        ((32, 72), "image size is 32x72, but sides of this bundle are 16 to 64 pixels"),
        ((0, 32), "image size is 0x32, but both sides must be multiples"),
    ],
)
def test_sizes_that_are_refused(free: Bundle, size: tuple[int, int], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        free.at_size(size)


def test_a_fixed_bundle_has_one_size() -> None:
    bundle = fixed(WIDE)
    assert bundle.at_size(WIDE) is not None and bundle.at_size(None) is bundle
    with pytest.raises(UsageError, match=r"is 32x32, but the bundle's images are 48x24 alone; exp"):
        bundle.at_size(OWN)


@pytest.mark.parametrize(
    ("sides", "text"),
    [
        ((20, 64), "sides are 20-64, expected MIN-MAX, both positive multiples of the patch of 8"),
        ((0, 64), "expected MIN-MAX"),
        ((32, 32), "sides are 32-32, expected MIN-MAX, .* and MIN below MAX"),
        ((40, 64), "sides of 40 to 64 pixels exclude the image size of 32x32"),
        ((16, 24), "sides of 16 to 24 pixels exclude the image size of 32x32"),
        ((16, 8 * 2**9), "more than 65,536 patches"),
    ],
)
def test_bounds_that_are_refused(tmp_path: Path, sides: tuple[int, int], text: str) -> None:
    options = ExportOptions(text_encoder=text_folder(), sides=sides)
    with pytest.raises(UsageError, match=text):
        export_bundle(hub_folder(), tmp_path / "x", options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("bounds", [(16,), (40, 64), (0, 64), (64, 16)])
def test_manifests_with_other_bounds(free: Bundle, bounds: tuple[int, ...]) -> None:
    manifest: Any = dataclasses.replace(free.manifest, side_bounds=bounds)
    with pytest.raises(BundleError, match="side_bounds"):
        manifest.to_bytes()


def test_bounds_need_a_graph_that_is_free() -> None:
    manifest = dataclasses.replace(fixed(OWN).manifest, side_bounds=SIDES)
    with pytest.raises(BundleError, match="side_bounds needs a step graph whose input x has free"):
        manifest.to_bytes()
    assert Manifest.from_bytes(fixed(OWN).manifest.to_bytes(), "here").side_bounds is None


def test_the_command_line(free: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, image = str(free.path), str(tmp_path / "a.png")
    done = run(capsys, "generate", bundle, "red", "--size", "48x24", "--table", "euler-20",
               "--seed", "3", "-o", image)  # fmt: skip
    assert done.code == 0, done.err
    again = run(capsys, "generate", bundle, "--from", image, "-o", str(tmp_path / "b.png"))
    assert again.code == 0, again.err
    assert (tmp_path / "b.png").read_bytes() == Path(image).read_bytes()
    edited = run(
        capsys, "generate", bundle, "red", "--size", "64x32", "--inpaint", image,
        "--outpaint", "0,0,48,0", "--table", "euler-20", "-o", str(tmp_path / "c.png"),
    )  # fmt: skip
    assert edited.code == 0, edited.err
    assert "canvas of 96 x 48 pixels, scaled to 64 x 32; the image has 32 x 16" in edited.err
    text = " ".join(run(capsys, "inspect", bundle).out.split())
    assert "sides 16 to 64 pixels" in text
    for folder, size, expected in (
        (bundle, "72", "sides of this bundle are 16 to 64 pixels"),
        (str(tiny_bundle()), "48x24", "the bundle's images are 32x32 alone; export it with --sid"),
    ):
        refused = run(capsys, "generate", folder, "red", "--size", size, "-o", image)
        assert refused.code == 2 and refused.err.count("\n") == 1 and expected in refused.err


@pytest.mark.parametrize("sides", ["64", "a-b", "16-", "64-16"])
def test_sides_on_the_command_line(
    sides: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(
        capsys, "export", str(hub_folder()), str(tmp_path / "x"),
        "--text-encoder", str(text_folder()), f"--sides={sides}",
    )  # fmt: skip
    assert done.code == 2 and done.err.count("\n") == 1 and not any(tmp_path.iterdir())
