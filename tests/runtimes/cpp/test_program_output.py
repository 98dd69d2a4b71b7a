"""What the C++ programs write, and what they say where it cannot be written."""

from __future__ import annotations

import subprocess
from pathlib import Path

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
