"""The C++ client on older releases of ONNX Runtime, on other processors, and after a fork."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import PrecisionWarning
from minit2i_deploy.runtimes.int8_probe import DYNAMIC, STATIC, warn_of_saturation
from minit2i_deploy.runtimes.onnxruntime import int8_probe as onnxruntime_probe
from tests.helpers.cpp_bundles import edit, shipped_bundle
from tests.helpers.cpp_client import ROOT, build, program
from tests.helpers.cpp_plugins import idle_plugin, onnxruntime_library, openvino_plugin
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp

# The oldest release that the client takes, and the first with plugins.
OLDEST, WITH_PLUGINS = "1.19.2", "1.22.1"
# Measured 0 and 1.2e-6: other releases have other kernels.
MAX_EMBEDDING_ERROR = 1e-4
BOTH_FORMS = frozenset({DYNAMIC, STATIC})


@pytest.mark.parametrize("version", [OLDEST, WITH_PLUGINS])
def test_a_client_built_once_runs_with_an_older_release(tmp_path: Path, version: str) -> None:
    # The text encoder uses no operators newer than 18.
    bundle = tiny_bundle()
    texts = ("a red circle", "", "green")
    options = ("--pooled", "--threads", 2, "-o")
    program("minit2i-embed", bundle, *texts, *options, tmp_path / "new.npz")
    library = onnxruntime_library(version)
    program(
        "minit2i-embed", bundle, *texts, *options, tmp_path / "old.npz", LD_LIBRARY_PATH=library
    )
    new, old = np.load(tmp_path / "new.npz"), np.load(tmp_path / "old.npz")
    for name in ("values", "pooled"):
        assert np.abs(new[name] - old[name]).max() <= MAX_EMBEDDING_ERROR


def test_plugins_need_a_newer_release(tmp_path: Path) -> None:
    options = ("--provider", "openvino", "--plugin", idle_plugin(), "-o", tmp_path / "a.npz")
    library = onnxruntime_library(OLDEST)
    line = program("minit2i-embed", tiny_bundle(), "a", *options, code=1, LD_LIBRARY_PATH=library)
    assert line == (
        "minit2i-embed: error: provider openvino: onnxruntime is 1.19, but plugins need 1.22 or "
        "later; load a newer library, or choose another provider\n"
    )


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_gpus_need_a_newer_release(tmp_path: Path, provider: str) -> None:
    """As in Python: older ones replay CUDA graphs on memory of other runs."""
    options = ("--provider", provider, "-o", tmp_path / "a.npz")
    library = onnxruntime_library(WITH_PLUGINS)
    line = program("minit2i-embed", tiny_bundle(), "a", *options, code=1, LD_LIBRARY_PATH=library)
    assert line == (
        f"minit2i-embed: error: provider {provider} needs onnxruntime 1.31 or later, and 1.22 is "
        "loaded; load a newer library\n"
    )


STUB = """
struct Base { const void *(*get_api)(unsigned); const char *(*get_version)(void); };
static const void *get_api(unsigned version) { (void)version; return 0; }
static const char *get_version(void) { return VERSION; }
static const struct Base base = {get_api, get_version};
const void *OrtGetApiBase(void) { return &base; }
"""


@pytest.mark.parametrize("version", ["1.18.1", "2.0.0", "unknown"])
def test_other_releases_are_refused_in_one_line(tmp_path: Path, version: str) -> None:
    (tmp_path / "stub.c").write_text(STUB)
    library = tmp_path / "libonnxruntime.so.1"
    soname = f"-Wl,-soname,{library.name}"
    command = ["cc", "-shared", "-fPIC", f'-DVERSION="{version}"', soname, "-o", library]
    subprocess.run([*command, tmp_path / "stub.c"], check=True)
    options = ("-o", tmp_path / "a.npz")
    line = program("minit2i-embed", tiny_bundle(), "a", *options, code=1, LD_LIBRARY_PATH=tmp_path)
    assert line == (
        f"minit2i-embed: error: onnxruntime is {version}, but 1.19 or later (1.x) is needed; "
        "load a newer library\n"
    )


def test_8_bit_products_are_judged_as_in_python() -> None:
    """Right with VNNI, wrong without it."""
    wrong = onnxruntime_probe.saturating_forms("cpu")
    lines = [
        f"{name} {'wrong' if form in wrong else 'right'}\n"
        for name, form in (("dynamic", DYNAMIC), ("static", STATIC))
    ]
    assert program("int8_probe", tiny_bundle()) == "".join(lines)


@pytest.mark.parametrize("scheme", ["int8", "int8-cpu"])
def test_the_warning_of_saturation_is_that_of_python(tmp_path: Path, scheme: str) -> None:
    """As if this processor had no VNNI, for a bundle whose weights are not pair-safe."""
    assert program("int8_probe", shipped_bundle(scheme)).splitlines()[2:] == []
    copy = Path(shutil.copytree(shipped_bundle(scheme), tmp_path / "bundle"))
    edit(copy, _earlier_scheme)
    bundle = Bundle.open(copy)
    for graph in bundle.manifest.graphs:
        data_file = bundle.data_path(graph)
        data = bytearray(data_file.read_bytes())
        length = int.from_bytes(data[:8], "little")
        for entry in json.loads(data[8 : 8 + length]).values():
            if entry.get("dtype") == "I8":
                data[8 + length + entry["data_offsets"][0]] = 65
        data_file.write_bytes(data)
    lines = []
    for graph in sorted(bundle.manifest.graphs):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_saturation(bundle, graph, "onnxruntime (cpu)", lambda: BOTH_FORMS)
        lines += [f"{graph}: {item.message}" for item in caught]
    assert len(lines) >= 1
    assert program("int8_probe", copy).splitlines()[2:] == lines


@pytest.fixture(scope="module")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an INT8 text encoder whose weights are not pair-safe."""
    from minit2i_deploy.export.quantize import QuantizeOptions, quantize_bundle

    out = tmp_path_factory.mktemp("text") / "bundle"
    return quantize_bundle(tiny_bundle(), out, QuantizeOptions(scheme="int8-text")).path


