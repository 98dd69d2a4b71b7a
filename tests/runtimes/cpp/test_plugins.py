"""The C++ client's plugin providers: their options, their results, what is refused."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.onnxruntime.provider_options import ProviderSettings, plugin_options
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from minit2i_deploy.text.embed import embed
from tests.helpers import cpp_client
from tests.helpers.cpp_bundles import edit, switch_bundle
from tests.helpers.cpp_client import OK, ROOT, RUNTIME, USAGE, Client, program, refused
from tests.helpers.cpp_plugins import idle_plugin, is_intel, openvino_plugin
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp

TEXTS = ("a red circle", "", "green")
FROM_OPENVINO = "package onnxruntime-ep-openvino"


def results(folder: Path, bundle: Path, *options: object) -> dict[str, Any]:
    """Embeddings, an image and its state, by the programs."""
    folder.mkdir()
    program("minit2i-embed", bundle, *TEXTS, "--threads", 2, *options, "-o", folder / "a.npz")
    state = ("-o", folder / "a.png", "--save-state", folder / "a.npy")
    options = (*options, "--seed", 5, "--threads", 2)
    program("minit2i-generate", bundle, "a red circle", *options, *state)
    values = np.load(folder / "a.npz")["values"]
    image = (folder / "a.png").read_bytes()
    return {"values": values, "state": np.load(folder / "a.npy"), "image": image}


@pytest.mark.parametrize("precision", [None, "fp32", "bf16"])
def test_a_plugin_gets_the_options_that_python_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str | None
) -> None:
    """And one that takes no node leaves every value as it is on provider cpu."""
    bundle = tiny_bundle() if precision is None else switch_bundle()
    monkeypatch.setenv("MINIT2I_IDLE_RECORD", str(tmp_path / "options.txt"))
    arguments: tuple[object, ...] = ("--provider", "openvino", "--plugin", idle_plugin())
    arguments += () if precision is None else ("--precision", precision)
    actual = results(tmp_path / "plugin", bundle, *arguments)
    settings = ProviderSettings(precision=precision, threads=2)
    options = plugin_options(PROVIDERS["openvino"], settings)
    lines = [f"ep.openvinoexecutionprovider.{key}={value}" for key, value in options.items()]
    # The text encoder in both programs, the adapter, and the step graphs.
    graphs = 4 if precision is None else 5
    assert (tmp_path / "options.txt").read_text().splitlines() == lines * graphs
    expected = results(tmp_path / "cpu", bundle)
    assert np.array_equal(actual["values"], expected["values"])
    assert np.array_equal(actual["state"], expected["state"])
    assert actual["image"] == expected["image"]


# Measured with a plugin changed to list another maker's processor: 2.6e-7 and 1.3e-6 in fp32,
# 6.2e-3 and 1.2e-2 in bf16.
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 5e-2)])
def test_the_plugin_of_openvino(tmp_path: Path, precision: str, bound: float) -> None:
    options = ("--provider", "openvino", "--plugin", openvino_plugin(), "--precision", precision)
    if not is_intel():
        for name, file in (("minit2i-embed", "a.npz"), ("minit2i-generate", "a.png")):
            line = program(name, tiny_bundle(), "a", *options, "-o", tmp_path / file, code=1)
            assert line == (
                f"{name}: error: provider openvino: plugin {openvino_plugin()} finds no device "
                "here, because it takes those of Intel only; provider cpu runs on any processor\n"
            )
        assert list(tmp_path.iterdir()) == []
        return
    actual = results(tmp_path / "plugin", tiny_bundle(), *options)
    expected = results(tmp_path / "cpu", tiny_bundle())
    for key in ("values", "state"):
        assert np.abs(actual[key] - expected[key]).max() <= bound * np.abs(expected[key]).max()


MISSING = "is missing or not a file; pass the library of package"
# Fields of ModelParams or options; the status; the end of the line.
REFUSALS: list[tuple[dict[str, str], int, str]] = [
    ({"provider": "openvino"}, USAGE,
     f"is a plugin, but plugin is not set; pass the path of the library in {FROM_OPENVINO}"),
    ({"provider": "tensorrt-rtx", "precision": "bf16", "plugin": "PLUGIN"}, USAGE,
     "provider tensorrt-rtx cannot be asked for precision 'bf16'; it has none: it computes as the "
     "graph says"),
    ({"precision": "fp32"}, USAGE, "provider cpu cannot be asked for precision 'fp32'; it has "
     "none: it computes as the graph says"),
    ({"provider": "cuda", "precision": "bf16"}, USAGE,
     "provider cuda cannot be asked for precision 'bf16'; it has fp32, tf32"),
    ({"provider": "openvino", "precision": "fp16", "plugin": "PLUGIN"}, USAGE,
     "provider openvino cannot be asked for precision 'fp16'; it has fp32, bf16"),
    ({"provider": "openvino", "precision": "", "plugin": "PLUGIN"}, USAGE,
     "provider openvino cannot be asked for precision ''; it has fp32, bf16"),
    *(({"provider": name, "plugin": "PLUGIN"}, USAGE,
       f"provider {name} is not a plugin, but plugin is PLUGIN; omit it, or choose the "
       "provider that it brings") for name in ("cpu", "cuda", "tensorrt")),
    ({"provider": "OpenVINO", "plugin": "PLUGIN"}, USAGE, "provider 'OpenVINO' is unknown; choose "
     "one of cpu, cuda, tensorrt, openvino, tensorrt-rtx"),
    ({"provider": "openvino", "plugin": "nowhere.so"}, USAGE,
     f"plugin nowhere.so {MISSING} onnxruntime-ep-openvino"),
    ({"provider": "tensorrt-rtx", "plugin": "FOLDER"}, USAGE,
     f"plugin FOLDER {MISSING} onnxruntime-ep-nv-tensorrt-rtx-cu13"),
    ({"provider": "tensorrt-rtx", "plugin": "TEXT"}, RUNTIME, "TEXT: file too short"),
    ({"provider": "tensorrt-rtx", "plugin": "OTHER"}, RUNTIME,
     "undefined symbol: CreateEpFactories"),
    ({"provider": "tensorrt-rtx", "plugin": "PLUGIN"}, RUNTIME,
     "provider tensorrt-rtx: plugin PLUGIN brings OpenVINOExecutionProvider.AUTO, "
     "OpenVINOExecutionProvider, but NvTensorRTRTXExecutionProvider is needed; pass the library of "
     "package onnxruntime-ep-nv-tensorrt-rtx-cu13"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "status", "line"), REFUSALS)
def test_refusals(tmp_path: Path, settings: dict[str, str], status: int, line: str) -> None:
    folder, text = tmp_path / "folder", tmp_path / "text.so"
    folder.mkdir()
    text.write_text("no library")
    other = cpp_client.build() / "libminit2i.so"
    places = {"PLUGIN": idle_plugin(), "FOLDER": folder, "TEXT": text, "OTHER": other}
    fields = {name: str(places.get(value, value)) for name, value in settings.items()}
    for name, place in places.items():
        line = line.replace(name, str(place))
    encoded = {name: value.encode() for name, value in fields.items()}
    # Twice: nothing of the first time may remain.
    for _ in range(2):
        actual, error = refused(tiny_bundle(), cpp_client.model_params(**encoded))
        assert (actual, "\n" in error) == (status, False)
        assert error.endswith(line) and error.startswith(("provider ", "plugin "))
    options = [item for name, value in fields.items() for item in (f"--{name}", value)]
    code = 2 if status == USAGE else 1
    for name, file in (("minit2i-embed", "a.npz"), ("minit2i-generate", "a.png")):
        error = program(name, tiny_bundle(), "a", *options, "-o", tmp_path / file, code=code)
        assert error.startswith(f"{name}: error: p") and error.endswith(f"{line}\n")
        assert error.count("\n") == 1 and not (tmp_path / file).exists()


@pytest.mark.parametrize("name", ["minit2i-embed", "minit2i-generate"])
def test_help_names_the_options(name: str) -> None:
    text = program(name, "--help")
    for part in ("--plugin PATH", "--precision NAME", "openvino or tensorrt-rtx", "--device N"):
        assert part in text


def test_one_library_a_provider_and_process(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"provider": b"openvino"}
    link = tmp_path / "link.so"
    link.symlink_to(idle_plugin())
    for path in (idle_plugin(), link, Path(os.path.relpath(idle_plugin()))):
        with Client(tiny_bundle(), plugin=str(path).encode(), **settings) as client:
            assert client.embed(b"a red circle").any()
    copy = Path(shutil.copy(idle_plugin(), tmp_path / "copy.so"))
    params = cpp_client.model_params(plugin=str(copy).encode(), **settings)
    assert refused(tiny_bundle(), params) == (
        USAGE,
        f"plugin is {copy}, but this process has loaded {idle_plugin()} for provider openvino; "
        "pass that one, or use another process",
    )


FRESH = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.helpers.cpp_client import Client, library, model_params, refused
params = model_params(provider=b"openvino", plugin=sys.argv[3].encode())
os.environ["MINIT2I_IDLE_DEVICES"] = "0"
for _ in range(2):
    print(*refused(Path(sys.argv[2]), params))
del os.environ["MINIT2I_IDLE_DEVICES"]
for _ in range(2):
    with Client(Path(sys.argv[2]), provider=b"openvino", plugin=sys.argv[3].encode()) as client:
        print(client.embed(b"a").shape[0])
"""


