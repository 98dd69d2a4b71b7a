"""Folders of compiled graphs: another graph, library, device or precision is another folder."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import FileInfo
from minit2i_deploy.errors import SettingIgnoredWarning, UsageError
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.compiled_cache import KEY_FILE, cache_folder, cache_key, device_name
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from tests.helpers.bundles import write_bundle
from tests.helpers.fakes.fake_onnxruntime import FakeOrt
from tests.helpers.tiny_bundle import tiny_bundle

WORDS = {"library": "openvino", "version": "2026.4", "device": "cpu", "precision": "fp32"}
IDS = np.array([[5, 6, 1]], np.int64)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


@pytest.mark.parametrize("field", list(WORDS))
def test_what_a_compiled_graph_depends_on_is_in_its_key(
    bundle: Bundle, tmp_path: Path, field: str
) -> None:
    first = cache_key(bundle, "transformer", **WORDS)
    other = cache_key(bundle, "transformer", **{**WORDS, field: "another"})
    assert cache_folder(tmp_path, first) == cache_folder(tmp_path, dict(reversed(first.items())))
    assert cache_folder(tmp_path, other) != cache_folder(tmp_path, first)
    assert json.loads((cache_folder(tmp_path, first) / KEY_FILE).read_text()) == first


@pytest.mark.parametrize("suffix", [".onnx", ".onnx.data"])
def test_other_weights_are_another_folder(bundle: Bundle, suffix: str) -> None:
    name = f"transformer/model{suffix}"
    files = dict(bundle.manifest.files)
    files[name] = FileInfo(sha256="0" * 64, bytes=files[name].bytes)
    manifest = dataclasses.replace(bundle.manifest, files=files)
    changed = dataclasses.replace(bundle, manifest=manifest)
    for graph, same in (("transformer", False), ("text_encoder", True)):
        keys = [cache_key(b, graph, **WORDS) for b in (bundle, changed)]
        assert (keys[0] == keys[1]) is same
    assert files[name].sha256 in cache_key(changed, "transformer", **WORDS).values()


def test_openvino_keeps_its_graphs_there(bundle: Bundle, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    actual = []
    for _ in range(2):
        with open_runtime(bundle, "openvino", threads=1, cache=tmp_path) as runtime:
            actual.append(runtime.encode(IDS, np.ones_like(IDS)))
    assert np.array_equal(*actual)
    (folder,) = tmp_path.iterdir()
    key = json.loads((folder / KEY_FILE).read_text())
    assert key["version"] == openvino.__version__
    assert (key["graph"], key["precision"]) == ("text_encoder", "fp32")
    assert key["device"] == device_name("cpu")
    # What OpenVINO compiled, once.
    assert len(list(folder.glob("*.blob"))) == 1


def test_onnxruntime_gives_each_graph_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = FakeOrt(("TensorrtExecutionProvider",))
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    bundle = Bundle.open(write_bundle(tmp_path / "bundle"))
    with OnnxRuntime(bundle, provider="tensorrt", cache=tmp_path / "cache") as runtime:
        for graph in ("text_encoder", "transformer"):
            runtime._session(graph)
    places = {
        session.provider_options["TensorrtExecutionProvider"]["trt_engine_cache_path"]
        for session in ort.sessions
    }
    keys = [json.loads((Path(place) / KEY_FILE).read_text()) for place in places]
    assert sorted(key["graph"] for key in keys) == ["text_encoder", "transformer"]
    assert all(key["library"] == "onnxruntime:tensorrt" for key in keys)
    assert all(key["version"] == ort.__version__ for key in keys)


def test_a_provider_that_compiles_nothing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = FakeOrt(("CUDAExecutionProvider",))
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    bundle = Bundle.open(write_bundle(tmp_path / "bundle"))
    with (
        pytest.warns(SettingIgnoredWarning, match=r"^provider cuda compiles nothing of a graph"),
        OnnxRuntime(bundle, provider="cuda", cache=tmp_path / "cache") as runtime,
    ):
        assert runtime.provider == "cuda"


def test_devices_are_told_apart(tmp_path: Path) -> None:
    assert device_name("cuda", tmp_path) == "cuda"
    for index, model in enumerate(("Model: \t NVIDIA L4", "Model: NVIDIA H200")):
        (tmp_path / f"gpus/{index}").mkdir(parents=True)
        (tmp_path / f"gpus/{index}/information").write_text(f"{model}\nIRQ: 5\n")
    (tmp_path / "version").write_text("NVRM version: 570.1\nGCC version: 12\n")
    name = device_name("cuda", tmp_path)
    assert name == "Model: NVIDIA L4; Model: NVIDIA H200; NVRM version: 570.1"
    assert len(device_name("cpu").split()) >= 2


def test_a_cache_that_cannot_be_written_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/.*cannot be made .*name a cache folder you can"):
        cache_folder(tmp_path / "file", cache_key(bundle, "transformer", **WORDS))
