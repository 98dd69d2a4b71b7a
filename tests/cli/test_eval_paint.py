"""minit2i eval paint: folders that the benchmarks' scorers read, from any number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.evaluation.benchmarks.official_settings import official_settings
from minit2i_deploy.evaluation.benchmarks.sample_seeds import sample_seed
from minit2i_deploy.io.image_record import Record
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import Run, run

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"},
    {"tag": "colors", "include": [{"class": "cow", "count": 1, "color": "red"}], "prompt": "a cow"},
    {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats"},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a bundle named b and prompts of each suite."""
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "b")
    Path("geneval.jsonl").write_text("\n".join(map(json.dumps, GENEVAL)) + "\n")
    Path("dpg").mkdir()
    for name in ("10", "9", "coco_2", "coco_1"):
        Path(f"dpg/{name}.txt").write_text(f"red {name}")
    Path("prism").mkdir()
    for track in ("style", "entity"):
        lines = [
            json.dumps({"prompt": f"{track[0]} {number}", "id": number}) for number in range(2)
        ]
        Path(f"prism/{track}.jsonl").write_text("\n".join(lines))
    Path("captions.json").write_text(json.dumps({"000139": "a room", "000285": "a bear"}))
    Path("list.txt").write_text("one\n\ntwo\n")
    return tmp_path


def paint(capsys: pytest.CaptureFixture[str], suite: str, prompts: str, *more: object) -> Run:
    source = ("--prompts", prompts) if prompts else ()
    return run(
        capsys, "eval", "paint", suite, "b", *source, "--runtime", "fake", "--batch", 3, *more
    )