def test_a_plugin_without_a_device_is_unloaded() -> None:
    """So that it, or another one, can be loaded later."""
    command = [sys.executable, "-c", FRESH, str(ROOT), str(tiny_bundle())]
    done = subprocess.run([*command, idle_plugin()], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 4, done.stderr
    expected = f"{RUNTIME} provider openvino: plugin {idle_plugin()} finds no device here"
    assert lines[0] == lines[1] and lines[0].startswith(expected)
    assert lines[2:] == ["2", "2"]


class SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2) on Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> tuple[int | None, int, int]:
    stack = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.sp, stack.flags, stack.size


def test_signals_are_still_handled_where_they_were() -> None:
    before = signal_stack()
    plugin = str(idle_plugin()).encode()
    with Client(tiny_bundle(), provider=b"openvino", plugin=plugin) as client:
        client.embed(b"a red circle")
    assert signal_stack() == before


def test_two_models_in_two_threads_load_one_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIT2I_IDLE_RECORD", str(tmp_path / "options.txt"))
    assert "KiB more in the last half" in program("soak", tiny_bundle(), 400, idle_plugin())
    # The three graphs of each model.
    assert len((tmp_path / "options.txt").read_text().splitlines()) == 6


def test_fields_after_an_older_callers_struct_are_not_read() -> None:
    params = cpp_client.model_params(provider=b"cpu", precision=b"bf16")
    params.plugin = b"what an older caller has behind its struct"
    params.struct_size = cpp_client.ModelParams.plugin.offset
    handle = ctypes.c_void_p()
    path, calls = str(tiny_bundle()).encode(), cpp_client.library()
    assert calls.minit2i_open(path, ctypes.byref(params), ctypes.byref(handle)) == OK
    calls.minit2i_close(handle)
    params.provider = b"openvino"
    status, line = refused(tiny_bundle(), params)
    assert status == USAGE and "plugin is not set" in line


