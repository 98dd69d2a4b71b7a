"""The machine that this runs on, and which optional packages are installed."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from minit2i_deploy.errors import pip_line

DISTRIBUTION: Final = "minit2i-deploy"
# Flag in /proc/cpuinfo (x86, then ARM) -> what it speeds up here.
CPU_FEATURES: Final = {
    "amx_bf16": "bf16 matrix products, about four times fp32",
    "amx_int8": "INT8 matrix products",
    "avx512_bf16": "bf16 products, up to twice fp32",
    "avx512_vnni": "INT8 products",
    "avx_vnni": "INT8 products",
    "avx512f": "fp32, twice as wide as AVX2",
    "avx2": "fp32; the minimum for fast engines",
    "bf16": "bf16 products (ARM)",
    "i8mm": "INT8 products (ARM)",
    "asimd": "fp32 (ARM); the minimum for fast engines",
}
# Libraries whose versions affect a measured time.
_LIBRARIES: Final = ("numpy", "onnxruntime", "torch")
# Extras for development, which nothing needs to run.
_EXCLUDED_EXTRAS: Final = ("dev",)
_LEAST: Final = re.compile(r">=\s*([0-9.]+)")
_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(\[(?P<extras>[^\]]*)\])?[^;]*"
    r"(;.*extra == [\"'](?P<extra>[^\"']+)[\"'])?"
)


def describe_machine() -> dict[str, str | int]:
    """Processor, cores this process may use, system, and versions of the libraries."""
    description: dict[str, str | int] = {
        "processor": _processor(),
        "cores": _num_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    versions = {name: _version(name) for name in _LIBRARIES}
    return description | {name: number for name, number in versions.items() if number is not None}


def machine_line(machine: Mapping[str, str | int]) -> str:
    """The description as one line."""
    versions = [f"{name} {machine[name]}" for name in ("python", *_LIBRARIES) if name in machine]
    cores = f"{machine['cores']} cores" if machine["cores"] != 1 else "1 core"
    return ", ".join([str(machine["processor"]), cores, str(machine["system"]), *versions])


def memory_bytes() -> int | None:
    """Memory of the machine, or None if the system does not say."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_cpuinfo() -> str:
    """The text of /proc/cpuinfo, empty on systems without it."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cpu_features(cpuinfo: str) -> dict[str, str]:
    """The flags of CPU_FEATURES that the text of /proc/cpuinfo lists, and what each speeds up."""
    for line in cpuinfo.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            present = set(flags.split())
            return {flag: use for flag, use in CPU_FEATURES.items() if flag in present}
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """One extra of this distribution.

    Args:
        name: of the extra; "" for what is always installed.
        packages: package to its version, or None if it is missing.
        too_old: package to the least version that is needed, where an older one is installed.
    """

    name: str
    packages: Mapping[str, str | None]
    too_old: Mapping[str, str] = field(default_factory=dict)

    @property
    def pip_line(self) -> str | None:
        """The command that installs what is missing or too old, or None."""
        if all(self.packages.values()) and not self.too_old:
            return None
        return pip_line(self.name)


def installed_extras() -> list[Extra]:
    """Every extra with its packages, from this distribution's metadata.

    Returns:
        an empty list if the package was never installed.
    """
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    return group_extras(lines)


def group_extras(lines: Iterable[str]) -> list[Extra]:
    """The extras in lines of requirements, as metadata has them."""
    packages: dict[str, list[str]] = {}
    least: dict[str, str] = {}
    nested: dict[str, list[str]] = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        assert match is not None
        extra = match["extra"] or ""
        if match["name"] == DISTRIBUTION:
            nested.setdefault(extra, []).extend(match["extras"].split(","))
        else:
            packages.setdefault(extra, []).append(match["name"])
            if (bound := _LEAST.search(line.partition(";")[0])) is not None:
                least[match["name"]] = max(least.get(match["name"], ""), bound[1], key=_numbers)
    for extra, others in nested.items():
        for other in others:
            packages.setdefault(extra, []).extend(packages.get(other.strip(), []))
    return [
        _extra(name, sorted(set(names)), least)
        for name, names in packages.items()
        if name not in _EXCLUDED_EXTRAS
    ]


def _extra(name: str, names: Iterable[str], least: Mapping[str, str]) -> Extra:
    versions = {package: _version(package) for package in names}
    too_old = {
        package: least[package]
        for package, actual in versions.items()
        if actual is not None and package in least and _numbers(actual) < _numbers(least[package])
    }
    return Extra(name=name, packages=versions, too_old=too_old)


def _numbers(text: str) -> tuple[int, ...]:
    """A version's leading numbers, which is enough to compare releases with a least one."""
    return tuple(int(part) for part in re.sub(r"[^0-9.].*", "", text).split(".") if part)


def _processor() -> str:
    for line in read_cpuinfo().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _num_cores() -> int:
    # macOS and Windows cannot restrict a process to some cores.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
