"""Editing in the C++ client: starts, known pixels and files, against the Python side."""

from __future__ import annotations

import re
from ctypes import byref, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import Result, generate
from minit2i_deploy.io.images import read_metadata, to_uint8
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.repeats import Repeats
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers import cpp_client
from tests.helpers.cpp_client import OK, USAGE, floats, last_error, program
from tests.helpers.tiny_bundle import tiny_bundle
from tests.helpers.version_one import version_one_bundle

pytestmark = pytest.mark.cpp

SIZE = 32
# Measured 2e-6: the same library runs the same graphs, and rows differ in their last bits.
MAX_STATE_ERROR = 1e-4


def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def values_of(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / np.float32(127.5) - np.float32(1)


def known_half() -> np.ndarray:
    """1 on the left, where pixels stay, a border that is mixed, 0 on the right."""
    mask = np.zeros((1, SIZE, SIZE), np.float32)
    mask[:, :, :16] = 1
    mask[:, :, 16] = 0.5
    return mask


@pytest.fixture(scope="module")
def client() -> Any:
    with cpp_client.Client(tiny_bundle()) as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime() -> Any:
    with open_runtime(Bundle.open(tiny_bundle()), "onnxruntime") as opened:
        yield opened


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(table: Table) -> bytes:
        table.save(tmp_path / "own.json")
        return str(tmp_path / "own.json").encode()

    return save


def python_result(runtime: Any, table: Table, **edit: Any) -> Result:
    return generate(runtime.bundle, runtime, "red", seed=3, table=table, **edit)


def python_state(runtime: Any, table: Table, **edit: Any) -> np.ndarray:
    return python_result(runtime, table, **edit).x


def client_state(client: Any, path: bytes, **fields: Any) -> np.ndarray:
    seeds = (cpp_client.c_uint64 * 1)(3)
    params = cpp_client.generate_params(b"red", table=path, seeds=seeds, **fields)
    state: np.ndarray = client.generate(params, SIZE)
    return state


@pytest.mark.parametrize("strength", [0.5, 0.1])
@pytest.mark.parametrize("solver", ["euler", "heun", "sde", "ab2", "dpmpp2m", "euler-4e-2"])
def test_a_start_at_a_row_is_that_of_python(
    client: Any, runtime: Any, saved: Any, solver: str, strength: float
) -> None:
    steps = 20 if strength == 0.1 else 8
    table = solver_table(solver, steps=steps)
    path, fields = saved(table), floats(init_image=values_of(image()))
    if solver == "euler-4e-2":
        strength = 1 - table.column("t")[3]
    actual = client_state(client, path, strength=strength, **fields)
    expected = python_state(runtime, table, init_image=image(), strength=strength)
    assert np.abs(actual - expected).max() <= MAX_STATE_ERROR


@pytest.mark.parametrize("strength", [0.37, 0.93, 0.04])
def test_euler_between_rows_is_that_of_python(
    client: Any, runtime: Any, saved: Any, strength: float
) -> None:
    """test_started_tables.py compares the rows themselves."""
    table = solver_table("euler", steps=8, interval=(0.2, 0.6))
    fields = floats(init_image=values_of(image()))
    actual = client_state(client, saved(table), strength=strength, **fields)
    expected = python_state(runtime, table, init_image=image(), strength=strength)
    assert np.abs(actual - expected).max() <= MAX_STATE_ERROR


def test_strength_0_gives_the_image_back_and_1_is_text_to_image(client: Any, saved: Any) -> None:
    path, fields = saved(solver_table("dpmpp2m", steps=6)), floats(init_image=values_of(image()))
    same = client_state(client, path, strength=0.0, **fields)
    np.testing.assert_array_equal(to_uint8(same)[0], np.asarray(image()))
    new = client_state(client, path, strength=1.0, **fields)
    np.testing.assert_array_equal(new, client_state(client, path))


def test_repeats_after_a_start(client: Any, runtime: Any, saved: Any) -> None:
    repeats = Repeats(count=3, jump=2, interval=(0.5, 0.9))
    table = solver_table("dpmpp2m", steps=8, repeats=repeats)
    fields = floats(
        init_image=values_of(image()), known=values_of(image()), known_mask=known_half()
    )
    start = {"init_image": image(), "strength": 0.75}
    mask = (1 - known_half())[None]
    actual = client_state(client, saved(table), strength=0.75, **fields)
    expected = python_state(runtime, table, known=image(), mask=mask, **start)
    assert np.abs(actual - expected).max() <= MAX_STATE_ERROR


@pytest.mark.parametrize("solver", ["dpmpp2m", "euler"])
@pytest.mark.parametrize("strength", [None, 0.5])
def test_known_pixels_stay(
    client: Any, runtime: Any, saved: Any, solver: str, strength: float | None
) -> None:
    """At a_min 1 Euler's last row is far from landing on the estimate."""
    table = solver_table(solver, steps=4, **({"a_min": 1.0} if solver == "euler" else {}))
    other = image().rotate(90)
    start = {} if strength is None else {"init_image": other, "strength": strength}
    fields = floats(known=values_of(image()), known_mask=known_half())
    if strength is not None:
        fields |= {"strength": strength, **floats(init_image=values_of(other))}
    actual = client_state(client, saved(table), **fields)
    mask = (1 - known_half())[None]
    expected = python_state(runtime, table, known=image(), mask=mask, **start)
    assert np.abs(actual - expected).max() <= MAX_STATE_ERROR
    pixels = to_uint8(actual)[0]
    np.testing.assert_array_equal(pixels[:, :16], np.asarray(image())[:, :16])
    assert (pixels[:, 17:] != np.asarray(image())[:, 17:]).any()


def test_an_edit_without_a_table_takes_the_preset_for_it(client: Any, runtime: Any) -> None:
    assert "inpaint" in runtime.bundle.manifest.presets
    mask = (1 - known_half())[None]
    expected = generate(runtime.bundle, runtime, "red", seed=0, known=image(), mask=mask)
    fields = floats(known=values_of(image()), known_mask=known_half())
    actual = client.generate(cpp_client.generate_params(b"red", **fields), SIZE)
    assert expected.table == runtime.bundle.manifest.presets["inpaint"].table
    assert np.abs(actual - expected.x).max() <= MAX_STATE_ERROR


def test_each_image_of_a_batch_has_its_own(client: Any, saved: Any) -> None:
    path = saved(solver_table("euler", steps=3))
    both = np.stack([values_of(image()), values_of(image().rotate(180))])
    masks = np.stack([known_half(), known_half()[:, :, ::-1]])
    prompts = cpp_client.texts(b"red", b"blue")
    params = cpp_client.generate_params(b"red", table=path, **floats(known=both, known_mask=masks))
    params.prompts, params.num_images, params.num_parts = prompts, 2, 1
    pixels = to_uint8(client.generate(params, SIZE))
    np.testing.assert_array_equal(pixels[0][:, :16], to_uint8(both)[0][:, :16])
    np.testing.assert_array_equal(pixels[1][:, 16:], to_uint8(both)[1][:, 16:])


ONES, NAN = np.ones((3, SIZE, SIZE)), np.full((3, SIZE, SIZE), np.nan)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (floats(init_image=ONES), "init_image and strength belong together"),
        ({"strength": 0.5}, "init_image and strength belong together"),
        ({"strength": 1.5, **floats(init_image=ONES)}, "strength must be from 0 .* got 1.5"),
        ({"strength": -0.1, **floats(init_image=ONES)}, "strength must be from 0"),
        ({"strength": float("inf"), **floats(init_image=ONES)}, "strength must be from 0"),
        ({"strength": 0.5, **floats(init_image=ONES[:, :16])}, "init_image has 1536 values, but"),
        ({"strength": 0.5, **floats(init_image=NAN)}, "init_image must be finite"),
        (floats(known=ONES), "known and known_mask belong together"),
        (floats(known_mask=known_half()), "known and known_mask belong together"),
        (floats(known=ONES, known_mask=known_half()[:, :8]), "known_mask has 256 values, but 1024"),
        (floats(known=ONES, known_mask=NAN[0]), "known_mask must be finite"),
        (floats(known=ONES, known_mask=ONES[0] * 0), "known_mask is all 0, so everything"),
        (floats(known=ONES, known_mask=ONES[0]), "known_mask is all 1, so nothing"),
        (floats(known=ONES, known_mask=known_half() * 2), "known_mask must hold values from 0"),
        (floats(known=NAN, known_mask=known_half()), "known must be finite"),
    ],
)
def test_bad_input_is_one_line(client: Any, fields: dict[str, Any], text: str) -> None:
    assert_refused(client, text, **fields)


