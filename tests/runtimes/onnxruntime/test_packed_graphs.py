"""Packed graphs in a cache: the same bits, keyed, complete or made anew in one line."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import CacheWarning, Minit2iError, RuntimeFailure, UsageError
from minit2i_deploy.generate import generate
from minit2i_deploy.io.lock import output_lock
from minit2i_deploy.runtimes.onnxruntime import packed_graphs, runtime
from minit2i_deploy.runtimes.onnxruntime.packed_graphs import DATA_FILE, MODEL_FILE, RECORD_FILE
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import tiny_bundle

TABLE = solver_table("euler", steps=2)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


def image(bundle: Bundle, cache: Path | None = None, **settings: Any) -> np.ndarray:
    with OnnxRuntime(bundle, threads=1, cache=cache, **settings) as runtime:
        return generate(bundle, runtime, "a red circle", table=TABLE).x


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/packed"))


def entry_of(cache: Path, graph: str) -> Path:
    (key,) = [key for key in cache.glob("*/key.json") if f'"graph": "{graph}"' in key.read_text()]
    return key.parent / "packed"


def test_the_second_opening_reads_the_entries_and_gives_the_same_bits(
    bundle: Bundle, tmp_path: Path, opened: list[Path]
) -> None:
    expected = image(bundle)
    opened.clear()
    for _ in range(2):
        assert np.array_equal(image(bundle, tmp_path), expected)
    written, read = opened[:3], opened[3:]
    assert all(file.is_relative_to(bundle.path) for file in written)
    assert sorted(read) == [entry / MODEL_FILE for entry in entries(tmp_path)]
    # Weights are there twice: as they are and packed.
    source = (bundle.path / "transformer/model.onnx.data").stat().st_size
    assert (entry_of(tmp_path, "transformer") / DATA_FILE).stat().st_size > 1.4 * source
    assert not list(tmp_path.glob("*/.*"))


def test_a_lean_encoder_keeps_its_order_of_sums(bundle: Bundle, tmp_path: Path) -> None:
    expected = image(bundle, lean=True)
    assert np.array_equal(image(bundle, tmp_path, lean=True), expected)
    # Its weights are not packed, so there is no graph to keep.
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize("changed", ["provider_version", "device_name"])
def test_another_version_or_processor_makes_entries_of_its_own(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    image(bundle, tmp_path)
    first = {entry: (entry / RECORD_FILE).stat().st_ino for entry in entries(tmp_path)}
    monkeypatch.setattr(runtime, changed, lambda *_: "another")
    image(bundle, tmp_path)
    assert len(entries(tmp_path)) == 2 * len(first)
    assert {entry: (entry / RECORD_FILE).stat().st_ino for entry in first} == first


def test_an_interrupted_writing_leaves_nothing_that_looks_complete(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packed_graphs, "atomic_write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        image(bundle, tmp_path)
    assert not entries(tmp_path) and not list(tmp_path.glob("*/.*"))
    monkeypatch.undo()
    # A kill that cannot be caught leaves what was written so far.
    folder = next(iter(tmp_path.iterdir()))
    for name in (".packed.partial-1-host", ".packed.lock"):
        (folder / name).mkdir() if "partial" in name else (folder / name).touch()
    image(bundle, tmp_path)
    assert len(entries(tmp_path)) == 3 and not list(tmp_path.glob("*/.*"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("cut", r"model\.onnx\.data has 7 bytes, but record\.json says \d+"),
        ("no record", r"it is not complete \(.*record\.json"),
        ("empty record", r"it is not complete"),
        ("garbage", r"onnxruntime cannot open it"),
    ],
)
def test_a_corrupt_entry_is_made_anew_in_one_line(
    bundle: Bundle, tmp_path: Path, damage: str, reason: str
) -> None:
    expected = image(bundle, tmp_path)
    place = entry_of(tmp_path, "transformer")
    if damage == "cut":
        (place / DATA_FILE).write_bytes(b"7 bytes")
    elif damage == "no record":
        (place / RECORD_FILE).unlink()
    elif damage == "empty record":
        (place / RECORD_FILE).write_text("{}\n")
    else:
        size = (place / MODEL_FILE).stat().st_size
        (place / MODEL_FILE).write_bytes(b"\xff" * size)
    with pytest.warns(CacheWarning, match=rf"packed: .*{reason}.*; it is made anew$") as caught:
        assert np.array_equal(image(bundle, tmp_path), expected)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(image(bundle, tmp_path), expected)


def test_an_entry_stays_where_nothing_opens(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little memory, say: it is no fault of the entry, and the next start is to have it."""
    expected = image(bundle, tmp_path)
    files = {file: file.stat().st_ino for file in tmp_path.rglob("*")}

    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeFailure("onnxruntime cannot open it: bad allocation")

    monkeypatch.setattr(runtime, "open_session", failing)
    with pytest.raises(RuntimeFailure, match="bad allocation"):
        image(bundle, tmp_path)
    monkeypatch.undo()
    assert {file: file.stat().st_ino for file in tmp_path.rglob("*")} == files
    assert np.array_equal(image(bundle, tmp_path), expected)


