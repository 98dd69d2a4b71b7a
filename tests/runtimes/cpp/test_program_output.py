"""What the C++ programs write, and what they say where it cannot be written."""

from __future__ import annotations

import subprocess

import pytest

from tests.helpers.cpp_client import build
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
