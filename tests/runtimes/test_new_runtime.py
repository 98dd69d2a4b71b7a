"""A runtime of one's own: one class and one line of registration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minit2i_deploy as m
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.runtimes import RUNTIMES
from minit2i_deploy.runtimes.base import BaseRuntime, SelfTest
from minit2i_deploy.solvers.row import Known, Row, advance
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

opened: list[dict[str, Any]] = []


class GreyRuntime(BaseRuntime):
    """Estimates the same grey everywhere."""

    name = "grey"
    runs_network = False

    def __init__(
        self, bundle: Bundle, *, threads: int = 0, device: int = 0, shade: float = 0.5
    ) -> None:
        super().__init__(bundle)
        opened.append({"threads": threads, "device": device, "shade": shade})
        self.shade = shade

    @classmethod
    def self_tests(cls) -> list[SelfTest]:
        """One that is right."""
        return [SelfTest(label="grey", options={"shade": 0.25}, run=lambda: 0.0)]

    def _encode(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.ones((*ids.shape, self.bundle.config.txt_input_size), np.float32)

    def _adapt(
        self, context: np.ndarray, mask: np.ndarray, conditions: np.ndarray | None
    ) -> np.ndarray:
        config = self.bundle.config
        return np.ones((len(context), config.num_text_tokens, config.hidden_size), np.float32)

    def _start(
        self, x: np.ndarray, tokens: np.ndarray, known: Known | None = None
    ) -> GreyTrajectory:
        return GreyTrajectory(x, self.shade, known)


class GreyTrajectory:
    """The state of one batch."""

    def __init__(self, x: np.ndarray, shade: float, known: Known | None) -> None:
        self._x, self._h, self._shade = x, np.zeros_like(x), np.float32(shade)
        self._known = known

    def step(self, row: Row, noise: np.ndarray | None = None) -> None:
        x0 = np.full((len(row.weights), *self._x.shape), self._shade)
        self._x, self._h = advance(self._x, self._h, x0, row.weights, row.values, self._known)

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        return self._x.copy(), self._h.copy()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    opened.clear()
    monkeypatch.setitem(RUNTIMES, "grey", "tests.runtimes.test_new_runtime:GreyRuntime")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("grey") / "bundle"))


def test_in_python(bundle: Bundle) -> None:
    with m.open_runtime(bundle, "grey", shade=-0.25) as runtime:
        assert np.abs(m.generate(bundle, runtime, "red").x + 0.25).max() < 1e-5
        assert m.embed(bundle, runtime, ["red"]).values.shape[0] == 1
        assert repr(runtime) == f"<GreyRuntime of {bundle.path}>"
    assert repr(runtime).endswith(", closed>")
    with pytest.raises(RuntimeFailure, match="runtime grey is closed"):
        m.generate(bundle, runtime, "red")
    with pytest.raises(UsageError, match="has no option colour; it has threads, device, shade"):
        m.open_runtime(bundle, "grey", colour=1)


def test_on_the_command_line(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.png"
    options = ["--runtime", "grey", "--threads", "3", "--device", "2"]
    done = run(capsys, "generate", bundle.path, "red", "-o", out, *options)
    assert (done.code, done.err) == (0, "")
    assert opened == [{"threads": 3, "device": 2, "shade": 0.5}]
    done = run(capsys, "generate", bundle.path, "red", "-o", out, *options[:2], "--provider", "x")
    message = "runtime grey has no --provider; it takes "
    assert (done.code, message in done.err) == (2, True)
    done = run(capsys, "generate", bundle.path, "red", "-o", out, *options[:2], "--device", "x")
    assert (done.code, "expected the index of a GPU for runtime grey" in done.err) == (2, True)
    assert "grey" in run(capsys, "generate", bundle.path, "red", "--runtime", "tpu").err
    assert "grey" in " ".join(run(capsys, "generate", "--help").out.split())
    done = run(capsys, "bench", bundle.path, "--runtime", "fake", "--against", "grey", "--threads",
               "3", "--repeats", "1", "--texts", "2", "--json")  # fmt: skip
    # Threads of the first engine are those of the second, and the first has none.
    assert (done.code, "runtime fake has no --threads" in done.err) == (2, True)


def test_in_doctor(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads(run(capsys, "doctor", bundle.path, "--json").out)
    (item,) = [item for item in values["engines"] if item["engine"] == "grey"]
    assert item["state"] == "works" and item["row_s"] >= 0
    assert opened[-1]["shade"] == 0.25
    assert values["runtime_options"]["grey"][2] == "shade: float = 0.5"
