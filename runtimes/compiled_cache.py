"""Where an engine keeps what it compiled of a graph: one folder for all that the result depends on.

Libraries key their own caches by less, a file's path and time among it, so a folder that is shared
may give back what was compiled of other weights. Here another graph, library, device or precision
is another folder, and key.json in it says what it is for. Safe to delete at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_write_text
from minit2i_deploy.machine import cpu_features, read_cpuinfo

KEY_FILE: Final = "key.json"
_DIGITS: Final = 20
_NVIDIA: Final = Path("/proc/driver/nvidia")


def cache_key(
    bundle: Bundle, graph: str, *, library: str, version: str, device: str, precision: str
) -> dict[str, str]:
    """All that a compiled graph depends on.

    Args:
        bundle: holds the graph.
        graph: its name.
        library: what compiles it.
        version: of the library, all its digits.
        device: what it is compiled for, as ``device_name`` tells it.
        precision: what it is to compute in.
    """
    folder = Path(bundle.manifest.graphs[graph].path).parent
    files = {
        f"sha256 of {name}": info.sha256
        for name, info in sorted(bundle.manifest.files.items())
        if Path(name).parent == folder
    }
    values = {"graph": graph, "library": library, "version": version, "device": device}
    return files | values | {"precision": precision}


def cache_folder(root: str | os.PathLike[str], key: Mapping[str, str]) -> Path:
    """The key's own folder in a cache, made where it is missing.

    Raises:
        UsageError: the cache cannot be written, or its name is empty.
    """
    if not os.fspath(root):
        raise UsageError("cache is empty; name a folder, or leave it out")
    text = json.dumps(dict(key), indent=2, sort_keys=True) + "\n"
    folder = Path(root) / hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made ({error.strerror}); name a cache folder you can write"
        ) from error
    if not (folder / KEY_FILE).exists():
        atomic_write_text(folder / KEY_FILE, text)
    return folder


def device_name(kind: str, driver: Path = _NVIDIA) -> str:
    """The processor with the features that kernels are chosen by, or the GPUs and their driver.

    Args:
        kind: "cpu" or "cuda".
        driver: folder where NVIDIA's driver on Linux tells of itself.
    """
    if kind == "cpu":
        text = read_cpuinfo()
        names = [
            line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line
        ]
        # Linux on ARM names none, and the C++ client reads the same file.
        name = names[0] if names else "" if text else platform.processor()
        return " ".join([platform.machine(), name, *sorted(cpu_features(text))])
    paths = [*sorted(driver.glob("gpus/*/information")), driver / "version"]
    lines = [line for path in paths for line in _lines(path)]
    names = [" ".join(line.split()) for line in lines if line.startswith(("Model:", "NVRM"))]
    return "; ".join(names) or kind


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
