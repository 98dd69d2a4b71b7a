"""Threads share a runtime, one call at a time; a fork does not."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minit2i_deploy as m
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.runtimes.guard import Guard
from tests.helpers.tiny_bundle import tiny_bundle

ENGINES = ["onnxruntime", "openvino", "torch", "fake"]
TABLE = m.solver_table("euler", steps=3)
TEXTS = [f"{n}{c}" for n in ("", "a ", "1 2 ") for c in ("red", "blue", "cat")]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


@contextlib.contextmanager
def no_switches() -> Any:
    """Threads change as often as they can, which shows what they share."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_threads(work: Callable[[int], None], count: int = 4) -> None:
    """Run the same work in several threads at once; the first error is raised."""
    errors: list[BaseException] = []

    def one(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def open_engine(bundle: Bundle, name: str) -> Runtime:
    pytest.importorskip(name) if name != "fake" else None
    return m.open_runtime(bundle, name)


@pytest.mark.parametrize("name", ENGINES)
def test_threads_get_their_own_values(bundle: Bundle, name: str) -> None:
    with open_engine(bundle, name) as runtime:
        # One text a batch, as the threads ask for them.
        expected = {text: m.embed(bundle, runtime, [text]).values for text in TEXTS}
        images = {text: m.generate(bundle, runtime, text, table=TABLE).x for text in TEXTS[:4]}
    with no_switches(), open_engine(bundle, name) as runtime:

        def work(index: int) -> None:
            for text in TEXTS[index:] + TEXTS[:index]:
                values = m.embed(bundle, runtime, [text]).values
                assert np.abs(values - expected[text]).max() <= 1e-5, text
            x = m.generate(bundle, runtime, TEXTS[index], table=TABLE).x
            assert np.abs(x - images[TEXTS[index]]).max() <= 1e-4, TEXTS[index]

        in_threads(work)
        # What the runtime keeps is right as well.
        for text in TEXTS:
            assert np.abs(m.embed(bundle, runtime, [text]).values - expected[text]).max() <= 1e-5


def test_closing_waits_for_the_running_call() -> None:
    guard, inside, end = Guard("toy", lambda: 0), threading.Event(), threading.Event()
    freed: list[str] = []

    def work() -> None:
        with guard.call():
            inside.set()
            end.wait(10)
            freed.append("call done")

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)
    closing = threading.Thread(target=lambda: guard.close(lambda: freed.append("freed")))
    closing.start()
    end.set()
    thread.join()
    closing.join()
    guard.close(lambda: freed.append("twice"))
    assert freed == ["call done", "freed"]
    with pytest.raises(RuntimeFailure, match="runtime toy is closed"), guard.call():
        pass


FORK = """
import os, sys
import minit2i_deploy as m
name, path = sys.argv[1:]
bundle = m.Bundle.open(path)
options = {} if name in ("torch", "fake") else {"threads": 2}
with m.open_runtime(bundle, name, **options) as runtime:
    m.generate(bundle, runtime, "red", table=m.solver_table("euler", steps=2))
    child = os.fork()
    if child == 0:
        try:
            m.generate(bundle, runtime, "blue")
        except m.RuntimeFailure as error:
            print(error, flush=True)
        # Closes the runtime, and ends as any program does.
        sys.exit(7)
    _, status = os.waitpid(child, 0)
    m.generate(bundle, runtime, "blue", table=m.solver_table("euler", steps=2))
    print("status", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("name", ENGINES)
def test_a_fork_is_refused_and_ends(bundle: Bundle, name: str) -> None:
    if name != "fake":
        pytest.importorskip(name)
    command = [sys.executable, "-W", "ignore", "-c", FORK, name, str(bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert f"runtime {name} was opened in process " in first
    assert first.endswith("open a runtime in each process, after the fork")
    assert last == "status 7"
