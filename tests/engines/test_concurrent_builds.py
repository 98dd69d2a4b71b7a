"""Builds that run at once, are interrupted or killed: the cache stays intact."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.engines.cache import (
    cached_engines,
    engine_folder,
    engine_lock,
    fingerprint,
    new_engine,
    read_engine,
)
from minit2i_deploy.engines.sidecar import PLAN_FILE
from minit2i_deploy.errors import Minit2iError, RuntimeFailure, UsageError
from tests.engines.test_cache import bundle, key_of, put

__all__ = ["bundle"]


def test_one_build_at_a_time(bundle: Bundle) -> None:
    key = key_of(bundle)
    with engine_lock(bundle, key):
        with pytest.raises(Minit2iError, match=f"process {os.getpid()} is writing it"):
            with engine_lock(bundle, key):
                pass
        with engine_lock(bundle, key_of(bundle, targets=("sm86",))):
            pass
    with engine_lock(bundle, key):
        pass
    assert not (bundle.path / "engines").exists()


def test_a_build_waits_for_another(bundle: Bundle) -> None:
    key, order = key_of(bundle), []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with engine_lock(bundle, key):
            inside.set()
            leave.wait(10)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    leave.set()
    with engine_lock(bundle, key, wait_s=10):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_killed_build_leaves_no_lock(bundle: Bundle) -> None:
    key = key_of(bundle)
    lock = engine_folder(bundle, key).with_name(f".{fingerprint(key)}.lock")
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom minit2i_deploy.io.lock import output_lock\n"
        "with output_lock(Path(sys.argv[1])):\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(engine_folder(bundle, key))], check=False, timeout=60
    )
    assert lock.exists()
    with engine_lock(bundle, key):
        pass
    assert not lock.exists()


def test_an_interrupted_write_leaves_nothing(bundle: Bundle) -> None:
    key = key_of(bundle)
    with pytest.raises(KeyboardInterrupt), engine_lock(bundle, key), new_engine(bundle, key) as new:
        (new / PLAN_FILE).write_bytes(b"half")
        assert list(cached_engines(bundle)) == []
        raise KeyboardInterrupt
    assert not (bundle.path / "engines").exists()


def test_leftovers_of_a_killed_build_are_removed(bundle: Bundle) -> None:
    key = key_of(bundle)
    leftover = engine_folder(bundle, key).with_name(f".{fingerprint(key)}.partial-1")
    leftover.mkdir(parents=True)
    (leftover / PLAN_FILE).write_bytes(b"half")
    assert list(cached_engines(bundle)) == []
    put(bundle, key)
    assert not leftover.exists()


def test_a_failed_rebuild_keeps_the_old_engine(bundle: Bundle) -> None:
    key = key_of(bundle)
    put(bundle, key)
    with pytest.raises(RuntimeFailure), new_engine(bundle, key):
        raise RuntimeFailure("no")
    assert read_engine(bundle, key).plan.read_bytes() == b"plan" * 100


def test_an_engines_file_in_place_of_the_folder_is_named(bundle: Bundle) -> None:
    (bundle.path / "engines").write_text("not a folder")
    assert list(cached_engines(bundle)) == []
    with pytest.raises(UsageError, match="cannot be written"):
        put(bundle, key_of(bundle))