def files(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_geneval_has_its_own_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = paint(capsys, "geneval", "geneval.jsonl", "-o", "out")
    assert done.code == 0 and "out  12 images in 1 blocks" in done.out
    assert done.err.startswith(
        "minit2i: geneval: 3 prompts x 4, table euler-4, guidance 6, as flavour jax-b16"
    )
    assert "the official set has 553 prompts" in done.err
    names = {f"{n:05d}/samples/{s:05d}.png" for n in range(3) for s in range(4)}
    assert set(files("out")) == names | {f"{n:05d}/metadata.jsonl" for n in range(3)}
    for number, values in enumerate(GENEVAL):
        assert json.loads(Path(f"out/{number:05d}/metadata.jsonl").read_text()) == values
    record = Record.read("out/00001/samples/00002.png")
    assert record.prompt_text == "a cow" and record.seed == sample_seed(0, 1, 2)
    settings = json.loads(Path("out.shards/_job.json").read_text())["settings"]
    assert settings["official_guidance"] == settings["guidance"] == 6.0


@pytest.mark.parametrize(
    ("suite", "prompts", "expected"),
    [
        ("dpg", "dpg", ["10.png", "9.png", "coco_1.png", "coco_2.png"]),
        ("prism", "prism", [f"{t}/{t}-00{n}/00000.png" for t in ("entity", "style") for n in "01"]),
        ("fid", "captions.json", ["00000.png", "00001.png"]),
        ("folder", "list.txt", ["00000-00000.png", "00001-00000.png"]),
    ],
)
def test_folders_of_the_other_suites(
    folder: Path, capsys: pytest.CaptureFixture[str], suite: str, prompts: str, expected: list[str]
) -> None:
    assert paint(capsys, suite, prompts, "-o", "one", "--block", 1).code == 0
    assert list(files("one")) == expected
    for index in (1, 0, 2):
        assert (
            paint(capsys, suite, prompts, "-o", "m", "--block", 1, "--shard", f"{index}/3").code
            == 0
        )
    assert files("one") == files("m") and files("one.shards") == files("m.shards")
    assert run(capsys, "shards", "merge", "m").code == 0


def test_a_grid_has_the_samples_in_reading_order(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paint(capsys, "dpg", "dpg", "-o", "grids").code == 0
    # Number 9 comes first, so it is prompt 0.
    with Image.open("grids/9.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (64, 64, 3)
    places = [(0, 0), (0, 32), (32, 0), (32, 32)]
    for sample, (top, left) in enumerate(places):
        seed = sample_seed(0, 0, sample)
        command = (
            "generate",
            "b",
            "red 9",
            "--seed",
            seed,
            "--guidance",
            6,
            "-o",
            "x.png",
        )
        assert run(capsys, *command, "--runtime", "fake").code == 0
        with Image.open("x.png") as image:
            assert np.array_equal(np.asarray(image), sheet[top : top + 32, left : left + 32])


def test_arrays_for_feature_extractors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert paint(capsys, "fid", "captions.json", "-o", "arrays", "--arrays").code == 0
    assert paint(capsys, "fid", "captions.json", "-o", "images").code == 0
    pixels = np.load("arrays/part-000000.npy")
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 3, 32, 32)
    with Image.open("images/00001.png") as image:
        assert np.array_equal(np.asarray(image).transpose(2, 0, 1), pixels[1])


def test_an_interrupted_run_makes_what_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("geneval", "geneval.jsonl", "-o", "out", "--block", 1)
    assert paint(capsys, *command).code == 0
    expected = files("out")
    Path("out.shards/_blocks/000001.done").unlink()
    Path("out/00001/samples/00003.png").unlink()
    done = paint(capsys, *command, "--shard", "1/2")
    assert "4 images in 1 blocks" in done.out and files("out") == expected


def test_another_setting_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = paint(capsys, "geneval", "geneval.jsonl", "-o", "out", "--guidance", 3, "--steps", 2)
    assert "table euler-2, guidance 3; officially 6 in flavour jax-b16" in done.err
    refused = paint(capsys, "geneval", "geneval.jsonl", "-o", "out", "--steps", 2)
    assert refused.code == 2 and "guidance 3.0, this one has guidance 6.0" in refused.err
    prism = paint(capsys, "prism", "prism", "-o", "p")
    assert "flavour jax-b16 has no official evaluation of it" in prism.err


def test_seeds_depend_on_prompt_and_sample_alone() -> None:
    # Independent form: printf '7:552:3' | sha256sum.
    assert sample_seed(7, 552, 3) == 0x2B2EDD74A632DD4C
    seeds = {sample_seed(s, i, n) for s in range(3) for i in range(553) for n in range(4)}
    assert len(seeds) == 3 * 553 * 4


def test_published_guidance(folder: Path) -> None:
    # Flavour jax-b16 has no PRISM-Bench.
    bundle = Bundle.open("b")
    assert official_settings(bundle, "fid").guidance == 2.0
    assert official_settings(bundle, "prism").guidance is None


@pytest.mark.parametrize(
    ("suite", "prompts", "message"),
    [
        ("geneval", "list.txt", "expected a .jsonl file of geneval prompts"),
        ("geneval", "prism/style.jsonl", "line 1 has no tag and include"),
        ("dpg", "geneval.jsonl", "has no item_id"),
        ("dpg", "prism", "has no ITEM.txt files"),
        ("prism", "geneval.jsonl", "has GenEval's prompts"),
        ("prism", "dpg", "has no TRACK.jsonl files"),
        ("fid", "bad.json", "expected a JSON object or list of captions"),
        ("folder", "captions.json", "expected a .txt or .jsonl file"),
        ("folder", "missing.txt", "cannot be read"),
        ("dpg", "twice.jsonl", "'a' is the name of prompts 1 and 2"),
        ("dpg", "dots.jsonl", "'../a' cannot name a file"),
        ("folder", "blank.jsonl", "prompt 1 is blank"),
        ("folder", "empty.txt", "no prompt in it"),
        ("geneval", "", "geneval requires --prompts: evaluation_metadata.jsonl"),
    ],
)
def test_prompts_of_the_wrong_suite(
    folder: Path, capsys: pytest.CaptureFixture[str], suite: str, prompts: str, message: str
) -> None:
    Path("bad.json").write_text("3")
    line = json.dumps({"item_id": "a", "prompt": "x"})
    Path("twice.jsonl").write_text(f"{line}\n{line}\n")
    Path("dots.jsonl").write_text(json.dumps({"item_id": "../a", "prompt": "x"}))
    Path("blank.jsonl").write_text(json.dumps({"prompt": " "}))
    Path("empty.txt").write_text("\n")
    done = paint(capsys, suite, prompts, "-o", "out")
    assert done.code == 2 and message in done.error
    assert not Path("out").exists() and not Path("out.shards").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dpg", "dpg", "--samples", 3), "a grid of dpg has 1 or 4 images"),
        (("fid", "captions.json", "--samples", 2), "fid takes one image a caption"),
        (("folder", "list.txt", "--samples", 0), "expected 1 to 99999"),
        (("folder", "list.txt", "--block", 0), "--block: expected at least 1"),
        (("folder", "list.txt", "--seed", -1), "must be 0 or more"),
        (("folder", "list.txt", "--arrays"), "--arrays: is for fid"),
        (("folder", "list.txt", "--shard", "9/8"), "K from 0 to N - 1"),
    ],
)
def test_numbers_that_do_not_fit(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    done = paint(capsys, str(arguments[0]), str(arguments[1]), "-o", "out", *arguments[2:])
    assert done.code == 2 and message in done.error and not Path("out.shards").exists()
