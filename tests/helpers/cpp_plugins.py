"""Libraries for the C++ client's tests: plugins, and older versions of ONNX Runtime."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.helpers.cpp_client import ROOT, build

OPENVINO_PACKAGE: Final = "onnxruntime_ep_openvino"
OPENVINO_VERSION: Final = "1.8.1"


def idle_plugin(folder: Path | None = None) -> Path:
    """The plugin that calls itself OpenVINO's and takes no node."""
    return (folder or build()) / "libidle_plugin.so"


@functools.cache
def openvino_plugin() -> Path:
    """OpenVINO's: the environment's, or brought into the build folder.

    No extra that the tests install has it, because Python's tests are to see it missing.
    """
    spec = importlib.util.find_spec(OPENVINO_PACKAGE)
    if spec is None:
        place = ROOT / "build" / f"{OPENVINO_PACKAGE}-{OPENVINO_VERSION}"
        if not place.is_dir():
            _install(f"{OPENVINO_PACKAGE}=={OPENVINO_VERSION}", place)
        init = place / OPENVINO_PACKAGE / "__init__.py"
        spec = importlib.util.spec_from_file_location(OPENVINO_PACKAGE, init)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Path(module.get_library_path())


@functools.cache
def onnxruntime_library(version: str) -> Path:
    """The folder with libonnxruntime.so.1 of a release, from its wheel for any Python."""
    place = ROOT / "build" / f"onnxruntime-{version}"
    if not place.is_dir():
        options = ("--python-version", "3.11", "--only-binary=:all:")
        _install(f"onnxruntime=={version}", place, *options)
    folder = place / "onnxruntime" / "capi"
    link = folder / "libonnxruntime.so.1"
    if not link.is_symlink():
        link.symlink_to(f"libonnxruntime.so.{version}")
    return folder


def is_intel() -> bool:
    """Whether OpenVINO's plugin lists this machine's processor."""
    return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def _install(requirement: str, place: Path, *options: str) -> None:
    partial = place.with_name(f"{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command = [*pip, *options, "--target", partial, requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    partial.rename(place)