def assert_refused(client: Any, text: str, **fields: Any) -> None:
    images = c_void_p()
    params = cpp_client.generate_params(b"red", **fields)
    status = cpp_client.library().minit2i_generate(client.state, byref(params), byref(images))
    assert status == USAGE != OK and images.value is None
    assert re.search(text, last_error()) and "\n" not in last_error()


def test_tables_that_cannot_start_there(client: Any, saved: Any) -> None:
    fields = floats(init_image=ONES)
    later = saved(solver_table("euler", steps=10, start=0.4))
    assert_refused(client, r"starts at t = 0\.4, so strength is at most 0\.6", strength=0.7,
                   table=later, **fields)  # fmt: skip
    client_state(client, later, strength=0.6, **fields)
    back = saved(solver_table("euler", steps=8, repeats=Repeats(count=2, jump=2)))
    assert_refused(client, r"goes back to t = 0\.25, so it", strength=0.5, table=back, **fields)
    history = saved(solver_table("ab2", steps=10))
    assert_refused(client, r"cannot start at t = 0\.33, .* for example 0\.7", strength=0.67,
                   table=history, **fields)  # fmt: skip


def test_version_one_cannot_edit() -> None:
    with cpp_client.Client(version_one_bundle()) as client:
        known = floats(known=ONES, known_mask=known_half())
        assert_refused(client, "this bundle cannot edit images, because", **known)
        # Image-to-image is a table alone.
        start = {"strength": 0.5, **floats(init_image=ONES)}
        client.generate(cpp_client.generate_params(b"red", **start), SIZE)


