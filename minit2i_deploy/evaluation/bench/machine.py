"""What of a machine and an installation matters to this package."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from minit2i_deploy.config import VARIANTS
from minit2i_deploy.flops import adapter_parameters, denoiser_parameters

DISTRIBUTION: Final = "minit2i-deploy"
# FLAN-T5-Large's encoder; source: its released weights.
T5_LARGE_PARAMETERS: Final = 341_231_104
# Flag in /proc/cpuinfo (x86, then ARM) -> what it is good for here.
CPU_FEATURES: Final = {
    "amx_bf16": "bf16 matrix products, about four times fp32",
    "amx_int8": "INT8 matrix products",
    "avx512_bf16": "bf16 products, up to twice fp32",
    "avx512_vnni": "INT8 products",
    "avx_vnni": "INT8 products",
    "avx512f": "fp32, twice as wide as AVX2",
    "avx2": "fp32; the least that engines are fast on",
    "bf16": "bf16 products (ARM)",
    "i8mm": "INT8 products (ARM)",
    "asimd": "fp32 (ARM); the least that engines are fast on",
}
# Development is no part of running anything.
_LEFT_OUT: Final = ("dev",)
_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(\[(?P<extras>[^\]]*)\])?[^;]*"
    r"(;.*extra == [\"'](?P<extra>[^\"']+)[\"'])?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """One extra of this distribution.

    Args:
        name: of the extra; "" for what is always installed.
        packages: package to its version, or None where it is missing.
    """

    name: str
    packages: Mapping[str, str | None]

    @property
    def pip_line(self) -> str | None:
        """What to run for what is missing, or None."""
        if all(self.packages.values()):
            return None
        what = f"{DISTRIBUTION}[{self.name}]" if self.name else DISTRIBUTION
        return f"pip install '{what}'"


def installed_extras() -> list[Extra]:
    """Every extra with its packages, read from this distribution's own metadata.

    Returns:
        nothing where the package runs without having been installed.
    """
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    return group_extras(lines)


def group_extras(lines: Iterable[str]) -> list[Extra]:
    """The same from lines of requirements, as metadata has them."""
    packages: dict[str, list[str]] = {}
    inner: dict[str, list[str]] = {}
    for line in lines:
        found = _REQUIREMENT.match(line)
        assert found is not None
        extra = found["extra"] or ""
        if found["name"] == DISTRIBUTION:
            inner.setdefault(extra, []).extend(found["extras"].split(","))
        else:
            packages.setdefault(extra, []).append(found["name"])
    for extra, others in inner.items():
        for other in others:
            packages.setdefault(extra, []).extend(packages.get(other.strip(), []))
    return [
        Extra(name=name, packages={package: _version(package) for package in sorted(names)})
        for name, names in packages.items()
        if name not in _LEFT_OUT
    ]


def cpu_features(cpuinfo: str) -> dict[str, str]:
    """The flags that matter here and what each is good for, of the text of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            present = set(flags.split())
            return {flag: use for flag, use in CPU_FEATURES.items() if flag in present}
    return {}


def read_cpuinfo() -> str:
    """The text of /proc/cpuinfo, empty on systems without it."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def memory_bytes() -> int | None:
    """Memory of the machine; None where the system does not tell."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def variant_bytes() -> dict[str, dict[str, int]]:
    """Bytes of each published variant's weights, norms and biases left out.

    Returns:
        variant to "fp32" and "16 bit" (denoiser and text adapter) and "with encoder" (fp32, and
        FLAN-T5-Large in fp32 beside it).
    """
    found = {}
    for name, config in VARIANTS.items():
        parameters = denoiser_parameters(config) + adapter_parameters(config)
        found[name] = {
            "fp32": 4 * parameters,
            "16 bit": 2 * parameters,
            "with encoder": 4 * (parameters + T5_LARGE_PARAMETERS),
        }
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