def test_openvino_is_probed_as_it_is_used(
    text_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two products go to its plugin, on one thread, before the text encoder does."""
    monkeypatch.setenv("MINIT2I_IDLE_RECORD", str(tmp_path / "options.txt"))
    options = ("--provider", "openvino", "--plugin", idle_plugin(), "--precision", "bf16")
    program("minit2i-embed", text_bundle, "a", *options, "--threads", 2, "-o", tmp_path / "a.npz")
    lines = (tmp_path / "options.txt").read_text().splitlines()
    expected = [
        json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}})
        for hint, threads in (("f32", "1"), ("f32", "1"), ("bf16", "2"))
    ]
    assert [line.partition("=")[2] for line in lines] == expected


EMULATOR = ("qemu-x86_64", "-cpu", "Haswell")
needs_emulator = pytest.mark.skipif(
    shutil.which(EMULATOR[0]) is None, reason="needs Debian's qemu-user"
)


@needs_emulator
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_the_warning_names_the_provider(text_bundle: Path, tmp_path: Path, provider: str) -> None:
    """On an emulated processor without VNNI; the idle plugin leaves all work to the CPU."""
    plugin = ("--provider", provider, "--plugin", idle_plugin()) if provider != "cpu" else ()
    command = [*EMULATOR, build() / "minit2i-embed", text_bundle, "a", *plugin]
    done = subprocess.run(
        [*command, "-o", tmp_path / "a.npz"], capture_output=True, text=True, timeout=300
    )
    with pytest.warns(PrecisionWarning) as caught:
        warn_of_saturation(
            Bundle.open(text_bundle),
            "text_encoder",
            f"onnxruntime ({provider})",
            lambda: BOTH_FORMS,
        )
    assert done.returncode == 0 and str(caught[0].message) in done.stderr


@needs_emulator
def test_the_plugin_of_openvino_without_vnni() -> None:
    """Measured with 1.8.1: products of a dynamic range are exact, those of a fixed one are not."""
    command = [*EMULATOR, build() / "int8_probe", tiny_bundle(), openvino_plugin()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "dynamic right\nstatic wrong\n"


def _earlier_scheme(fields: dict[str, Any]) -> None:
    """The description of the step graph as it was before weights were pair-safe."""
    graph = fields["quantization"]["graphs"]["transformer"]
    graph["scheme"] = graph["scheme"].removeprefix("pair-safe ")


FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.helpers.cpp_client import Client, byref, c_void_p, embed_params, last_error, library
client = Client(Path(sys.argv[2]))
client.embed(b"a red circle")
child = os.fork()
if child == 0:
    result = c_void_p()
    status = library().minit2i_embed(client.state, byref(embed_params(b"a")), byref(result))
    print(status, last_error(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(client.embed(b"a red circle").shape[0])
"""


def test_a_model_is_refused_after_a_fork() -> None:
    build()
    command = [sys.executable, "-c", FORK, str(ROOT), str(tiny_bundle())]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env=dict(os.environ)
    )
    line = "the model was opened by another process, which then forked; open it after the fork"
    assert done.stdout.splitlines() == [f"1 {line}", "4"]
