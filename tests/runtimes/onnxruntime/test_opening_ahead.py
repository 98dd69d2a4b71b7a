"""A lean denoiser is opened on a thread, after the encoder has left memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.evaluation.reference_outputs import adapter_inputs
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from tests.helpers.tiny_bundle import tiny_bundle

IDS = np.array([[5, 6, 1]], np.int64)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, list[str]]]:
    """Of each opening: its graph, whether the caller's thread does it, what is open then."""
    notes: list[tuple[str, bool, list[str]]] = []
    real, caller = OnnxRuntime._opened, threading.current_thread()

    def spied(self: OnnxRuntime, graph: str, **settings: Any) -> Any:
        is_open = [] if "text_encoder" not in self._sessions else ["text_encoder"]
        notes.append((graph, threading.current_thread() is caller, is_open))
        return real(self, graph, **settings)

    monkeypatch.setattr(OnnxRuntime, "_opened", spied)
    return notes


def start(bundle: Bundle, runtime: OnnxRuntime, adapted: np.ndarray) -> None:
    shape = (1, 3, bundle.config.image_size, bundle.config.image_size)
    runtime.start(np.zeros(shape, np.float32), adapted[None])


def test_the_denoiser_is_opened_beside_the_adapter_without_the_encoder(
    bundle: Bundle, openings: list[tuple[str, bool, list[str]]]
) -> None:
    with OnnxRuntime(bundle, threads=1, lean=True) as runtime:
        runtime.encode(IDS, np.ones_like(IDS))
        adapted = runtime.adapt(*adapter_inputs(bundle))
        start(bundle, runtime, adapted)
        # The next image opens nothing.
        start(bundle, runtime, runtime.adapt(*adapter_inputs(bundle)))
    assert sorted(openings) == [
        ("text_adapter", True, []),
        ("text_encoder", True, []),
        ("transformer", False, []),
    ]


def test_without_lean_every_graph_is_opened_at_its_first_use(
    bundle: Bundle, openings: list[tuple[str, bool, list[str]]]
) -> None:
    with OnnxRuntime(bundle, threads=1) as runtime:
        runtime.encode(IDS, np.ones_like(IDS))
        adapted = runtime.adapt(*adapter_inputs(bundle))
        assert [name for name, _, _ in openings] == ["text_encoder", "text_adapter"]
        start(bundle, runtime, adapted)
    assert openings[-1] == ("transformer", True, ["text_encoder"])


def test_a_denoiser_that_does_not_open_fails_where_it_is_used(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OnnxRuntime._opened

    def failing(self: OnnxRuntime, graph: str, **settings: Any) -> Any:
        if graph == "transformer":
            raise RuntimeFailure(f"{graph}: onnxruntime cannot open it")
        return real(self, graph, **settings)

    monkeypatch.setattr(OnnxRuntime, "_opened", failing)
    with OnnxRuntime(bundle, threads=1, lean=True) as runtime:
        adapted = runtime.adapt(*adapter_inputs(bundle))
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match=r"^transformer: onnxruntime cannot open it$"):
                start(bundle, runtime, adapted)


def test_closing_waits_for_an_opening_and_frees_it(bundle: Bundle) -> None:
    runtime = OnnxRuntime(bundle, threads=1, lean=True)
    runtime.adapt(*adapter_inputs(bundle))
    runtime.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "minit2i-opening"]
    assert runtime._ahead is None and not runtime._sessions
