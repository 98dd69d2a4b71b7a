"""Image-to-image and known pixels, against the line that the state follows and the bytes given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.editing.input_images import read_edit
from minit2i_deploy.errors import UsageError
from minit2i_deploy.generate import Result, generate, trajectory
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.methods import SOLVERS
from minit2i_deploy.solvers.start import start_table
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.tiny_bundle import tiny_bundle
from tests.helpers.version_one import version_one_bundle

TABLE = solver_table("dpmpp2m", steps=6)


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def half() -> np.ndarray:
    mask = np.zeros((32, 32), np.float32)
    mask[:, 16:] = 1
    return mask


def made(engine: str = "onnxruntime", **edit: Any) -> Result:
    bundle = Bundle.open(tiny_bundle())
    table = edit.pop("table", TABLE)
    with open_runtime(bundle, engine) as runtime:
        return generate(bundle, runtime, ["red", "blue"], seed=[1, 2], table=table, **edit)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch", "fake"])
def test_strength_0_gives_the_image_back_and_1_is_text_to_image(engine: str) -> None:
    result = made(engine, init_image=picture(), strength=0.0)
    for image in result.images:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))
    complete = made(engine, init_image=picture(), strength=1.0)
    np.testing.assert_array_equal(complete.x, made(engine).x)


def test_a_trajectory_takes_the_same_edit() -> None:
    bundle = Bundle.open(tiny_bundle())
    edit: dict[str, Any] = {"init_image": picture(), "strength": 0.5}
    edit |= {"known": picture(), "mask": half()}
    with open_runtime(bundle, "fake") as runtime:
        expected = generate(bundle, runtime, "red", table=TABLE, **edit).x
        frames = [frame.x() for frame in trajectory(bundle, runtime, "red", table=TABLE, **edit)]
    assert len(frames) == 3
    np.testing.assert_allclose(frames[-1], expected, atol=1e-6)  # measured 0


def test_less_strength_leaves_more_of_the_image() -> None:
    pixels = np.asarray(picture(), np.float32)
    distances = []
    for strength in (0.2, 0.5, 1.0):
        image = made("fake", init_image=picture(), strength=strength).images[0]
        distances.append(np.abs(np.asarray(image, np.float32) - pixels).mean())
    assert distances == sorted(distances)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch", "fake"])
@pytest.mark.parametrize("solver", ["dpmpp2m", "euler"])
def test_known_bytes_stay_under_every_table(engine: str, solver: str) -> None:
    """At a_min 1 Euler's last row is far from landing on the estimate."""
    table = solver_table(solver, steps=4, **({"a_min": 1.0} if solver == "euler" else {}))
    result = made(engine, known=picture(), mask=half(), table=table)
    for image in result.images:
        actual, expected = np.asarray(image), np.asarray(picture())
        np.testing.assert_array_equal(actual[:, :16], expected[:, :16])
        assert (actual[:, 16:] != expected[:, 16:]).any()


