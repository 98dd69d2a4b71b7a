"""What the C++ programs write, and what they say where it cannot be written."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.cpp_client import build, program
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp


@pytest.mark.parametrize("name", ["minit2i-embed", "minit2i-generate"])
@pytest.mark.parametrize("arguments", ["--help", "--version", "work"])
def test_a_full_standard_output_is_a_failure(name: str, arguments: str) -> None:
    work = {
        "minit2i-embed": (tiny_bundle(), "a", "--tokens"),
        "minit2i-generate": (tiny_bundle(), "--list"),
    }
    command = [build() / name, *(work[name] if arguments == "work" else (arguments,))]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    line = f"{name}: error: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.parametrize("name", ["minit2i-embed", "minit2i-generate"])
def test_a_file_that_does_not_fit_is_a_failure(tmp_path: Path, name: str) -> None:
    """The shell's limit stands for a full disk: it is another reason of the same kind."""
    output = tmp_path / ("a.npz" if name == "minit2i-embed" else "a.npy")
    arguments = ["a red circle"] * 64 + ["-o", str(output)]
    if name == "minit2i-generate":
        seeds = ",".join(map(str, range(16)))
        arguments = ["a red circle", "--table", "euler-20", "--seed", seeds]
        arguments += ["-o", str(tmp_path / "a.png"), "--save-state", str(output)]
    # Blocks of 512 bytes. Without the trap a signal would end the program.
    shell = 'trap "" XFSZ; ulimit -f 16; exec "$@"'
    command = ["sh", "-c", shell, "sh", build() / name, tiny_bundle(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = f"{name}: error: {output}: cannot be written: File too large\n"
    assert (done.returncode, done.stderr) == (1, line)
    assert not output.exists() and not list(tmp_path.glob(".*"))


def test_a_leftover_of_another_process_does_no_harm(tmp_path: Path) -> None:
    leftover = tmp_path / ".a.npz.partial"
    leftover.mkdir()
    program("minit2i-embed", tiny_bundle(), "a", "-o", tmp_path / "a.npz")
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", leftover.name}


# Sizes are 224 and 176, the second file and the directory start at 264 and 478.
LIMITS = {"nothing": 2**32 - 1, "the end": 400, "the second file": 250, "all": 0}


@pytest.mark.parametrize("large", LIMITS)
def test_arrays_of_4_gib_and_more_are_zip64(tmp_path: Path, large: str) -> None:
    path = tmp_path / "a.npz"
    program("large_npz", path, LIMITS[large])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        versions = [info.extract_version for info in archive.infolist()]
    assert versions == [45 if large == "all" else 20, 20 if large in ("nothing", "the end") else 45]
    assert (b"PK\x06\x06" in path.read_bytes()) == (large != "nothing")
    arrays = np.load(path)
    assert sorted(arrays) == ["mask", "values"]
    np.testing.assert_array_equal(arrays["mask"], [[1, 1, 0], [1, 0, 0]])
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4) + np.float32(0.5)
    np.testing.assert_array_equal(arrays["values"], values)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nowhere/a", "No such file or directory"),
        ("file/a", "Not a directory"),
        ("folder", "Is a directory"),
    ],
)
def test_places_are_checked_before_the_work(tmp_path: Path, place: str, reason: str) -> None:
    """There is no bundle, which would be the first error of the work."""
    (tmp_path / "file").touch()
    for suffix in ("png", "npy", "npz"):
        (tmp_path / f"folder.{suffix}").mkdir()
    output = {suffix: f"{tmp_path / place}.{suffix}" for suffix in ("png", "npy", "npz")}
    image = ("-o", tmp_path / "a.png", "--save-state", output["npy"])
    for suffix, name, options in (
        ("npz", "minit2i-embed", ("-o", output["npz"])),
        ("png", "minit2i-generate", ("-o", output["png"])),
        ("npy", "minit2i-generate", image),
    ):
        line = program(name, tmp_path / "no bundle", "a", *options, code=2)
        assert line == (
            f"{name}: error: {output[suffix]}: cannot be written: {reason}; choose a folder you "
            "can write\n"
        )
