"""Which engine --device auto opens, and what it says; what named engines refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support import engine_opening
from minit2i_deploy.cli.support.options.engine_options import EngineOptions
from minit2i_deploy.errors import MissingDependencyError, RuntimeFailure
from minit2i_deploy.runtimes.fake import FakeRuntime
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

OPEN = "minit2i_deploy.runtimes.open_runtime"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle named b in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return Bundle.open(write_bundle(tmp_path / "b"))


def opener(opened: list[Any], *working: str) -> Callable[..., FakeRuntime]:
    """An ``open_runtime`` in whose place only some engines work."""

    def stub(bundle: Bundle, name: str, **options: Any) -> FakeRuntime:
        opened.append((name, options))
        spec = f"{name}:{options.get('provider', '')}".rstrip(":")
        if spec not in working:
            raise MissingDependencyError(f"{spec} is not installed")
        runtime = FakeRuntime(bundle)
        runtime.name = name
        return runtime

    return stub


@pytest.mark.parametrize(
    ("has_gpu", "working", "opened"),
    [
        (True, ("onnxruntime:cuda", "openvino", "onnxruntime"), "onnxruntime:cuda"),
        (True, ("torch", "openvino", "onnxruntime"), "torch"),
        (True, ("onnxruntime",), "onnxruntime"),
        (False, ("torch", "openvino", "onnxruntime"), "openvino"),
        (False, ("onnxruntime",), "onnxruntime"),
    ],
)
def test_the_fastest_that_works_is_opened_and_named(
    has_gpu: bool,
    working: tuple[str, ...],
    opened: str,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(engine_opening, "has_nvidia_driver", lambda: has_gpu)
    monkeypatch.setattr(OPEN, opener([], *working))
    done = run(capsys, "generate", "b", "red", "--device", "auto", "-o", "x.png")
    assert (done.code, done.err) == (0, f"minit2i: device auto: {opened}\n")


def test_threads_go_to_the_cpu(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(engine_opening, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(OPEN, opener(opened, "onnxruntime"))
    arguments = ("embed", "b", "red", "-o", "x.npz", "--device", "auto", "--threads", 2)
    assert run(capsys, *arguments).code == 0
    assert opened == [
        ("onnxruntime", {"provider": "cuda"}),
        ("torch", {"device": "cuda:0"}),
        ("openvino", {"threads": 2}),
        ("onnxruntime", {"threads": 2}),
    ]


@pytest.mark.filterwarnings("default")
def test_a_cache_that_auto_does_not_use_is_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_opening, "has_nvidia_driver", lambda: True)
    arguments = ("embed", "b", "red", "-o", "x.npz", "--device", "auto", "--cache", "kept")
    monkeypatch.setattr(OPEN, opener([], "onnxruntime:cuda"))
    done = run(capsys, *arguments)
    assert done.code == 0
    assert "onnxruntime:cuda, chosen by auto, gets no cache; --cache has no effect" in done.err
    opened: list[Any] = []
    monkeypatch.setattr(OPEN, opener(opened, "openvino"))
    done = run(capsys, *arguments)
    assert (done.code, done.err) == (0, "minit2i: device auto: openvino\n")
    assert opened[-1] == ("openvino", {"cache": "kept"})


def test_short_forms_get_threads_and_cache_where_they_have_such() -> None:
    beside = EngineOptions(
        runtime="openvino", provider=None, precision=None, device=None, threads=3, cache="kept"
    )
    for spec, threads, cache in (("onnxruntime", 3, "kept"), ("torch", None, None)):
        engine = EngineOptions.from_spec(spec, beside=beside)
        assert (engine.threads, engine.cache) == (threads, cache)


def test_an_engine_without_kernels_is_passed_over(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def runs(self: FakeRuntime, precision: str) -> bool:
        return self.name != "openvino"

    monkeypatch.setattr(FakeRuntime, "runs_precision", runs)
    monkeypatch.setattr(engine_opening, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(OPEN, opener([], "openvino", "onnxruntime"))
    done = run(capsys, "generate", "b", "red", "--device", "auto", "-o", "x.png")
    assert (done.code, done.err) == (0, "minit2i: device auto: onnxruntime\n")


def test_no_engine_lists_the_reasons(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bundle: Bundle, name: str, **options: Any) -> FakeRuntime:
        raise RuntimeFailure(f"{name} is broken")

    monkeypatch.setattr(engine_opening, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(OPEN, broken)
    done = run(capsys, "generate", "b", "red", "--device", "auto")
    assert done.code == 1
    assert "openvino: openvino is broken; onnxruntime: onnxruntime is broken" in done.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runtime", "fake"), "--device auto and --runtime are mutually exclusive"),
        (("--provider", "cpu"), "--device auto and --provider are mutually exclusive"),
    ],
)
def test_auto_excludes_a_choice(
    arguments: tuple[str, ...], message: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "generate", "b", "red", "--device", "auto", *arguments)
    assert (done.code, done.error) == (2, message)
