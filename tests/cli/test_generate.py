"""minit2i generate on the fake runtime: files, metadata, and what is refused before the work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy import __version__
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.io.images import read_metadata, to_uint8
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import solver_table
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


def pixels(path: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path))


def test_the_picture_is_that_of_the_library(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    done = generate_images(capsys, "a red circle", "--seed", 7, "--guidance", 3)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("minit2i-7.png  euler-4, guidance 3, ")
    with FakeRuntime(bundle) as runtime:
        expected = generate(bundle, runtime, "a red circle", seed=7, guidance=3.0)
    assert np.array_equal(pixels("minit2i-7.png"), np.asarray(expected.images[0]))


def test_metadata_records_the_settings_of_the_image(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    generate_images(capsys, "a red circle", "--negative", "green", "-o", "x.png")
    actual = read_metadata("x.png")
    assert actual.pop("version").startswith("minit2i-deploy ")
    assert json.loads(actual.pop("minit2i"))["bundle"] == bundle.digest
    parameters = (
        "a red circle\nNegative prompt: green\nSteps: 4, Sampler: euler-4, CFG scale: 2.5, "
        f"Seed: 0, Model hash: {bundle.digest[:10]}, Version: minit2i-deploy {__version__}"
    )
    assert actual == {
        "parameters": parameters, "negative": "green", "seed": "0", "table": "euler-4",
        "guidance": "2.5", "bundle": bundle.digest, "runtime": "fake",
    }  # fmt: skip


def test_a_default_name_replaces_nothing_and_a_named_file_is_replaced(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [generate_images(capsys, "a").out.split()[0] for _ in range(3)]
    assert names == ["minit2i-0.png", "minit2i-0-2.png", "minit2i-0-3.png"]
    for prompt in ("a", "green"):
        assert generate_images(capsys, prompt, "-o", "x.png").code == 0
    assert read_metadata("x.png")["parameters"].splitlines()[0] == "green"


@pytest.mark.parametrize("axes", [3, 4])
def test_noise_and_state_go_through_files(
    axes: int, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = standard_noise(7, SHAPE)
    np.save("n.npy", noise if axes == 3 else noise[None])
    done = generate_images(capsys, "a", "--noise", "n.npy", "--save-state", "s.npy")
    assert done.out.startswith("minit2i-noise.png ")
    generate_images(capsys, "a", "--seed", 7)
    state = np.load("s.npy")
    assert state.dtype == np.float32 and state.shape == (1, *SHAPE)
    assert np.array_equal(to_uint8(state)[0], pixels("minit2i-7.png"))
    fields = read_metadata("minit2i-noise.png")
    assert "seed" not in fields and fields["noise"].startswith("sha256 ")


def test_preview_writes_one_estimate_a_row(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        generate_images(capsys, "a", "--solver", "heun", "--steps", 2, "--preview", "p").code == 0
    )
    assert sorted(path.name for path in Path("p").iterdir()) == [
        "row-0000.png", "row-0001.png", "row-0002.png",
    ]  # fmt: skip
    # The last row of this solver lands on its estimate.
    assert np.array_equal(pixels("p/row-0002.png"), pixels("minit2i-0.png"))
    assert "not empty" in generate_images(capsys, "a", "--preview", "p").error


def test_json(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads(generate_images(capsys, "", "--seed", 3, "--json").out)
    assert set(values.pop("seconds")) == {
        "tokenise", "encode", "adapt", "noise", "steps", "image",
    }  # fmt: skip
    assert values == {
        "file": "minit2i-3.png", "prompt": "", "seed": 3, "table": "euler-4", "guidance": 2.5,
        "runtime": "fake",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "table"),
    [
        (["--table", "euler-4"], "euler-4"),
        (["--table", "mine.json"], "heun-2"),
        (["--preset", "default"], "euler-4"),
        (["--steps", "3"], "euler-3"),
        (["--solver", "heun", "--steps", "3"], "heun-3"),
        (["--solver", "dpmpp2m", "--steps", "3"], "dpmpp2m-3"),
    ],
)
def test_the_table_may_be_named_or_compiled(
    arguments: list[str], table: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    solver_table("heun", steps=2).save("mine.json")
    assert json.loads(generate_images(capsys, "a", *arguments, "--json").out)["table"] == table


@pytest.mark.filterwarnings("default")
def test_a_cut_prompt_is_warned_of(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    done = generate_images(capsys, "a red circle " * 800)
    assert done.code == 0
    assert done.err.startswith("minit2i: warning: prompt cut after ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "no/such/x.png"], "no/such: cannot be written"),
        (["-o", "x.bmp"], "expected a .png, .jpg, .jpeg or .webp file, or a folder"),
        (["-o", "x"], "or a folder with / at its end"),
        (["-o", "folder.png"], "is a folder"),
        (["--save-state", "/proc/s.npy"], "/proc: cannot be written"),
        (["--steps", "-1"], "10000, got -1"),
        (["--solver", "heun"], "--solver heun requires --steps N"),
        (["--solver", "magic", "--steps", "2"], "choose one of euler"),
        (["--table", "euler-4", "--steps", "2"], "--table and --steps are mutually exclusive"),
        (["--table", "euler-5"], "it has euler-4"),
        (["--table", "b/manifest.json"], "not a solver table"),
        (["--preset", "fast"], "it has default"),
        (
            ["--preset", "default", "--table", "euler-4"],
            "--preset and --table are mutually exclusive",
        ),
        (["--preset", "default", "--solver", "heun"], "--preset and --solver are mutually"),
        (["--solver", "heun", "--table", "euler-4"], "--table and --solver are mutually"),
        (["--seed", "-1"], "- 1, got -1"),
        (["--guidance", "nan"], "guidance must be finite"),
        (["--noise", "none.npy"], "none.npy: cannot be read"),
        (["--noise", "b/manifest.json"], "not a .npy file"),
        (["--noise", "small.npy"], "got float32 [1, 3, 2, 2]"),
        (
            ["--noise", "double.npy"],
            "double.npy: expected float32 [3, H, W] or [images, 3, H, W], got float64 [3",
        ),
        (["--noise", "flat.npy"], "got float32 [3072]"),
        (["--noise", "several.npz"], "expected one .npy array"),
        (["--noise", "double.npy", "--seed", "1"], "--seed and --noise are mutually exclusive"),
        (["--noise", "two.npy"], "noise for 2 images, but 1 are generated"),
        (["--noise", "nan.npy"], "nan.npy: expected finite unit normal values, got NaN"),
        (["--steps", "0"], "steps must be an integer from 1 to 10000, got 0"),
        (["--steps", "10001"], "steps must be an integer from 1 to 10000, got 10001"),
        (["--solver", "magic"], "--solver magic requires --steps"),
        (["--table", "columns.json"], "columns.json: table 'euler-4' has columns"),
        (["--table", "nan.json"], "nan.json: not a solver table: NaN is not a finite number"),
        (["--table", "none.json"], "none.json: cannot be read"),
        (["--interval", "0.8", "0.2"], "0 <= start <= end <= 1, got"),
        (["--interval", "0.2", "1.5"], "0 <= start <= end <= 1, got"),
        (["--interval", "-0.1", "1"], "0 <= start <= end <= 1, got"),
        (["--interval", "nan", "1"], "0 <= start <= end <= 1, got"),
        (["--clip", "-1"], "clip must be 0 (off) or positive"),
        (["--rescale", "1.5"], "rescale must be in 0..1"),
        (["--seed", "1,x"], "expected comma-separated integers or random, got '1,x'"),
        (["--seed", "1,,2"], "expected comma-separated integers or random, got '1,,2'"),
        (["--seed", "1,-1"], "- 1, got -1"),
        (
            ["--seed", "18446744073709551615", "--num-images", "2"],
            "goes past the last seed",
        ),
        (
            ["--seed", "1,2", "--num-images", "2"],
            "--num-images expects one --seed to count from, got 2",
        ),
        (["--num-images", "0"], "--num-images: expected at least 1, got 0"),
        (["--batch", "0"], "--batch: expected at least 1, got 0"),
        (["--also", "green"], "expected TEXT:WEIGHT such as 'a square:0.5', got 'green'"),
        (["--also", "green:much"], "got 'green:much'"),
        (["--also", "green:-1"], "whose sum is not 0"),
        (["--also", "green:nan"], "finite numbers"),
        (["--prompts", "p.txt"], "PROMPT and --prompts are mutually exclusive"),
        (["--num-images", "2", "-o", "x.png"], "x.png: one file for 2 images"),
        (["--num-images", "2", "--animate", "x.gif"], "--animate shows one image, but 2"),
        (["--animate", "x.mp4"], ".webp or .gif"),
        (["--every", "2"], "--every requires --preview or --animate"),
        (["--every", "0", "--preview", "p"], "--every: expected at least 1, got 0"),
        (["--grid", "x.bmp"], "expected a .png, .jpg, .jpeg or .webp file"),
        (["--grid", "x.png", "-o", "x.png"], "given for both -o and --grid"),
        (["--from", "none.png"], "none.png: cannot be read as PNG"),
        (["--runtime", "magic"], "choose one of onnxruntime"),
        (["--threads", "2"], "has no --threads"),
        (["--device", "cuda:0"], "runtime fake has no --device"),
        (
            ["--runtime", "tensorrt", "--device", "cuda:0"],
            "expected the index of a GPU for runtime tensorrt, or",
        ),
        (["--repeat", "1"], "--repeat: expected at least 2, got 1"),
        (
            ["--repeat", "3", "--animate", "x.gif"],
            "--repeat and --preview or --animate are mutually exclusive",
        ),
    ],
)
def test_wrong_use_exits_2_and_writes_nothing(
    arguments: list[str], message: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("small.npy", np.zeros((3, 2, 2), dtype=np.float32))
    np.save("double.npy", np.zeros(SHAPE))
    np.save("flat.npy", np.zeros(3072, dtype=np.float32))
    np.savez("several.npz", a=np.zeros(1))
    np.save("two.npy", np.zeros((2, *SHAPE), dtype=np.float32))
    np.save("nan.npy", np.full(SHAPE, np.nan, dtype=np.float32))
    good = solver_table("euler", steps=4).to_json()
    Path("columns.json").write_text(good.replace('"share"', '"part"'), encoding="utf-8")
    Path("nan.json").write_text(good.replace("[0.25, ", "[NaN, "), encoding="utf-8")
    Path("folder.png").mkdir()
    before = sorted(Path().rglob("*"))
    engine = [] if "--runtime" in arguments else ["--runtime", "fake"]
    done = run(capsys, "generate", "b", "a", *arguments, *engine)
    assert done.code == 2
    assert message in done.error
    assert sorted(Path().rglob("*")) == before


def test_an_interrupted_run_leaves_no_empty_folder(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minit2i_deploy.cli.support.images.image_batches.run_job", interrupted)
    arguments = ("a", "--num-images", 2, "-o", "new/images", "--preview", "new/previews")
    assert generate_images(capsys, *arguments).code == 130
    assert [path.name for path in Path().iterdir()] == ["b"]


def test_the_place_is_checked_before_the_bundle_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "generate", tmp_path / "none", "a", "-o", tmp_path / "no" / "x.png")
    assert (done.code, "cannot be written" in done.error) == (2, True)
    done = run(capsys, "generate", tmp_path / "none", "a", "-o", tmp_path / "x.png")
    assert (done.code, "no bundle there" in done.error) == (1, True)


def test_repeats_are_timed_and_the_images_written_once(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    done = generate_images(capsys, "red", "--seed", "1,2,3", "--batch", 2, "--repeat", 4, "--json")
    values = json.loads(done.out)
    # Two batches, four times each, the first time of each left out.
    assert values["repeat"].keys() == {"first_s", "p50_s", "p95_s", "n"}
    assert values["repeat"]["n"] == 6
    assert 0 < values["repeat"]["p50_s"] <= values["repeat"]["p95_s"]
    files = [Path(image["file"]) for image in values["images"]]
    assert sorted(Path().glob("*.png")) == sorted(files) and len(files) == 3
    once = generate_images(capsys, "red", "--seed", "2", "-o", "once.png")
    assert once.code == 0
    assert np.array_equal(pixels("once.png"), pixels(str(files[1])))
    text = generate_images(capsys, "red", "--repeat", 3).out.splitlines()
    assert text[-1].startswith("a batch: first ") and text[-1].endswith(" over 2")