@pytest.mark.parametrize(("provider", "precision"), [("openvino", "fp8"), ("cpu", "bf16")])
def test_a_graph_without_kernels_is_refused_with_pythons_line(
    tmp_path: Path, provider: str, precision: str
) -> None:
    copy = Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))
    edit(copy, lambda fields: fields["graphs"]["text_encoder"].update(precision=precision))
    options: tuple[object, ...] = ("--provider", provider)
    options += ("--plugin", idle_plugin()) if provider == "openvino" else ()
    line = program("minit2i-embed", copy, "a", *options, "-o", tmp_path / "a.npz", code=1)
    bundle = Bundle.open(copy)
    with open_runtime(bundle, "onnxruntime") as runtime, pytest.raises(RuntimeFailure) as error:
        # Python gives the provider's line without loading its plugin.
        runtime._provider = PROVIDERS[provider]
        embed(bundle, runtime, "a")
    assert line == f"minit2i-embed: error: {error.value}\n"


def test_old_headers_build_and_have_no_plugins(tmp_path: Path) -> None:
    """Those of 1.21, the last without plugins; here the newer ones that say they are."""
    sdk, old = ROOT / "build" / "onnxruntime-sdk", ROOT / "build" / "onnxruntime-old-sdk"
    cpp_client.build()
    shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(sdk, old, symlinks=True)
    header = old / "include" / "onnxruntime" / "onnxruntime_c_api.h"
    newer, line = header.read_text(encoding="utf-8"), "#define ORT_API_VERSION "
    older, count = re.subn(rf"^{line}\d+", f"{line}21", newer, flags=re.MULTILINE)
    assert count == 1
    header.write_text(older, encoding="utf-8")
    # The same time as before, so that nothing is compiled twice.
    shutil.copystat(sdk / header.relative_to(old), header)
    folder = ROOT / "build" / "cpp-old-headers"
    configure = ["cmake", "-S", ROOT / "runtimes" / "cpp", "-B", folder, "-G", "Ninja"]
    configure += [f"-DONNXRUNTIME_ROOT={old}", "-DMINIT2I_STRICT=ON", "-DCMAKE_BUILD_TYPE=Debug"]
    for command in (configure, ["cmake", "--build", folder, "--target", "minit2i-embed"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    output = ("-o", tmp_path / "a.npz")
    program("minit2i-embed", tiny_bundle(), "a", *output, folder=folder)
    options = ("--provider", "openvino", "--plugin", idle_plugin())
    line = program("minit2i-embed", tiny_bundle(), "a", *options, *output, folder=folder, code=1)
    assert line == (
        "minit2i-embed: error: provider openvino: this library was built with the headers of "
        "ONNX Runtime 1.21, but plugins need those of 1.22 or later; build it with a newer SDK, or "
        "choose another provider\n"
    )