def test_an_entry_is_made_anew_before_anything_is_said(bundle: Bundle, tmp_path: Path) -> None:
    """Where warnings are errors, the next start must not meet the same entry."""
    image(bundle, tmp_path)
    (entry_of(tmp_path, "transformer") / DATA_FILE).write_bytes(b"7 bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CacheWarning, match="it is made anew"):
            image(bundle, tmp_path)
        image(bundle, tmp_path)


def test_a_thread_waits_for_no_other_process(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C could not interrupt it; the caller waits in its place."""
    waits: list[tuple[str, float]] = []

    def locked(output: Path, wait_s: float) -> Any:
        waits.append((threading.current_thread().name, wait_s))
        if threading.current_thread() is not threading.main_thread():
            raise Minit2iError("process 1 is writing it")
        return output_lock(output, wait_s=wait_s)

    monkeypatch.setattr(packed_graphs, "output_lock", locked)
    expected = image(bundle, lean=True)
    assert np.array_equal(image(bundle, tmp_path, lean=True), expected)
    assert sorted(waits) == [("MainThread", 120.0)] * 2 + [("minit2i-opening", 0.0)]


def test_one_process_writes_an_entry(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(bundle, tmp_path)
    place = entry_of(tmp_path, "text_adapter")
    complete = place.rename(place.with_name("elsewhere"))
    monkeypatch.setattr(packed_graphs, "output_lock", lambda path, wait_s: output_lock(path))
    with output_lock(place), pytest.raises(Minit2iError, match=r"packed: process \d+ is writing"):
        image(bundle, tmp_path)

    # What the other one has written meanwhile is read.
    def finished(output: Path, wait_s: float) -> Any:
        complete.rename(place)
        return output_lock(output, wait_s=wait_s)

    monkeypatch.setattr(packed_graphs, "output_lock", finished)
    inode = (complete / RECORD_FILE).stat().st_ino
    image(bundle, tmp_path)
    assert (place / RECORD_FILE).stat().st_ino == inode


def test_too_little_room_is_one_line_before_anything_is_written(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
    with pytest.raises(UsageError, match=r"packed: needs 0\.0 GB, but 0\.0 GB are free there; f"):
        image(bundle, tmp_path)
    assert not entries(tmp_path)


def test_a_disk_that_is_full_meanwhile_is_named(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, save: Path | None = None, **__: Any) -> Any:
        raise RuntimeFailure("onnxruntime cannot open it: write failed")

    monkeypatch.setattr(runtime, "open_session", failing)
    monkeypatch.setattr(packed_graphs, "disk_is_full", lambda _: True)
    with pytest.raises(Minit2iError, match=r"packed: cannot be written: the disk is full$"):
        image(bundle, tmp_path)


def test_the_command_line_takes_a_folder(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, file = tmp_path / "cache", tmp_path / "state.npy"
    states = []
    for options in ((), ("--cache", cache), ("--cache", cache)):
        options = (*options, "--steps", 2, "--save-state", file, "-o", tmp_path / "a.png")
        assert run(capsys, "generate", bundle.path, "red", *options).code == 0
        states.append(file.read_bytes())
    assert states[0] == states[1] == states[2]
    assert len(entries(cache)) == 2
    options = ("--runtime", "torch", "--cache", cache, "-o", tmp_path / "a.png")
    done = run(capsys, "generate", bundle.path, "red", *options)
    assert done.code == 2 and "runtime torch has no --cache" in done.err


def test_a_cache_without_a_name_is_refused(bundle: Bundle) -> None:
    with (
        OnnxRuntime(bundle, cache="") as ort,
        pytest.raises(UsageError, match=r"^cache is empty; name a folder"),
    ):
        generate(bundle, ort, "red", table=TABLE)
