"""What a measured time was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from minit2i_deploy.evaluation.bench.machine import read_cpuinfo

_LIBRARIES: Final = ("numpy", "onnxruntime", "torch")


def describe_machine() -> dict[str, str | int]:
    """Processor, cores this process may use, system, and versions of the libraries."""
    described: dict[str, str | int] = {
        "processor": _processor(),
        "cores": _num_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for name in _LIBRARIES:
        try:
            described[name] = version(name)
        except PackageNotFoundError:
            continue
    return described


def machine_line(machine: dict[str, str | int]) -> str:
    """The description as one line."""
    versions = [f"{name} {machine[name]}" for name in ("python", *_LIBRARIES) if name in machine]
    cores = f"{machine['cores']} cores" if machine["cores"] != 1 else "1 core"
    return ", ".join([str(machine["processor"]), cores, str(machine["system"]), *versions])


def _num_cores() -> int:
    # macOS and Windows cannot restrict a process to some cores this way.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _processor() -> str:
    for line in read_cpuinfo().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
