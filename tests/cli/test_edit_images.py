"""minit2i generate from an image: image-to-image, inpainting, outpainting, variations, records."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import Preset
from minit2i_deploy.editing.input_images import read_edit
from minit2i_deploy.generate import generate
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.io.images import read_metadata
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.noise import mixed_noise, standard_noise
from tests.helpers.bundles import CONFIG, draft, write_bundle, write_files
from tests.helpers.cli_runs import Run, run

SIDE = CONFIG.image_size
SHAPE = (3, SIDE, SIDE)
Capsys = pytest.CaptureFixture[str]
INPAINT = ("--inpaint", "image.png", "--mask", "mask.png")
INIT = ("--init-image", "image.png", "--strength")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle named b, an image and a mask of its right half, in the current folder."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("image.png")
    Image.fromarray(255 - pixels).save("other.png")
    Image.fromarray(np.repeat(pixels, 3, axis=0)).save("tall.png")
    Image.fromarray(mask()).save("mask.png")
    return Bundle.open(write_bundle(tmp_path / "b"))


def mask() -> np.ndarray:
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[:, SIDE // 2 :] = 255
    return values


def edit(capsys: Capsys, *arguments: object) -> Run:
    return run(capsys, "generate", "b", *arguments, "--runtime", "fake")


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_strength_goes_from_the_image_to_text_to_image(bundle: Bundle, capsys: Capsys) -> None:
    assert edit(capsys, "red", "-o", "plain.png").err == ""
    assert edit(capsys, "red", *INIT, 0, "-o", "none.png").err == ""
    assert edit(capsys, "red", *INIT, 1, "-o", "all.png").err == ""
    np.testing.assert_array_equal(pixels("none.png"), pixels("image.png"))
    np.testing.assert_array_equal(pixels("all.png"), pixels("plain.png"))


def test_known_pixels_stay_in_every_image(bundle: Bundle, capsys: Capsys) -> None:
    arguments = ["--num-images", 3, "--batch", 2, "--preview", "rows", "--grid", "g.png", "--json"]
    done = edit(capsys, "red", "blue", *INPAINT, "--strength", 0.5, *arguments, "-o", "out")
    images = json.loads(done.out)["images"]
    assert [image["strength"] for image in images] == [0.5] * 6
    shown = sorted(Path("rows").iterdir())
    assert len(shown) == 6 * 2  # half of four rows
    for path in [*(image["file"] for image in images), *shown]:
        actual, expected = pixels(path), pixels("image.png")
        np.testing.assert_array_equal(actual[:, : SIDE // 2], expected[:, : SIDE // 2])
        assert (actual[:, SIDE // 2 :] != expected[:, SIDE // 2 :]).any()
    assert "strength" in json.loads(Path("out/index.jsonl").read_text("utf-8").splitlines()[0])


def test_one_line_says_how_an_image_was_scaled(bundle: Bundle, capsys: Capsys) -> None:
    done = edit(capsys, "red", "--init-image", "tall.png", "--strength", 0, "-o", "x.png")
    assert done.err == f"minit2i: tall.png: {SIDE} x {3 * SIDE} pixels, cropped to 32 x 32\n"
    np.testing.assert_array_equal(pixels("x.png"), pixels("tall.png")[SIDE : 2 * SIDE])
    done = edit(capsys, "red", "--inpaint", "image.png", "--outpaint", "0,0,32,0", "-o", "y.png")
    assert done.err.startswith("minit2i: image.png: canvas of 64 x 64 pixels, scaled to 32 x 32;")
    half = Image.open("image.png").resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels("y.png")[8:24, :16], np.asarray(half))


@pytest.mark.parametrize(
    "arguments",
    [
        (*INIT, 0.6),
        (*INPAINT, "--feather", 2),
        (*INPAINT, "--strength", 0.5, "--solver", "ab2", "--steps", 6),
        ("--inpaint", "image.png", "--outpaint", "8,8,8,8", "--feather", 1.5),
        (*INIT, 0.6, "--variations", 1, "--amount", 0.3),
    ],
)
def test_a_record_makes_an_edited_image_again(
    arguments: tuple[object, ...], bundle: Bundle, capsys: Capsys
) -> None:
    assert edit(capsys, "red", *arguments, "--seed", 5, "-o", "x.png").code == 0
    files = [word for word in arguments if str(word).startswith(("--in", "--mask"))]
    again = [name for option in files for name in (option, arguments[arguments.index(option) + 1])]
    done = edit(capsys, "--from", "x.png", *again, "-o", "again.png")
    assert done.code == 0
    assert Path("again.png").read_bytes() == Path("x.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "again", "message"),
    [
        ((*INIT, 0.6), (), "x.png: generated from an init image (sha256 "),
        ((*INIT, 0.6), ("--init-image", "other.png"), "x.png: its init image has sha256 "),
        (INPAINT, (), "add --inpaint with that file (and --mask with its mask)"),
        (INPAINT, ("--inpaint", "other.png", "--mask", "mask.png"), "its image to inpaint has"),
        (INPAINT, ("--inpaint", "image.png", "--mask", "image.png"), "x.png: its mask has sha256"),
        (INPAINT, ("--inpaint", "image.png"), "image.png: has no transparent pixels"),
        ((*INIT, 0.6), ("--init-image", "gone.png"), "gone.png: does not exist"),
    ],
)
def test_a_record_asks_for_the_same_images(
    arguments: tuple[object, ...], again: tuple[str, ...], message: str, bundle: Bundle,
    capsys: Capsys,
) -> None:  # fmt: skip
    edit(capsys, "red", *arguments, "-o", "x.png")
    done = edit(capsys, "--from", "x.png", *again, "-o", "y.png")
    assert (done.code, Path("y.png").exists()) == (2, False) and message in done.error


def test_options_replace_what_the_record_of_an_edit_says(bundle: Bundle, capsys: Capsys) -> None:
    edit(capsys, "red", *INPAINT, "--feather", 2, "-o", "x.png")
    again = ("--from", "x.png", *INPAINT)
    assert edit(capsys, *again, "--feather", 0, "--strength", 0.5, "-o", "y.png").code == 0
    record = Record.read("y.png").edit
    assert record is not None and (record.feather, record.strength) == (0.0, 0.5)
    assert edit(capsys, "green", *again, "--seed", 4, "-o", "z.png").code == 0
    assert Record.read("z.png").seed == 4


def test_readers_of_the_web_ui_see_their_fields(bundle: Bundle, capsys: Capsys) -> None:
    arguments = (*INPAINT, "--strength", 0.5, "--feather", 2, "--variations", 1)
    edit(capsys, "red", *arguments, "--seed", 7, "-o", "x.png")
    fields = read_metadata("x.png")
    assert fields["parameters"].splitlines()[1].startswith("Steps: 4, Sampler: euler-4, CFG scale:")
    expected = (
        ", Variation seed: 8, Variation seed strength: 0.1, Denoising strength: 0.5, Mask blur: 2, "
    )
    assert expected in fields["parameters"]
    assert (fields["strength"], fields["variation"]) == ("0.5", "0.1 of seed 8")
    shown = run(capsys, "inspect", "x.png").out
    for name in ("init_image", "known", "mask"):
        assert f"{name}  " in shown and fields[name].startswith("sha256 ")
    values = json.loads(run(capsys, "inspect", "x.png", "--json").out)
    assert values["format_version"] == 2 and values["variation"] == {"amount": 0.1, "seed": 8}
    assert values["edit"]["strength"] == 0.5 and values["edit"]["outpaint"] is None
    edit(capsys, "red", "-o", "plain.png")
    plain = json.loads(run(capsys, "inspect", "plain.png", "--json").out)
    assert plain["format_version"] == 1 and "edit" not in plain


def test_variations_mix_the_noise_of_two_seeds(bundle: Bundle, capsys: Capsys) -> None:
    arguments = ("red", "--seed", 3, "--variations", 2, "--batch", 2)
    assert edit(capsys, *arguments, "--amount", 0.25, "-o", "out").code == 0
    names = ["0000-3-with-4.png", "0001-3-with-5.png"]
    assert sorted(path.name for path in Path("out").glob("*.png")) == names
    with FakeRuntime(bundle) as runtime:
        noise = mixed_noise(3, 5, 0.25, SHAPE)[None]
        expected = generate(bundle, runtime, "red", seed=3, noise=noise)
    np.testing.assert_array_equal(pixels(f"out/{names[1]}"), np.asarray(expected.images[0]))
    for amount, seed in ((0, 3), (1, 4)):
        edit(capsys, "red", "--seed", 3, "--variations", 1, "--amount", amount, "-o", "a.png")
        edit(capsys, "red", "--seed", seed, "-o", "b.png")
        np.testing.assert_array_equal(pixels("a.png"), pixels("b.png"))
    # A seed takes the place of the record's, and of what was mixed into it.
    assert edit(capsys, "--from", f"out/{names[0]}", "--seed", 9, "-o", "c.png").code == 0
    assert Record.read("c.png").variation is None
    edit(capsys, "--from", f"out/{names[0]}", "--amount", 0.5, "-o", "d.png")
    record = Record.read("d.png").variation
    assert record is not None and (record.seed, record.amount) == (4, 0.5)


def test_mixed_noise_is_unit_normal_and_as_far_as_the_amount_says() -> None:
    shape = (3, 128, 128)
    for amount in (0.0, 0.3, 0.5, 1.0):
        mix, first = mixed_noise(1, 2, amount, shape), standard_noise(1, shape)
        assert abs(float(mix.std()) - 1) <= 0.01  # 49,152 values; measured 0.003
        correlation = float(np.corrcoef(mix.ravel(), first.ravel())[0, 1])
        assert abs(correlation - np.cos(amount * np.pi / 2)) <= 0.02  # measured 0.005
    np.testing.assert_array_equal(mixed_noise(1, 2, 1.0, shape), standard_noise(2, shape))


def test_an_edit_without_a_table_takes_the_preset_for_edits(bundle: Bundle, capsys: Capsys) -> None:
    write_files(Path("c"))
    presets = {**draft().presets, "inpaint": Preset(table="euler-4", guidance=1.5)}
    write_manifest("c", dataclasses.replace(draft(), presets=presets))

    def guidance(*arguments: object) -> float:
        words = ("generate", "c", "red", *arguments, "--json", "--runtime", "fake", "-o", "x.png")
        return float(json.loads(run(capsys, *words).out)["guidance"])

    assert guidance(*INPAINT) == 1.5
    assert guidance(*INIT, 0.5) == guidance(*INPAINT, "--preset", "default") == 2.5
    assert guidance(*INPAINT, "--guidance", 3) == 3
    other = Bundle.open("c")
    edit_arguments = read_edit(other, inpaint="image.png", mask="mask.png").arguments()
    with FakeRuntime(other) as runtime:
        assert generate(other, runtime, "red", **edit_arguments).guidance == 1.5
        assert generate(other, runtime, "red").guidance == 2.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--init-image", "image.png"), "an init image requires a strength"),
        (("--strength", 0.5), "strength requires an init image"),
        ((*INIT, 1.5), "strength must be from 0"),
        ((*INIT, -1), "strength must be from 0"),
        ((*INIT, "nan"), "strength must be from 0"),
        ((*INIT, "half"), "argument --strength: expected a number, got 'half'"),
        (("--mask", "mask.png"), "a mask requires an image to inpaint"),
        ((*INPAINT, *INIT, 0.5), "mutually exclusive"),
        (("--inpaint", "tall.png", "--mask", "mask.png"), "mask.png: 32 x 32 pixels, but tall.png"),
        ((*INIT, 0.5, "--noise", "n.npy"), "--noise and --strength are mutually exclusive"),
        (("--inpaint", "image.png", "--outpaint", "1,2"), "LEFT,TOP,RIGHT,BOTTOM, got 1,2"),
        (("--init-image", "b/manifest.json", "--strength", 1), "cannot be read as an image"),
        (("--amount", 0.5), "--amount requires --variations"),
        (("--variations", 0), "--variations: expected at least 1, got 0"),
        (("--variations", 2, "--amount", 2), "--amount: expected 0 (no change) to 1"),
        (("--variations", 2, "--amount", "nan"), "--amount: expected 0 (no change) to 1"),
        (("--variations", 2_000_000), "exceeds 1000000 images"),
        (("--variations", 1, "--noise", "n.npy"), "--variations and --noise are mutually"),
        (("--image", "image.png"), "did you mean --init-image?"),
        (("--mask-blur", 2), "did you mean --feather?"),
        (("--denoising-strength", 2), "did you mean --strength?"),
    ],
)  # fmt: skip
def test_wrong_use_exits_2_before_an_image(
    arguments: tuple[object, ...], message: str, bundle: Bundle, capsys: Capsys
) -> None:
    np.save("n.npy", standard_noise(1, SHAPE))
    done = edit(capsys, "red", *arguments, "-o", "x.png")
    assert (done.code, Path("x.png").exists()) == (2, False)
    assert message in done.error
