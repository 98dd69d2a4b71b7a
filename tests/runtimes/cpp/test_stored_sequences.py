"""Encoded prompts in a cache, read and written by the C++ client: Python's files, the same bits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.onnxruntime.stored_sequences import MAX_ENTRIES
from tests.helpers.cpp_client import Client, generate_params, program, run_in_threads
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp

PROMPT = "a red circle"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))


def state(bundle: Path, *options: object, threads: int = 1) -> bytes:
    """The final state of an image by the program, which runs with ``lean``."""
    folder = bundle.parent
    files = ("-o", folder / "a.png", "--save-state", folder / "a.npy")
    program("minit2i-generate", bundle, PROMPT, "--threads", threads, *files, *options)
    return (folder / "a.npy").read_bytes()


def without_encoder(bundle: Path) -> None:
    """Only its size is checked before it is opened."""
    graph = bundle / "text_encoder" / "model.onnx"
    graph.write_bytes(b"\xff" * graph.stat().st_size)


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/sequences-*/*"))


@pytest.mark.parametrize("negative", [(), ("--negative", "two circles")])
def test_a_prompt_that_was_encoded_needs_no_encoder(
    bundle: Path, tmp_path: Path, negative: tuple[str, ...]
) -> None:
    options = (*negative, "--cache", tmp_path / "cache")
    expected = state(bundle, *negative)
    assert state(bundle, *options) == expected
    assert len(files(tmp_path / "cache")) == 1
    without_encoder(bundle)
    assert state(bundle, *options) == expected


def test_both_languages_share_files(bundle: Path, tmp_path: Path) -> None:
    """Each reads what the other wrote, where the encoder cannot be opened any more."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    expected = state(bundle, "--cache", mine)
    python_image(bundle, theirs)
    assert [file.read_bytes() for file in files(mine)] == [
        file.read_bytes() for file in files(theirs)
    ]
    without_encoder(bundle)
    assert state(bundle, "--cache", theirs) == expected
    python_image(bundle, mine)


def python_image(bundle: Path, cache: Path, **settings: Any) -> None:
    opened = Bundle.open(bundle)
    with open_runtime(opened, "onnxruntime", threads=1, lean=True, cache=cache) as runtime:
        generate(opened, runtime, PROMPT, **settings)


def test_a_prompt_of_several_images_is_one_text(bundle: Path, tmp_path: Path) -> None:
    """With the negative prompt it is Python's call: the shorter text first."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    options = ("--negative", "green", "--cache", mine)
    expected = state(bundle, *options, "--seed", "1,2,3")
    python_image(bundle, theirs, negative="green")
    contents = [[(file.name, file.read_bytes()) for file in files(cache)]
                for cache in (mine, theirs)]  # fmt: skip
    assert len(contents[0]) == 1 and contents[0] == contents[1]
    without_encoder(bundle)
    assert state(bundle, *options, "--seed", "1,2,3") == expected
    state(bundle, *options, "--seed", "7")


def test_another_number_of_threads_is_another_call(bundle: Path, tmp_path: Path) -> None:
    for threads in (1, 2):
        state(bundle, "--cache", tmp_path / "cache", threads=threads)
    assert len(files(tmp_path / "cache")) == 2


@pytest.mark.parametrize("damage", ["empty", "flipped", "cut"])
def test_a_corrupt_file_is_encoded_anew_in_one_line(
    bundle: Path, tmp_path: Path, damage: str
) -> None:
    cache = tmp_path / "cache"
    expected = state(bundle, "--cache", cache, threads=2)
    (place,) = files(cache)
    whole = place.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    place.write_bytes({"empty": b"", "flipped": flipped, "cut": whole[:-4]}[damage])
    params = generate_params(PROMPT.encode())
    # It has two threads.
    with Client(bundle, lean=True, cache=os.fsencode(cache)) as client:
        client.generate(params, Bundle.open(bundle).config.image_size)
        assert client.warnings == [f"{place}: is corrupt; the prompt is encoded anew"]
    assert place.read_bytes() == whole
    assert state(bundle, "--cache", cache, threads=2) == expected


def test_what_cannot_be_written_costs_no_image(bundle: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = state(bundle, "--cache", cache, threads=2)
    (place,) = files(cache)
    place.unlink()
    place.parent.rmdir()
    place.parent.touch()
    params = generate_params(PROMPT.encode())
    # It has two threads.
    with Client(bundle, lean=True, cache=os.fsencode(cache)) as client:
        client.generate(params, Bundle.open(bundle).config.image_size)
        (line,) = client.warnings
    assert line.startswith(f"{place.parent}: cannot be made (")
    assert line.endswith("; the next start encodes the prompt again")
    assert state(bundle, "--cache", cache, threads=2) == expected


def test_a_warning_after_the_model_reaches_its_function(bundle: Path, tmp_path: Path) -> None:
    """The state has a function of its own, but such a warning is the engine's."""
    cache = tmp_path / "cache"
    state(bundle, "--cache", cache)
    (place,) = files(cache)
    place.write_bytes(b"")
    line = program("late_warning", bundle, cache, PROMPT)
    assert line == f"{place}: is corrupt; the prompt is encoded anew\n"


def test_an_unfinished_file_of_the_same_pid_does_no_harm(bundle: Path, tmp_path: Path) -> None:
    """Another thread's, or another container's on a shared disk; here a folder in its place."""
    cache = tmp_path / "cache"
    expected = state(bundle, "--cache", cache, threads=2)
    (place,) = files(cache)
    place.unlink()
    other = place.with_name(f".{place.name}.partial-{os.getpid()}")
    other.mkdir()
    # It has two threads.
    with Client(bundle, lean=True, cache=os.fsencode(cache)) as client:
        client.generate(generate_params(PROMPT.encode()), Bundle.open(bundle).config.image_size)
        assert client.warnings == []
    assert place.is_file() and other.is_dir()
    assert state(bundle, "--cache", cache, threads=2) == expected


def test_models_of_one_process_write_one_entry(bundle: Path, tmp_path: Path) -> None:
    cache, size = tmp_path / "cache", Bundle.open(bundle).config.image_size
    clients = [Client(bundle, lean=True, cache=os.fsencode(cache)) for _ in range(4)]

    def generate_once(client: Client) -> None:
        with client:
            client.generate(generate_params(PROMPT.encode(), table=b"euler-20"), size)

    run_in_threads(*(lambda client=client: generate_once(client) for client in clients))
    assert [client.warnings for client in clients] == [[]] * 4
    assert len(files(cache)) == 1 and not list(cache.rglob("*.partial-*"))


def test_the_ones_read_least_recently_leave(bundle: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    state(bundle, "--cache", cache)
    (place,) = files(cache)
    for index in range(MAX_ENTRIES):
        old = place.with_name(f"{index:040x}.f32")
        old.touch()
        os.utime(old, (index, index))
    state(bundle, "--cache", cache)
    assert len(files(cache)) == MAX_ENTRIES + 1
    program(
        "minit2i-generate", bundle, "two circles", "--threads", 1, "--cache", cache,
        "-o", tmp_path / "b.png",
    )  # fmt: skip
    retained = files(cache)
    assert len(retained) == MAX_ENTRIES and place in retained
    assert not place.with_name(f"{1:040x}.f32").exists()
