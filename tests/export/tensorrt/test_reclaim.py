"""Memory that a build gives back: the mapped pages of its weights, and nothing that was written."""

from __future__ import annotations

import ctypes
import mmap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.engines.key import BuildFlags
from minit2i_deploy.export.tensorrt import BuildLibrary, build_engine, memory_reclaim
from minit2i_deploy.export.tensorrt import build as build_module
from minit2i_deploy.export.tensorrt.memory_reclaim import mappings, reclaiming
from tests.helpers.engine_bundles import ASSETS, FORMS, demo_bundle

# On a disk, as bundles are: pages of a file in a memory file system have nowhere to go.
WEIGHTS = ASSETS / "model" / "ema.safetensors"


def resident_bytes(address: int) -> int:
    """Of the mapping that begins there, as the system counts it."""
    lines = iter(Path("/proc/self/smaps").read_text("utf-8", "replace").splitlines())
    for line in lines:
        if line.split("-")[0] == f"{address:x}":
            break
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))


def address_of(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_mappings_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a name with spaces"
    path.write_bytes(bytes(3 * mmap.PAGESIZE))
    assert mappings(path) == [] == mappings(tmp_path / "missing")
    mapped = np.memmap(path, mode="r")
    begin = address_of(mapped)
    assert mappings(path) == [(begin, begin + 3 * mmap.PAGESIZE)]
    del mapped
    assert mappings(path) == []


def test_pages_that_were_read_go_back_and_can_be_read_again() -> None:
    weights = np.memmap(WEIGHTS, mode="r")
    before = bytes(weights)
    assert resident_bytes(address_of(weights)) > 0.9 * len(before)
    memory_reclaim.reclaim(WEIGHTS)
    assert resident_bytes(address_of(weights)) < 0.5 * len(before)
    assert bytes(weights) == before


def test_what_was_written_is_never_lost(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(64 * mmap.PAGESIZE))
    private = np.memmap(path, mode="c")
    private[:] = 7
    memory_reclaim.reclaim(path)
    assert (private == 7).all()
    # A private copy of its pages: the file is as it was.
    assert path.read_bytes() == bytes(64 * mmap.PAGESIZE)


def test_it_works_beside_the_block_and_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    thrice = threading.Event()

    def note(data_file: Path) -> None:
        calls.append(data_file)
        if len(calls) == 3:
            thrice.set()

    monkeypatch.setattr(memory_reclaim, "_EVERY_S", 0.01)
    monkeypatch.setattr(memory_reclaim, "reclaim", note)
    with pytest.raises(KeyboardInterrupt), reclaiming(WEIGHTS):
        assert thrice.wait(60)
        raise KeyboardInterrupt
    assert len(calls) >= 4 and set(calls) == {WEIGHTS}
    assert not any(thread.name == "reclaim" for thread in threading.enumerate())


@pytest.mark.parametrize("library", [None, object()], ids=["none", "without the calls"])
def test_a_system_without_the_calls_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    def open_library(name: None) -> Any:
        if library is None:
            raise TypeError("no such library")
        return library

    monkeypatch.setattr(ctypes, "CDLL", open_library)
    monkeypatch.setattr(memory_reclaim, "_MAPS", Path("/missing"))
    memory_reclaim.reclaim(WEIGHTS)
    assert mappings(WEIGHTS) == []


def test_a_build_is_the_same_with_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = demo_bundle(*FORMS[0]).graph_path("text_adapter")
    calls: list[Path] = []

    def build(name: str) -> bytes:
        plan = tmp_path / name
        build_engine(
            BuildLibrary.open("tensorrt_rtx"),
            graph,
            plan,
            sizes={"n": (1, 1, 4)},
            targets=("sm89",),
            flags=BuildFlags(),
            precision="fp16",
        )
        return plan.read_bytes()

    def often(data_file: Path) -> Any:
        calls.append(data_file)
        return reclaiming(data_file)

    monkeypatch.setattr(memory_reclaim, "_EVERY_S", 0.01)
    monkeypatch.setattr(build_module, "reclaiming", often)
    first = build("a")
    monkeypatch.setattr(memory_reclaim, "reclaim", lambda data_file: None)
    assert build("b") == first
    assert calls == [Path(f"{graph}.data")] * 2
