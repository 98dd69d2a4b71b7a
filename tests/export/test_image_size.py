"""Bundles for images of another size than the weights were trained for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Manifest
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.editing.input_images import read_edit
from minit2i_deploy.errors import BundleError, UsageError
from minit2i_deploy.evaluation.compare.contenders import check_comparable
from minit2i_deploy.export import ExportOptions, export_bundle, verify_bundle
from minit2i_deploy.export.options import SourceOptions
from minit2i_deploy.generate import generate
from minit2i_deploy.model import build_network
from minit2i_deploy.runtimes import open_runtime
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import text_folder, tiny_bundle

TEXT = SourceOptions(text_encoder=text_folder())


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of 48 x 24 pixels, the weights being trained for 32 x 32, with padded heads."""
    options = ExportOptions(text_encoder=text_folder(), image_size=(48, 24), head_multiple=32)
    return export_bundle(hub_folder(), tmp_path_factory.mktemp("x") / "wide", options)


def test_positions_start_at_the_top_left_of_every_grid() -> None:
    """A patch of a larger image has the position that it has in a smaller one."""
    small = build_network(load_checkpoint(hub_folder())).denoiser
    large = build_network(load_checkpoint(hub_folder(), image_size=(48, 64))).denoiser
    for name, axis in (("position_table", 0), ("img_rotary", 1)):
        table = np.moveaxis(getattr(large, name).numpy(), axis, 0)
        expected = np.moveaxis(getattr(small, name).numpy(), axis, 0)
        grid = table.reshape(8, 6, *table.shape[1:])[:4, :4]
        assert np.array_equal(grid.reshape(expected.shape), expected)


def test_manifest(wide: Bundle) -> None:
    assert wide.config.image_shape == (3, 24, 48)
    assert wide.manifest.trained_size == (32, 32)
    assert wide.manifest.graphs["transformer"].inputs["x"].shape == ("batch", 3, 24, 48)
    standard = Bundle.open(tiny_bundle())
    assert wide.manifest.flavour == standard.manifest.flavour
    assert standard.manifest.trained_size is None
    assert b"trained_size" not in standard.manifest.to_bytes()
    assert b"image_width" not in standard.manifest.to_bytes()


@pytest.mark.parametrize("size", [(32,), (32, 0), (32, 32, 3)])
def test_a_trained_size_that_is_none(wide: Bundle, size: tuple[int, ...]) -> None:
    manifest = dataclasses.replace(wide.manifest, trained_size=size)
    with pytest.raises(BundleError, match="expected height and width in pixels"):
        Manifest.from_bytes(manifest.to_bytes(), "here")


def test_runtimes_generate_the_same_image(wide: Bundle) -> None:
    images = {}
    for name in ("onnxruntime", "torch", "openvino"):
        with open_runtime(wide, name) as runtime:
            result = generate(wide, runtime, "a red circle", seed=7, table=wide.table("euler-20"))
        assert result.images[0].size == (48, 24)
        images[name] = np.asarray(result.images[0], np.int16)
    for name, image in images.items():
        assert (np.abs(image - images["torch"]) <= 1).mean() >= 0.999, name


def test_verify_takes_the_size_of_the_bundle(wide: Bundle) -> None:
    checks = verify_bundle(wide.path, hub_folder(), TEXT)
    assert {check.name for check in checks} >= {"transformer", "trajectory"}
    for size in (32, (24, 48)):
        with pytest.raises(UsageError, match="the bundle's images are 48x24; omit image_size"):
            verify_bundle(wide.path, hub_folder(), dataclasses.replace(TEXT, image_size=size))


def test_edits_are_of_arrays_and_files(wide: Bundle, tmp_path: Path) -> None:
    known = np.full((3, 24, 48), 0.5, np.float32)
    mask = np.zeros((24, 48), np.float32)
    mask[:, 24:] = 1
    with open_runtime(wide, "onnxruntime") as runtime:
        table = wide.table("euler-20")
        x = generate(wide, runtime, "a red circle", table=table, known=known, mask=mask).x
    assert (x[0, :, :, :24] == 0.5).all()
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    edit = read_edit(wide, init_image=tmp_path / "a.png", strength=0.5)
    assert edit.notes[0].endswith("40 x 30 pixels, scaled to 48 x 36, cropped to 48 x 24")
    assert edit.init_image is not None and edit.init_image.shape == (3, 24, 48)
    assert (edit.init_image[:, :, :22] == 1).all() and (edit.init_image[:, :, 26:] == -1).all()


def test_sizes_are_said_and_compared(wide: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(run(capsys, "inspect", str(wide.path)).out.split())
    assert "size 48x24; the weights were trained for 32x32" in text
    with pytest.raises(UsageError, match=r"image size is 48x24, but .* has 32x32"):
        check_comparable(Bundle.open(tiny_bundle()), wide)


@pytest.mark.parametrize("size", ["48x", "x48", "48x20", "0", "4800000", "big", "-8"])
def test_sizes_that_are_refused(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(
        capsys, "export", str(hub_folder()), str(tmp_path / "x"),
        "--text-encoder", str(text_folder()), f"--image-size={size}",
    )  # fmt: skip
    assert done.code == 2 and done.err.count("\n") == 1 and not any(tmp_path.iterdir())
