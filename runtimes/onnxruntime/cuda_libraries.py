"""The CUDA libraries that ONNX Runtime's GPU package needs: loaded, or named with their remedy.

The package finds none of them by itself: pip installs them in folders of their own, from which its
``preload_dlls`` loads them into the process. Without them it goes on: without CUDA on the CPU, and
without cuDNN until a graph uses it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from minit2i_deploy.errors import RuntimeFailure, install_hint
from minit2i_deploy.runtimes.cuda.devices import Gpu, find_gpu

# The library's severity of messages above warnings.
_ERROR: Final = 3
# Standard output is redirected while libraries load, which two threads must not do at once.
_LOADING: Final = threading.Lock()
_PIP: Final = install_hint("cuda")
_TENSORRT_REMEDY: Final = "install TensorRT 10, with its libraries' folder in LD_LIBRARY_PATH"


def check_cuda(ort: Any, ep: str, device: int) -> Gpu | None:
    """Load CUDA's libraries, once a process, and check all that a session needs.

    Args:
        ort: the onnxruntime module.
        ep: CUDAExecutionProvider or TensorrtExecutionProvider.
        device: index of the GPU.

    Returns:
        the GPU; None where the module was not built for CUDA.

    Raises:
        UsageError: there is no GPU of that index.
        RuntimeFailure: there is no driver, it is too old, or a library is missing.
    """
    major = str(getattr(ort, "cuda_version", "")).partition(".")[0]
    if not major:
        return None
    with _LOADING:
        messages = _preload(ort)
    names = (f"libcudart.so.{major}", f"libcublas.so.{major}", f"libcublasLt.so.{major}")
    for name in (*names, "libcurand.so.10"):
        _require_library(name, "provider cuda", _PIP, messages)
    gpu = find_gpu(f"libcudart.so.{major}", device)
    _require_library("libcudnn.so.9", "the text encoder", _PIP, messages)
    if ep == "TensorrtExecutionProvider":
        for name in ("libnvinfer.so.10", "libnvonnxparser.so.10"):
            _require_library(name, "provider tensorrt", _TENSORRT_REMEDY, messages)
    return gpu


def preload_plugin(plugin: ModuleType) -> None:
    """Load CUDA's runtime library from beside a plugin.

    The file there has a longer name than the one that the plugin looks for.
    """
    for path in sorted(Path(str(plugin.get_library_path())).parent.glob("libcudart.so.*")):
        # If it fails, the plugin's own error says what is missing.
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


@functools.cache
def _preload(ort: ModuleType) -> str:
    """What the library printed while it loaded what pip installed.

    From here on the library warns of nothing by itself: each of its sessions on a GPU would say
    that no plugin was found for a provider that is none.
    """
    ort.set_default_logger_severity(_ERROR)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls()
    return printed.getvalue()


def _require_library(name: str, user: str, remedy: str, messages: str) -> None:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        # A file that is there and does not load was named when it was tried.
        printed = next((line.strip() for line in messages.splitlines() if name in line), "")
        raise RuntimeFailure(f"{user} lacks {name} ({printed or error}); {remedy}") from error