def test_an_edited_image_is_saved_with_its_record(tmp_path: Path) -> None:
    edit = {"init_image": picture(), "strength": 0.5, "known": picture(), "mask": half()}
    result = made("fake", **edit)
    result.save(tmp_path / "a.png", index=1)
    record = Record.read(tmp_path / "a.png")
    assert record == result.record(1) and record.format_version == 2
    assert record.edit is not None and record.edit.strength == 0.5
    assert record.edit.init_image == record.edit.known != record.edit.mask
    # The complete table: where it starts follows from the strength.
    assert record.table_name == TABLE.name and len(result.request.table) == 3
    changes = {"mask": half()[:, ::-1], "known": picture().rotate(90), "init_image": picture()}
    again = made("fake", **{**edit, **changes}).record(1).edit
    assert again is not None
    assert again.mask != record.edit.mask and again.known != record.edit.known
    assert again.init_image == record.edit.init_image


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ({"init_image": picture()}, "init_image and strength belong together"),
        ({"strength": 0.5}, "init_image and strength belong together"),
        ({"init_image": picture(), "strength": 1.5}, r"strength must be from 0 .* got 1\.5"),
        ({"init_image": picture(), "strength": float("nan")}, "strength must be from 0"),
        ({"init_image": picture().resize((16, 16)), "strength": 0.5}, "init_image must have the"),
        ({"known": picture()}, "known and mask belong together"),
        ({"known": picture(), "mask": np.zeros((32, 32))}, "mask is all 0, so nothing"),
        ({"known": picture(), "mask": np.ones((32, 32))}, "mask is all 1, so everything"),
        ({"known": picture(), "mask": half() * 2}, "mask must hold values from 0"),
        ({"known": picture(), "mask": half()[:8]}, "mask must have the shape"),
        ({"known": np.full((3, 32, 32), np.nan), "mask": half()}, "known must be finite"),
    ],
)
def test_bad_input_is_one_line(edit: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        made("fake", **edit)
    assert "\n" not in str(caught.value)


def test_version_one_cannot_edit() -> None:
    bundle = Bundle.open(version_one_bundle())
    with open_runtime(bundle, "fake") as runtime:
        with pytest.raises(UsageError, match="cannot edit images"):
            generate(bundle, runtime, "red", known=picture(), mask=half())
        with pytest.raises(UsageError, match="cannot edit images"):
            read_edit(bundle, inpaint=b"never read", mask=b"")
        # Image-to-image is a table alone.
        generate(bundle, runtime, "red", init_image=picture(), strength=0.5)


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name not in ("sde", "mean-flow")])
def test_a_later_start_follows_the_line_to_its_estimate(solver: str) -> None:
    """With the estimate y held fixed, x(t) = t y + (1 - t) noise is an exact solution."""
    floor = {} if solver == "dpmpp2m" else {"a_min": 1e-6}
    table = solver_table(solver, steps=8, start=0.3, **floor)
    assert table.column("t")[0] == 0.3
    y, noise = 0.75, -1.25
    x, h = 0.3 * y + 0.7 * noise, 0.0
    for row in table.rows:
        a, b, c, s = (row[table.columns.index(name)] for name in "abcs")
        x, h = a * x + b * y + c * h, y + s * x
    # Measured 1e-15.
    assert x == pytest.approx(y, abs=1e-9)


def test_the_rows_of_a_started_table_are_the_solvers_own() -> None:
    euler = solver_table("euler", steps=10)
    later = start_table(euler, 0.5)
    np.testing.assert_allclose(later.rows, euler.rows[5:], rtol=1e-12, atol=1e-15)
    assert later.meta["start"] == 0.5 and start_table(euler, 0.0) is euler
    assert len(start_table(euler, 0.55)) == 5
    narrowed = solver_table("euler", steps=10, interval=(0.2, 0.6), clip=1.5, rescale=0.5)
    late = start_table(narrowed, 0.5)
    assert late.column("share").tolist() == [1, 1, 0, 0, 0]
    assert set(late.column("clip")) == {1.5} and set(late.column("rescale")) == {0.5}


def test_a_start_outside_the_rules_is_refused() -> None:
    with pytest.raises(UsageError, match=r"start must be at least 0 and below 1, got 1\.0"):
        solver_table("euler", steps=4, start=1.0)
    with pytest.raises(UsageError, match=r"are equal; choose one of 0, 0\.25, 0\.5, 0\.75"):
        solver_table("mean-flow", steps=4, start=0.3)
    assert len(solver_table("mean-flow", steps=4, start=0.5)) == 2
    free = Table(name="own", columns=TABLE.columns, rows=TABLE.rows)
    with pytest.raises(UsageError, match="table own does not name its solver and grid"):
        start_table(free, 0.5)


def test_bytes_of_an_image_come_back() -> None:
    x = np.asarray(picture(), np.float32).transpose(2, 0, 1)[None] / np.float32(127.5) - 1
    np.testing.assert_array_equal(to_uint8(x)[0], np.asarray(picture()))
