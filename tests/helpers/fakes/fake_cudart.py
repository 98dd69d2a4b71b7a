"""A stand-in for CUDA's runtime library and for the loader of shared libraries."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import Any

import pytest

NO_DEVICE, OLD_DRIVER = 100, 35
_TEXTS = {NO_DEVICE: b"no CUDA-capable device is detected", OLD_DRIVER: b"driver is insufficient"}


class _ErrorText:
    """A function whose result type can be set, as ctypes has them."""

    restype: Any = None

    def __call__(self, status: int) -> bytes:
        return _TEXTS[status]


class FakeCudart:
    """What is asked of libcudart.

    Args:
        count: of GPUs.
        driver: CUDA that the driver runs, 0 without a driver.
        capability: of every GPU.
    """

    def __init__(self, count: int = 1, driver: int = 13000, capability: int = 90) -> None:
        self.count, self.driver, self.capability = count, driver, capability
        self.cudaGetErrorString = _ErrorText()

    def cudaGetDeviceCount(self, count: Any) -> int:
        count._obj.value = self.count
        if self.driver < 13000:
            return OLD_DRIVER
        return 0 if self.count else NO_DEVICE

    def cudaDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.driver
        return 0

    def cudaRuntimeGetVersion(self, version: Any) -> int:
        version._obj.value = 13000
        return 0

    def cudaGetDeviceProperties(self, properties: Any, device: int) -> int:
        properties.value = b"Test GPU"
        return 0

    def cudaDeviceGetAttribute(self, value: Any, which: int, device: int) -> int:
        value._obj.value = self.capability // 10 if which == 75 else self.capability % 10
        return 0


def install(
    monkeypatch: pytest.MonkeyPatch, cudart: FakeCudart, missing: Collection[str] = ()
) -> list[str]:
    """Let every library load but the missing ones; gives the names that were asked for."""
    names: list[str] = []
    real = ctypes.CDLL

    def load(name: str | None, mode: int = 0, **options: Any) -> Any:
        if name is None:  # the process itself
            return real(None, mode, **options)
        names.append(name)
        if name in missing:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return cudart

    monkeypatch.setattr(ctypes, "CDLL", load)
    return names
