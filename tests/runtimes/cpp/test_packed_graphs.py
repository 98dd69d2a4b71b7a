"""Packed graphs in a cache, read and written by the C++ client: Python's entries, the same bits."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.onnxruntime.packed_graphs import DATA_FILE, MODEL_FILE, RECORD_FILE
from tests.helpers.cpp_client import (
    USAGE,
    Client,
    build,
    generate_params,
    model_params,
    program,
    refused,
)
from tests.helpers.cpp_plugins import onnxruntime_library
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp

PROMPT = "a red circle"


def state(tmp_path: Path, *options: object) -> bytes:
    """The final state of an image by the program, which runs with ``lean``."""
    files = ("-o", tmp_path / "a.png", "--save-state", tmp_path / "a.npy")
    program("minit2i-generate", tiny_bundle(), PROMPT, "--threads", 1, *files, *options)
    return (tmp_path / "a.npy").read_bytes()


def inodes(cache: Path) -> dict[str, int]:
    """Every file of a cache."""
    files = [file for file in cache.rglob("*") if file.is_file()]
    return {str(file.relative_to(cache)): file.stat().st_ino for file in files}


def image_size() -> int:
    return Bundle.open(tiny_bundle()).config.image_size


def python_image(cache: Path) -> None:
    bundle = Bundle.open(tiny_bundle())
    with open_runtime(bundle, "onnxruntime", threads=2, lean=True, cache=cache) as runtime:
        generate(bundle, runtime, PROMPT)


def client_image(cache: Path) -> None:
    with Client(tiny_bundle(), lean=True, cache=os.fsencode(cache)) as client:
        client.generate(generate_params(PROMPT.encode()), image_size())


def test_the_second_opening_reads_the_entries_and_gives_the_same_bits(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = state(tmp_path)
    assert state(tmp_path, "--cache", cache) == expected
    files = inodes(cache)
    assert len([name for name in files if name.endswith(RECORD_FILE)]) == 2
    assert state(tmp_path, "--cache", cache) == expected
    assert inodes(cache) == files


@pytest.mark.parametrize("writes", [python_image, client_image])
def test_both_languages_share_entries(tmp_path: Path, writes: Callable[[Path], None]) -> None:
    writes(tmp_path)
    files = inodes(tmp_path)
    for reads in (python_image, client_image):
        reads(tmp_path)
        assert inodes(tmp_path) == files


def test_another_version_makes_entries_of_its_own(tmp_path: Path) -> None:
    versions = {"new": "", "old": onnxruntime_library("1.19.2")}
    for name, library in versions.items():
        arrays = []
        for options in ((), ("--cache", tmp_path / "c"), ("--cache", tmp_path / "c")):
            options = (*options, "--pooled", "--threads", 1, "-o", tmp_path / "a.npz")
            program("minit2i-embed", tiny_bundle(), PROMPT, *options, LD_LIBRARY_PATH=library)
            arrays.append(np.load(tmp_path / "a.npz")["values"])
        assert all(np.array_equal(array, arrays[0]) for array in arrays), name
    keys = [json.loads(file.read_text()) for file in tmp_path.glob("c/*/key.json")]
    assert len({key.pop("version") for key in keys}) == len(keys) == 2
    assert keys[0] == keys[1] and keys[0]["graph"] == "text_encoder"
    assert len(list(tmp_path.glob("c/*/packed"))) == 2


@pytest.mark.parametrize("damage", ["cut", "no record", "garbage"])
def test_a_corrupt_entry_is_made_anew_in_one_line(tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    expected = state(tmp_path, "--cache", cache)
    place = max(cache.glob("*/packed"), key=lambda folder: (folder / DATA_FILE).stat().st_size)
    if damage == "cut":
        (place / DATA_FILE).write_bytes(b"7 bytes")
    elif damage == "no record":
        (place / RECORD_FILE).unlink()
    else:
        (place / MODEL_FILE).write_bytes(b"\xff" * (place / MODEL_FILE).stat().st_size)
    warnings: list[str] = []
    with Client(tiny_bundle(), lean=True, cache=os.fsencode(cache)) as client:
        image = client.generate(generate_params(PROMPT.encode()), image_size())
        warnings += client.warnings
    (line,) = warnings
    assert line.startswith(f"{place}: ") and line.endswith("; it is made anew")
    np.save(tmp_path / "b.npy", image)
    assert (tmp_path / "b.npy").read_bytes() == expected == state(tmp_path, "--cache", cache)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    state(tmp_path, "--cache", cache)
    place = next(cache.glob("*/packed"))
    place.rename(place.with_name(".packed.partial-1-host"))
    place.with_name(".packed.lock").touch()
    state(tmp_path, "--cache", cache)
    assert (place / RECORD_FILE).is_file() and not list(cache.glob("*/.*"))


def test_a_cache_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    assert refused(tiny_bundle(), model_params(cache=b"")) == (
        USAGE,
        "cache is empty; name a folder, or leave it out",
    )
    status, line = refused(tiny_bundle(), model_params(cache=b"c", provider=b"cuda"))
    assert status == USAGE
    assert line == "provider cuda keeps nothing in a cache here; cache c is for cpu"
    (tmp_path / "file").touch()
    options = ("--cache", tmp_path / "file", "-o", tmp_path / "a.png")
    line = program("minit2i-generate", tiny_bundle(), PROMPT, *options, code=2)
    assert line.count("\n") == 1
    assert "cannot be made" in line and "name a cache folder you can write" in line


def test_another_process_that_writes_the_entry_is_waited_for(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = state(tmp_path, "--cache", cache)
    place = next(cache.glob("*/packed"))
    complete, inode = place.rename(place.with_name("elsewhere")), inodes(cache)
    with place.with_name(".packed.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [build() / "minit2i-generate", tiny_bundle(), PROMPT, "--threads", "1"]
        command += ["--cache", cache, "-o", tmp_path / "a.png", "--save-state", tmp_path / "a.npy"]
        with subprocess.Popen(command) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2.0)
            complete.rename(place)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert process.wait(60.0) == 0
    assert (tmp_path / "a.npy").read_bytes() == expected
    assert sorted(inodes(cache).values()) == sorted(inode.values())
