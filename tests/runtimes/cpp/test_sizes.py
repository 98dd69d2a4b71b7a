"""Sizes of images in the C++ client: bundles that are not square, and those that are free."""

from __future__ import annotations

from ctypes import POINTER, byref, c_void_p, cast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.io.images import read_metadata
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.table import solver_table
from tests.helpers import cpp_client
from tests.helpers.cpp_client import OK, USAGE, floats, last_error, program
from tests.helpers.free_bundles import LARGE, WIDE, fixed_bundle, free_bundle
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp

# Measured 0: the same library runs the same graphs.
MAX_STATE_ERROR = 1e-4
TABLE = solver_table("sde", steps=4)


@pytest.fixture(scope="module")
def client() -> Any:
    with cpp_client.Client(free_bundle()) as opened:
        yield opened


@pytest.fixture
def table(tmp_path: Path) -> bytes:
    TABLE.save(tmp_path / "own.json")
    return str(tmp_path / "own.json").encode()


def python(bundle: Path, **arguments: Any) -> Any:
    opened = Bundle.open(bundle)
    with open_runtime(opened, "onnxruntime") as runtime:
        return generate(opened, runtime, "red", seed=3, table=TABLE, **arguments)


def state(client: Any, size: tuple[int, int], **fields: Any) -> np.ndarray:
    seeds = (cpp_client.c_uint64 * 1)(3)
    x: np.ndarray = client.generate(
        cpp_client.generate_params(b"red", seeds=seeds, **fields), *size
    )
    return x


@pytest.mark.parametrize("size", [LARGE, WIDE, (32, 32)])
def test_every_size_gives_the_states_of_python(
    client: Any, table: bytes, size: tuple[int, int]
) -> None:
    actual = state(client, size, table=table, width=size[0], height=size[1])
    expected = python(free_bundle(), size=size).x
    assert np.abs(actual - expected).max() <= MAX_STATE_ERROR


def test_a_bundle_that_is_not_square(table: bytes) -> None:
    with cpp_client.Client(fixed_bundle(WIDE)) as client:
        actual = state(client, WIDE, table=table)
    assert np.abs(actual - python(fixed_bundle(WIDE)).x).max() <= MAX_STATE_ERROR


def test_previews_and_edits_have_the_size(client: Any, table: bytes) -> None:
    shapes = []

    def look(_: object, frame: Any) -> int:
        values = cast(frame, POINTER(cpp_client.Frame)).contents
        shapes.append((values.width, values.height, values.size))
        return 0

    known = np.full((3, 24, 48), 0.5, np.float32)
    mask = np.zeros((1, 24, 48), np.float32)
    mask[..., :24] = 1
    call = cpp_client.PREVIEW(look)
    x = state(client, WIDE, table=table, width=48, height=24, on_preview=call,
              **floats(known=known, known_mask=mask))  # fmt: skip
    assert (x[..., :24] == 0.5).all() and shapes == [(48, 24, 24)] * len(TABLE)


@pytest.mark.parametrize(
    ("bundle", "size", "text"),
    [
        (free_bundle, (48, 20), "image size is 48x20, but both sides must be multiples of the pat"),
        (free_bundle, (8, 32), "image size is 8x32, but sides of this bundle are 16 to 64 pixels"),
        (free_bundle, (32, 72), "sides of this bundle are 16 to 64 pixels"),
        (free_bundle, (32, 0), "width and height are 32 and 0, but both must be pixels, or both 0"),
        (free_bundle, (-8, -8), "width and height are -8 and -8"),
        (tiny_bundle, (48, 24), "image size is 48x24, but the bundle's images are 32x32 alone"),
    ],
)
def test_sizes_that_are_refused(bundle: Any, size: tuple[int, int], text: str) -> None:
    with cpp_client.Client(bundle()) as client:
        images = c_void_p()
        params = cpp_client.generate_params(b"red", width=size[0], height=size[1])
        status = cpp_client.library().minit2i_generate(client.state, byref(params), byref(images))
        assert status == USAGE != OK and images.value is None
        assert text in last_error() and "\n" not in last_error()


def test_the_program_and_its_record(tmp_path: Path, table: bytes) -> None:
    image = tmp_path / "a.png"
    base = (free_bundle(), "red", "--seed", 3, "--table", table.decode(), "-o", image)
    program("minit2i-generate", *base, "--size", "48x24")
    expected = python(free_bundle(), size=WIDE)
    assert read_metadata(image) == expected.record().fields(num_rows=len(TABLE))
    pixels = np.asarray(Image.open(image), np.int16)
    assert (np.abs(pixels - np.asarray(expected.images[0], np.int16)) <= 1).all()
    program("minit2i-generate", *base[:-1], tmp_path / "b.png", "--size", "48x24",
            "--init-image", image, "--strength", 0)  # fmt: skip
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), pixels)
    for size, text in (
        ("48", "WIDTHxHEIGHT is needed"),
        ("72x32", "sides of this bundle are 16"),
        ("0x0", "width and height must be positive"),
    ):
        error = program("minit2i-generate", *base, "--size", size, code=2)
        assert text in error and error.count("\n") == 1
    error = program("minit2i-generate", *base, "--init-image", image, "--strength", 1, code=2)
    assert "is 48 x 24 pixels, but the images to generate are 32 x 32" in error