def test_the_program_reads_png_files(tmp_path: Path, runtime: Any) -> None:
    table = solver_table("euler", steps=3)
    table.save(tmp_path / "own.json")
    image().save(tmp_path / "in.png")
    white = Image.fromarray(np.round(255 * (1 - known_half()[0])).astype(np.uint8))
    white.save(tmp_path / "mask.png")
    transparent = image().convert("RGBA")
    transparent.putalpha(Image.eval(white, lambda value: 255 - value))
    transparent.save(tmp_path / "alpha.png")
    mask = np.asarray(white, np.float32)[None, None] / 255
    base = (tiny_bundle(), "red", "--seed", 3, "--table", tmp_path / "own.json", "-o",
            tmp_path / "a.png", "--save-state", tmp_path / "a.npy")  # fmt: skip

    def state(*options: object) -> np.ndarray:
        program("minit2i-generate", *base, *options)
        return np.load(tmp_path / "a.npy")  # type: ignore[no-any-return]

    def check(expected: Result, *options: object) -> None:
        assert np.abs(state(*options) - expected.x).max() <= MAX_STATE_ERROR
        record = expected.record().fields(num_rows=len(table))
        assert read_metadata(tmp_path / "a.png") == record

    started = ("--init-image", tmp_path / "in.png", "--strength", 0.5)
    check(python_result(runtime, table, init_image=image(), strength=0.5), *started)
    inpainted = ("--inpaint", tmp_path / "in.png", "--mask", tmp_path / "mask.png")
    check(python_result(runtime, table, known=image(), mask=mask), *inpainted)
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(pixels[:, :16], np.asarray(image())[:, :16])
    # Where a pixel is transparent in part its color lies on white, so only whole ones are equal.
    by_alpha = to_uint8(state("--inpaint", tmp_path / "alpha.png"))[0]
    np.testing.assert_array_equal(by_alpha[:, :16], np.asarray(image())[:, :16])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "I;16"])
def test_png_files_of_every_color_type(tmp_path: Path, mode: str) -> None:
    source = image().convert("L") if mode == "I;16" else image().convert(mode)
    expected = np.asarray(source.convert("RGB"))
    if mode == "I;16":
        source = Image.fromarray(np.asarray(source).astype(np.uint16) * 257)
    source.save(tmp_path / "in.png")
    options = ("--init-image", tmp_path / "in.png", "--strength", 0, "-o", tmp_path / "out.png")
    program("minit2i-generate", tiny_bundle(), "red", *options)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), expected)


def bad_files(folder: Path) -> None:
    image().save(folder / "in.png")
    data = (folder / "in.png").read_bytes()
    (folder / "short.png").write_bytes(data[: len(data) // 2])
    (folder / "corrupt.png").write_bytes(data[:60] + b"\0\0\0\0" + data[64:])
    (folder / "empty.png").write_bytes(b"")
    image().resize((16, 32)).save(folder / "small.png")
    image().save(folder / "in.jpg")
    for name, value in (("white", 255), ("black", 0)):
        Image.new("L", (SIZE, SIZE), value).save(folder / f"{name}.png")
    # A header that says 30000 x 30000 pixels, and no pixel after it.
    (folder / "large.png").write_bytes(data[:16] + (30000).to_bytes(4, "big") * 2 + data[24:33])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--init-image in.png", "--init-image and --strength belong together"),
        ("--strength 0.5", "--init-image and --strength belong together"),
        ("--init-image in.png --strength 2", "strength must be from 0"),
        ("--init-image in.png --strength nan", "--strength is 'nan'"),
        ("--init-image in.png --strength 0.5 --noise n.npy", "are both starts"),
        ("--init-image none.png --strength 0.5", "none.png: cannot be read"),
        ("--init-image short.png --strength 0.5", "short.png: cannot be read as PNG: "),
        ("--init-image corrupt.png --strength 0.5", "corrupt.png: cannot be read as PNG: "),
        ("--init-image empty.png --strength 0.5", "it is another kind of file"),
        ("--init-image in.jpg --strength 0.5", "it is another kind of file"),
        ("--init-image small.png --strength 0.5", "small.png: is 16 x 32 pixels, but the images"),
        ("--init-image large.png --strength 0.5", "large.png: "),
        ("--inpaint in.png", "in.png: has no transparent part; name a mask with --mask"),
        ("--mask in.png", "--mask is for the image of --inpaint"),
        ("--inpaint in.png --mask white.png", "white.png: is all white, so everything"),
        ("--inpaint in.png --mask black.png", "black.png: is all black, so nothing"),
        ("--inpaint in.png --mask small.png", "small.png: is 16 x 32 pixels"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, options: str, text: str) -> None:
    bad_files(tmp_path)
    arguments = [
        tmp_path / word if word.endswith((".png", ".jpg", ".npy")) else word
        for word in options.split()
    ]
    output = ("-o", tmp_path / "out.png")
    line = program("minit2i-generate", tiny_bundle(), "red", *arguments, *output, code=2)
    assert text in line and line.count("\n") == 1
    assert not (tmp_path / "out.png").exists()
