"""The gate that keeps calls to CUDA out of recordings of other threads."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import pytest

from minit2i_deploy.runtimes.cuda.capture_gate import CaptureGate

SECONDS: Final = 20


@pytest.fixture
def gate() -> CaptureGate:
    return CaptureGate()


def is_free(gate: CaptureGate) -> bool:
    """Whether another thread may record at once."""

    def record() -> None:
        with gate.alone():
            pass

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    thread.join(0.1)
    return not thread.is_alive()


def in_turn(*works: Callable[[], None]) -> list[Future[None]]:
    pool = ThreadPoolExecutor(len(works))
    futures = [pool.submit(work) for work in works]
    pool.shutdown(wait=False)
    return futures


def test_a_recording_waits_for_calls_and_keeps_new_ones_out(gate: CaptureGate) -> None:
    order: list[str] = []
    calls, asks, recorded = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        with gate.shared():
            calls.set()
            asks.wait(SECONDS)
            order.append("call")

    def record() -> None:
        calls.wait(SECONDS)
        asks.set()
        with gate.alone():
            order.append("recording")
            # The late call is waiting by now, or comes later.
            recorded.wait(0.05)
            order.append("recorded")

    def late_call() -> None:
        asks.wait(SECONDS)
        while "recording" not in order:
            pass
        with gate.shared():
            order.append("late call")
            recorded.set()

    for future in in_turn(call, record, late_call):
        future.result(SECONDS)
    assert order == ["call", "recording", "recorded", "late call"]


def test_what_waits_to_record_goes_before_new_calls(gate: CaptureGate) -> None:
    order: list[str] = []
    with gate.shared():

        def record() -> None:
            with gate.alone():
                order.append("recording")

        def call() -> None:
            while not gate._waiting:
                pass
            with gate.shared():
                order.append("call")

        futures = in_turn(record, call)
        # This thread's own further calls are let in, or it would wait for itself.
        while not gate._waiting:
            pass
        with gate.shared():
            order.append("own")
    for future in futures:
        future.result(SECONDS)
    assert order == ["own", "recording", "call"]


def test_two_calls_may_record_at_once(gate: CaptureGate) -> None:
    both, inside = threading.Barrier(2, timeout=SECONDS), []

    def call() -> None:
        with gate.shared():
            both.wait()
            with gate.alone():
                inside.append(gate._alone)
                # A destructor in the middle of it.
                with gate.shared():
                    assert gate._alone == threading.get_ident()
            with gate.shared():
                inside.append(gate._alone)

    for future in in_turn(call, call):
        future.result(SECONDS)
    assert inside.count(None) == 2 and len(set(inside)) == 3
    assert is_free(gate) and not gate._shares


def test_shares_are_counted(gate: CaptureGate) -> None:
    with gate.shared():
        with gate.shared():
            assert not is_free(gate)
        assert not is_free(gate)
    assert is_free(gate)


def test_a_destructor_may_take_a_share_at_any_line(gate: CaptureGate) -> None:
    class Collecting(Counter[int]):
        enters = 0

        def __getitem__(self, key: int) -> int:
            value = super().get(key, 0)
            if not self.enters:
                self.enters = 1
                with gate.shared():
                    pass
                self.enters = 0
            return value

    gate._shares = Collecting()
    with gate.shared():
        assert not is_free(gate)
    assert is_free(gate) and not gate._shares


def test_a_destructor_may_take_a_share_while_its_thread_waits_to_record(gate: CaptureGate) -> None:
    """It would wait for its own thread, and with it all of the process."""
    is_unused, shared = gate._is_unused, []

    def collecting() -> bool:
        if not shared:
            with gate.shared():
                shared.append(True)
        return is_unused()

    gate._is_unused = collecting  # type: ignore[method-assign]

    def record() -> None:
        with gate.alone():
            pass

    (future,) = in_turn(record)
    future.result(SECONDS)
    assert shared and is_free(gate) and not gate._shares


def test_what_is_called_without_the_share_may_wait_for_a_recording(gate: CaptureGate) -> None:
    def record() -> None:
        with gate.alone():
            pass

    with gate.shared():
        with gate.released():
            (future,) = in_turn(record)
            future.result(SECONDS)
        assert not is_free(gate)
    assert is_free(gate) and not gate._shares


class Stop(BaseException):
    """As KeyboardInterrupt comes."""


@pytest.mark.parametrize("waits", [1, 2])
def test_a_wait_that_is_stopped_leaves_the_gate_as_it_was(
    gate: CaptureGate, monkeypatch: pytest.MonkeyPatch, waits: int
) -> None:
    """The wait for the other threads, and the one for the share that was given up."""
    wait_for, seen = gate._changed.wait_for, []

    def stopped(condition: Callable[[], bool]) -> bool:
        seen.append(condition)
        if len(seen) == waits + 1:
            raise Stop
        return wait_for(condition)

    monkeypatch.setattr(gate._changed, "wait_for", stopped)
    with pytest.raises(Stop), gate.shared(), gate.alone():
        pass
    monkeypatch.undo()
    assert is_free(gate) and not gate._shares and not gate._waiting


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_has_a_free_gate() -> None:
    from minit2i_deploy.runtimes.cuda.capture_gate import CAPTURE_GATE

    held, ends = threading.Event(), threading.Event()

    def hold() -> None:
        with CAPTURE_GATE.alone():
            held.set()
            ends.wait(SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(SECONDS)
    child = os.fork()
    if child == 0:
        # In the parent this waits.
        with CAPTURE_GATE.shared():
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    ends.set()
    thread.join(SECONDS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_inside_a_share_may_record() -> None:
    from minit2i_deploy.runtimes.cuda.capture_gate import CAPTURE_GATE

    with CAPTURE_GATE.shared():
        child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        with CAPTURE_GATE.alone():
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
