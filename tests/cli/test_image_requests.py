"""minit2i generate with several prompts, seeds and mixes: which images, and where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.io.images import read_metadata, to_uint8
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.text.prompts import Mix
from tests.helpers.bundles import CONFIG, write_bundle
from tests.helpers.cli_runs import Run, run

SHAPE = (3, CONFIG.image_size, CONFIG.image_size)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle named b in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return Bundle.open(write_bundle(tmp_path / "b"))


def generate_images(capsys: pytest.CaptureFixture[str], *arguments: object) -> Run:
    return run(capsys, "generate", "b", *arguments, "--runtime", "fake")


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def names(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.png"))


def test_several_seeds_paint_one_prompt_several_times(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    done = generate_images(capsys, "red", "--seed", "5,3,5")
    files = ["minit2i-5.png", "minit2i-3.png", "minit2i-5-2.png"]
    assert [line.split()[0] for line in done.out.splitlines()] == files
    assert np.array_equal(pixels(files[0]), pixels(files[2]))
    assert not np.array_equal(pixels(files[0]), pixels(files[1]))
    generate_images(capsys, "red", "--seed", 3, "-o", "alone.png")
    assert Path("alone.png").read_bytes() == Path(files[1]).read_bytes()


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_images_do_not_depend_on_the_batch(
    batch: int, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["red", "--seed", 7, "--num-images", 5, "--batch", batch]
    done = generate_images(capsys, *arguments, "-o", "out", "--save-state", "s.npy", "--json")
    assert names("out") == [f"{k:04d}-{7 + k}.png" for k in range(5)]
    state = np.load("s.npy")
    assert state.shape == (5, *SHAPE)
    with FakeRuntime(bundle) as runtime:
        for k, image in enumerate(json.loads(done.out)["images"]):
            file = f"out/{k:04d}-{7 + k}.png"
            assert image == {"file": file, "prompt": "red", "seed": 7 + k}
            alone = generate(bundle, runtime, "red", seed=7 + k)
            assert np.array_equal(alone.x[0], state[k])
            assert np.array_equal(pixels(image["file"]), to_uint8(alone.x)[0])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [("red", "0"), ("\u7d05", "0"), ("blue", "0")]),
        (["--seed", "4"], [("red", "4"), ("\u7d05", "4"), ("blue", "4")]),
        (["--seed", "4,9,1"], [("red", "4"), ("\u7d05", "9"), ("blue", "1")]),
        (
            ["--seed", "4", "--num-images", "2"],
            [(text, seed) for text in ("red", "\u7d05", "blue") for seed in "45"],
        ),
    ],
)
def test_prompts_from_a_file_meet_their_seeds(
    arguments: list[str],
    expected: list[tuple[str, str]],
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A byte order mark, Windows line ends, a blank line, and no end to the last line.
    Path("p.txt").write_bytes(b"\xef\xbb\xbfred\r\n\r\n  \xe7\xb4\x85\nblue")
    assert generate_images(capsys, "--prompts", "p.txt", *arguments).code == 0
    fields = [read_metadata(name) for name in names()]
    assert [(item["parameters"].splitlines()[0], item["seed"]) for item in fields] == expected
    assert names() == [f"minit2i-{k:04d}-{seed}.png" for k, (_, seed) in enumerate(expected)]


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (b"red\nblue\nb\xe9\n", [], "p.txt: line 3: not UTF-8 at byte 2; write one prompt a line"),
        ("red".encode("utf-16"), [], "p.txt: line 1: not UTF-8 at byte 1"),
        (b"red\n\0\n", [], "p.txt: line 2: a NUL character at position 0"),
        (b"\n \n", [], "p.txt: no prompt in it"),
        (None, [], "p.txt: cannot be read"),
        (b"red\nblue\n", ["--seed", "1,2,3"], "got 3 seeds for 2 prompts"),
        (b"red\nblue\nx\n", ["--seed", "1,2"], "got 2 seeds for 3 prompts"),
    ],
)
def test_bad_prompt_files_exit_2(
    data: bytes | None,
    arguments: list[str],
    message: str,
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if data is not None:
        Path("p.txt").write_bytes(data)
    done = generate_images(capsys, "--prompts", "p.txt", *arguments)
    assert (done.code, names()) == (2, [])
    assert message in done.error


def test_a_prompt_file_of_another_kind_exits_2(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    done = generate_images(capsys, "--prompts", "b/manifest.json")
    assert done.code == 2
    assert "b/manifest.json: expected a .txt file with one prompt per line" in done.error


def test_a_mix_is_that_of_the_library(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--also", "a circle: blue:0.5", "--also", "green:-0.25"]
    assert generate_images(capsys, "red", *arguments, "-o", "x.png").code == 0
    mix = Mix(parts=(("red", 1.0), ("a circle: blue", 0.5), ("green", -0.25)))
    with FakeRuntime(bundle) as runtime:
        expected = generate(bundle, runtime, mix)
    assert np.array_equal(pixels("x.png"), np.asarray(expected.images[0]))
    prompt = read_metadata("x.png")["parameters"].splitlines()[0]
    assert prompt == "1 x 'red' + 0.5 x 'a circle: blue' + -0.25 x 'green'"


@pytest.mark.parametrize("source", [["--table", "euler-4"], ["--steps", "4"], []])
def test_guidance_settings_apply_to_any_table(
    source: list[str], bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--interval", "0.2", "0.6", "--clip", "0.9", "--rescale", "0.5"]
    done = generate_images(capsys, "red", *source, *arguments, "-o", "x.png")
    assert done.out.startswith("x.png  euler-4-i0.2-0.6-clip0.9-rescale0.5, ")
    table = solver_table("euler", steps=4, interval=(0.2, 0.6), clip=0.9, rescale=0.5)
    with FakeRuntime(bundle) as runtime:
        expected = generate(bundle, runtime, "red", table=table, guidance=2.5)
    assert np.array_equal(pixels("x.png"), np.asarray(expected.images[0]))


def test_one_noise_for_each_picture(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("n.npy", batch_noise([8, 9], SHAPE))
    done = generate_images(capsys, "red", "--noise", "n.npy", "--num-images", 2)
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "minit2i-noise.png", "minit2i-noise-2.png",
    ]  # fmt: skip
    generate_images(capsys, "red", "--seed", "8,9")
    for noise, seed in (("noise", 8), ("noise-2", 9)):
        assert np.array_equal(pixels(f"minit2i-{noise}.png"), pixels(f"minit2i-{seed}.png"))


@pytest.mark.parametrize(("count", "prompts", "size"), [(5, 1, (3, 2)), (3, 2, (3, 2))])
def test_the_grid_holds_every_picture(
    count: int,
    prompts: int,
    size: tuple[int, int],
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("p.txt").write_text("red\nblue\n"[: 4 if prompts == 1 else None], encoding="utf-8")
    arguments = ["--num-images", count, "--batch", 2, "-o", "out", "--grid", "g.png"]
    assert generate_images(capsys, "--prompts", "p.txt", *arguments).code == 0
    sheet, side = pixels("g.png"), CONFIG.image_size + 2
    assert sheet.shape == (size[1] * side - 2, size[0] * side - 2, 3)
    for index, name in enumerate(names("out")):
        row, column = divmod(index, size[0])
        place = sheet[row * side :, column * side :][: side - 2, : side - 2]
        assert np.array_equal(place, pixels(f"out/{name}"))


def test_previews_of_several_images_carry_their_names(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--num-images", 3, "--batch", 2, "-o", "out", "--preview", "p", "--every", 3]
    assert generate_images(capsys, "red", "--steps", 5, *arguments).code == 0
    # Every third row, and the last.
    rows = [0, 3, 4]
    expected = [f"{k:04d}-{k}-row-{row:04d}.png" for k in range(3) for row in rows]
    assert names("p") == expected
    generate_images(capsys, "red", "--steps", 5, "--seed", 2, "--preview", "q", "-o", "x.png")
    for row in rows:
        assert np.array_equal(pixels(f"p/0002-2-row-{row:04d}.png"), pixels(f"q/row-{row:04d}.png"))


@pytest.mark.parametrize(("every", "rows"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3, 4])])
def test_an_animation_shows_the_estimates_and_then_the_picture(
    every: int, rows: list[int], bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    # Does not land on its estimate: equal frames would become one.
    solver_table("euler", steps=5, a_min=0.5).save("t.json")
    arguments = ["--table", "t.json", "--preview", "p", "--animate", "a.webp", "--every", every]
    assert generate_images(capsys, "red", *arguments, "-o", "x.png").code == 0
    frames = [Path(f"p/row-{row:04d}.png") for row in rows] + [Path("x.png")]
    with Image.open("a.webp") as animation:
        assert animation.n_frames == len(frames)
        for index, path in enumerate(frames):
            animation.seek(index)
            assert np.array_equal(np.asarray(animation.convert("RGB")), pixels(path))
