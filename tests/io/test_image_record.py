"""A picture's record: it survives the PNG, makes the same file again, and says what differs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_record import FIELD, Record
from minit2i_deploy.io.images import read_metadata, save_png
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import CONFIG, draft, write_bundle, write_files
from tests.helpers.cli_runs import Run, run

SHAPE = (3, CONFIG.image_size, CONFIG.image_size)
# Latin-1, beyond Latin-1, and beyond the first plane.
PROMPT = "\u00e9 \u7d05 \U0001f534\nred"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle named b in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return Bundle.open(write_bundle(tmp_path / "b"))


def paint(capsys: pytest.CaptureFixture[str], *arguments: object) -> Run:
    return run(capsys, "generate", "b", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--seed", "18446744073709551615", "--guidance", "0.1"],
        ["--negative", "\u9752"],
        ["--also", "blue:0.3", "--also", "\u7dd1:-0.1"],
        ["--solver", "heun", "--steps", "3", "--interval", "0.1", "0.7", "--rescale", "0.3"],
        ["--solver", "sde", "--steps", "4", "--seed", "3"],
        ["--table", "own.json"],
    ],
)
def test_an_image_is_reproduced_to_the_byte(
    arguments: list[str], bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    solver_table("ab2", steps=5).save("own.json")
    assert paint(capsys, PROMPT, *arguments, "--runtime", "fake", "-o", "x.png").code == 0
    Path("own.json").unlink()
    # The runtime is the record's too: the default one could not open these graphs.
    done = paint(capsys, "--from", "x.png", "-o", "again.png")
    assert (done.code, done.err) == (0, "")
    assert Path("again.png").read_bytes() == Path("x.png").read_bytes()


def test_unicode_survives_for_people_and_programs(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(capsys, PROMPT, "--runtime", "fake", "-o", "x.png")
    fields = read_metadata("x.png")
    assert fields["parameters"].startswith(f"{PROMPT}\nSteps: ")
    assert not {"prompt", "workflow"} & set(fields)
    assert fields[FIELD].isascii()
    assert Record.read("x.png").mix().texts == (PROMPT,)
    data = Path("x.png").read_bytes()
    assert b"iTXtparameters\0" in data and b"tEXtminit2i\0" in data


def test_a_table_of_the_bundle_is_named_and_another_is_stored(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(capsys, "red", "--runtime", "fake", "-o", "own.png")
    paint(capsys, "red", "--runtime", "fake", "-o", "other.png", "--solver", "heun", "--steps", 2)
    stored, other = Record.read("own.png"), Record.read("other.png")
    assert (stored.table, stored.table_name) == (None, "euler-4")
    assert stored.solver(bundle) == bundle.table("euler-4")
    assert other.solver(bundle) == solver_table("heun", steps=2)
    assert stored.bundle == bundle.digest and stored.checkpoint == "ab" * 32


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["blue"], {"prompt": "blue"}),
        (["--seed", "5"], {"seed": "5"}),
        (["--guidance", "1.5"], {"guidance": "1.5"}),
        (["--negative", "blue"], {"negative": "blue"}),
        (["--table", "euler-4"], {"table": "euler-4"}),
        (["--solver", "ab2", "--steps", "4"], {"table": "ab2-4"}),
        (["--preset", "default"], {"table": "euler-4", "guidance": "2.5"}),
        (["--clip", "1"], {"table": "heun-3-clip1"}),
    ],
)
def test_options_take_the_place_of_the_record(
    arguments: list[str],
    changed: dict[str, str],
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = ["--solver", "heun", "--steps", "3", "--guidance", "4", "--negative", "green"]
    paint(capsys, "red", *first, "--seed", 2, "--runtime", "fake", "-o", "x.png")
    assert paint(capsys, "--from", "x.png", *arguments, "-o", "y.png").code == 0
    before, after = read_metadata("x.png"), read_metadata("y.png")
    for fields in (before, after):
        del fields[FIELD]
        fields["prompt"] = fields.pop("parameters").splitlines()[0]
    assert after == before | changed


def test_more_seeds_of_a_picture(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    paint(capsys, "red", "--seed", 2, "--runtime", "fake", "-o", "x.png")
    assert paint(capsys, "--from", "x.png", "--num-images", 3, "-o", "out").code == 0
    assert Path("out/0000-2.png").read_bytes() == Path("x.png").read_bytes()
    assert Record.read("out/0002-4.png").seed == 4


def test_another_bundle_is_refused(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    paint(capsys, "red", "--runtime", "fake", "-o", "x.png")
    write_files(Path("c"))
    other = write_manifest("c", dataclasses.replace(draft(), variant="b-16"))
    assert other.variant == "b-16"
    done = run(capsys, "generate", "c", "--from", "x.png", "-o", "y.png")
    assert done.code == 2
    digest = Bundle.open("c").digest
    assert f"generated by bundle {bundle.digest[:12]}.., but c is {digest[:12]}.." in done.error


def test_a_picture_from_noise_wants_that_noise(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        np.save(f"{seed}.npy", standard_noise(seed, SHAPE))
    paint(capsys, "red", "--noise", "1.npy", "--runtime", "fake", "-o", "x.png")
    np.save("1.npy", np.load("1.npy")[None])
    assert paint(capsys, "--from", "x.png", "--noise", "1.npy", "-o", "y.png").code == 0
    assert Path("y.png").read_bytes() == Path("x.png").read_bytes()
    for arguments, text in (
        ([], "but no noise is given"),
        (["--noise", "2.npy"], "but other noise is given"),
    ):
        done = paint(capsys, "--from", "x.png", *arguments, "-o", "z.png")
        assert done.code == 2
        assert text in done.error and "add --noise with that file" in done.error
    assert paint(capsys, "--from", "x.png", "--seed", 1, "-o", "z.png").code == 0
    assert read_metadata("z.png")["seed"] == "1"


def record_of(bundle: Bundle) -> dict[str, Any]:
    """A whole record, as JSON values."""
    table = bundle.table("euler-4")
    return {
        "bundle": bundle.digest, "checkpoint": "ab" * 32, "format_version": 1, "guidance": 2.0,
        "negative": None, "noise": None, "prompt": [{"text": "red", "weight": 1.0}],
        "runtime": "fake", "seed": 0, "table": None, "table_name": table.name,
        "table_sha256": hashlib.sha256(table.to_json().encode()).hexdigest(), "version": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("not JSON", "its record cannot be read: Expecting value"),
        ("[1]", "format_version is None"),
        ({"format_version": 4}, "format_version is 4, expected 1 to 3"),
        ({"format_version": 2}, "missing fields ['edit', 'variation']"),
        ({"edit": None}, "unknown fields [], missing fields ['variation']"),
        ({"seed": "7"}, "minit2i.seed: expected an integer, got '7'"),
        ({"seed": -1}, "noise seed must be an integer from 0 to 2**64 - 1, got -1"),
        ({"prompt": []}, "a mix must have at least one text"),
        ({"prompt": [{"text": "red"}]}, "missing fields ['weight']"),
        ({"extra": 1}, "unknown fields ['extra']"),
        ({"runtime": "magic"}, "choose one of onnxruntime"),
        ({"table": "\x00"}, "not a solver table"),
        ({"table_name": "../x"}, "table '../x' is not in the bundle"),
        ({"table_sha256": "0" * 64}, "but the image was generated with 00000000.."),
        (None, "has no field 'minit2i'"),
    ],
)
def test_corrupt_records_exit_2(
    change: Any, message: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(record_of(bundle) | change) if isinstance(change, dict) else change
    save_png(Image.new("RGB", (2, 2)), "x.png", {} if text is None else {FIELD: text})
    done = paint(capsys, "--from", "x.png", "-o", "y.png")
    assert done.code == 2
    assert message in done.error
    assert not Path("y.png").exists()


def test_a_complete_record_is_used(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    save_png(Image.new("RGB", (2, 2)), "x.png", {FIELD: json.dumps(record_of(bundle))})
    assert paint(capsys, "--from", "x.png", "-o", "y.png").code == 0
    assert read_metadata("y.png")["guidance"] == "2.0"


def test_also_with_from_wants_the_prompt(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(capsys, "red", "--runtime", "fake", "-o", "x.png")
    assert (
        "--also requires PROMPT"
        in paint(capsys, "--from", "x.png", "--also", "b:1", "-o", "y.png").error
    )


def test_a_record_needs_a_png(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as PNG"):
        Record.read(tmp_path / "none.png")
