"""minit2i generate: prompts from standard input, files in folders and formats, drawn seeds."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_formats import read_image_metadata
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import CONFIG, write_bundle
from tests.helpers.cli_runs import Run, run


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle named b in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return Bundle.open(write_bundle(tmp_path / "b"))


class Stdin:
    """Standard input of these bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def generate(capsys: pytest.CaptureFixture[str], *arguments: object) -> Run:
    return run(capsys, "generate", "b", *arguments, "--runtime", "fake")


def index(folder: str) -> list[dict[str, object]]:
    text = Path(folder, "index.jsonl").read_text(encoding="ascii")
    return [json.loads(line) for line in text.splitlines()]


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_several_prompts_give_several_images(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    # One prompt on each side of an option.
    done = generate(capsys, "red", "-o", "out", "a blue circle")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "out/0000-0.png  euler-4, guidance 2.5, 'red'"
    assert lines[1].startswith("out/0001-0.png  euler-4, guidance 2.5, 'a blue circle', ")
    assert index("out") == [
        {"file": f"000{k}-0.png", "prompt": text, "seed": 0, "table": "euler-4", "guidance": 2.5}
        for k, text in enumerate(("red", "a blue circle"))
    ]


@pytest.mark.parametrize("arguments", [["-"], ["--prompts", "-"]])
def test_prompts_from_standard_input(
    arguments: list[str],
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"red\n\n  green\n"))
    values = json.loads(generate(capsys, *arguments, "--json").out)
    assert [image["prompt"] for image in values["images"]] == ["red", "green"]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "-: no prompt in it"), (b"red\n\xff\n", "standard input: line 2: not UTF-8 at byte 1")],
)
def test_standard_input_without_prompts_is_wrong_use(
    data: bytes,
    message: str,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(data))
    done = generate(capsys, "-")
    assert (done.code, message in done.error) == (2, True)


def test_commands_that_read_files_take_standard_input(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    requests: list[tuple[str, str]] = []

    def stub(source: object, out: object, options: Any, **settings: object) -> None:
        path = options.prompts
        requests.append((path.name, path.read_text(encoding="utf-8")))
        raise UsageError("enough")

    monkeypatch.setattr("minit2i_deploy.export.quantize.quantize_bundle", stub)
    monkeypatch.setattr(sys, "stdin", Stdin(b"red\n\n  green\n"))
    run(capsys, "quantize", "b", "q", "--scheme", "int8", "--prompts", "-")
    Path("p.txt").write_text("red\n", encoding="utf-8")
    run(capsys, "quantize", "b", "q", "--scheme", "int8", "--prompts", "p.txt")
    assert requests == [("stdin.txt", "red\ngreen\n"), ("p.txt", "red\n")]


def test_one_image_in_a_folder_joins_those_there(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [generate(capsys, "red", "-o", "new/out/").out.split()[0] for _ in range(2)]
    # A folder that exists needs no slash.
    names.append(generate(capsys, "red", "-o", "new/out", "--seed", 3).out.split()[0])
    assert names == ["new/out/minit2i-0.png", "new/out/minit2i-0-2.png", "new/out/minit2i-3.png"]
    assert [item["file"] for item in index("new/out")] == [Path(name).name for name in names]
    assert [item["seed"] for item in index("new/out")] == [0, 0, 3]


def test_several_images_need_a_folder(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    generate(capsys, "red", "-o", "out/")
    done = generate(capsys, "red", "green", "-o", "out/")
    assert (done.code, "out: the folder is not empty" in done.error) == (2, True)


def test_the_index_tells_a_negative_prompt_and_noise(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("n.npy", standard_noise(7, (3, CONFIG.image_size, CONFIG.image_size)))
    generate(capsys, "red", "--negative", "green", "--noise", "n.npy", "-o", "out/")
    (entry,) = index("out")
    assert (entry["seed"], entry["negative"], entry["file"]) == (None, "green", "minit2i-noise.png")


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_jpeg_and_webp_hold_the_record(
    suffix: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("a \u7d05 circle", "--seed", 7, "--steps", 3)
    generate(capsys, *arguments, "-o", "x.png")
    assert generate(capsys, *arguments, "-o", f"x.{suffix}").code == 0
    assert Record.read(f"x.{suffix}") == Record.read("x.png")
    assert read_image_metadata(f"x.{suffix}") == read_image_metadata("x.png")
    with Image.open(f"x.{suffix}") as image:
        assert image.format == {"webp": "WEBP"}.get(suffix, "JPEG")
    again = generate(capsys, "--from", f"x.{suffix}", "-o", "again.png")
    assert (again.code, Path("again.png").read_bytes()) == (0, Path("x.png").read_bytes())
    if suffix == "webp":
        assert np.array_equal(pixels("x.webp"), pixels("x.png"))


def test_the_format_of_images_that_the_output_does_not_name(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(capsys, "red", "--num-images", 2, "--format", "jpg", "-o", "out", "--grid", "g.webp")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "0000-0.jpg", "0001-1.jpg", "index.jsonl",
    ]  # fmt: skip
    assert generate(capsys, "red", "--format", "webp").out.startswith("minit2i-0.webp ")
    assert read_image_metadata("g.webp") == {"bundle": bundle.digest}


def test_a_record_too_long_for_jpeg_is_refused_before_the_work(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    solver_table("euler", steps=1000).save("t.json")
    arguments = ("red", "--table", "t.json")
    done = generate(capsys, *arguments, "-o", "x.jpg")
    assert done.code == 2
    assert done.error.startswith("x.jpg: the record has ") and "JPEG holds 65527" in done.error
    assert not Path("x.jpg").exists()
    assert generate(capsys, *arguments, "-o", "x.webp").code == 0
    assert Record.read("x.webp").table_name == "euler-1000"


def test_a_random_seed_is_drawn_and_recorded(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = []
    for _ in range(2):
        values = json.loads(generate(capsys, "red", "--seed", "random", "--json").out)
        assert values["file"] == f"minit2i-{values['seed']}.png"
        assert Record.read(values["file"]).seed == values["seed"]
        seeds.append(values["seed"])
    assert seeds[0] != seeds[1]
    again = generate(capsys, "red", "--seed", seeds[0], "-o", "again.png")
    assert again.code == 0
    assert np.array_equal(pixels("again.png"), pixels(f"minit2i-{seeds[0]}.png"))


def test_json_tells_the_prompt(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads(generate(capsys, "red", "--also", "green:0.5", "--json").out)
    assert values["prompt"] == "1 x 'red' + 0.5 x 'green'"


def test_inspect_describes_an_image(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    generate(capsys, "a red circle", "--negative", "green", "--seed", 5, "-o", "x.png")
    done = run(capsys, "inspect", "x.png")
    assert (done.code, done.err) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert facts["prompt"] == "a red circle" and facts["negative"] == "green"
    assert (facts["seed"], facts["table"], facts["guidance"]) == ("5", "euler-4", "2.5")
    assert facts["next:"] == "minit2i generate BUNDLE --from x.png -o again.png"
    values = json.loads(run(capsys, "inspect", "x.png", "--json").out)
    assert values["prompt"] == [{"text": "a red circle", "weight": 1.0}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plain.jpg"], "plain.jpg: has no field 'minit2i'"),
        (["text.png"], "text.png: cannot be read as PNG, JPEG or WebP"),
        (["plain.jpg", "--lora", "x"], "--lora requires a checkpoint, but plain.jpg is an image"),
    ],
)
def test_inspect_refuses(
    arguments: list[str], message: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (2, 2)).save("plain.jpg")
    Path("text.png").write_text("no image")
    done = run(capsys, "inspect", *arguments)
    assert (done.code, message in done.error) == (2, True), done.err
