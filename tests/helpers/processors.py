"""Python programs on a processor without VNNI: CPUID is masked, or the processor is emulated."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Both add 8-bit products in 16 bits: AVX-512 of the first generation, and AVX2.
WITHOUT_VNNI = ("avx512", "avx2")
_NO_FAULT = 86


@functools.cache
def _mask_library() -> Path | None:
    """cpuid_mask.c as a library, or None where it does not compile or the fault is not offered."""
    compiler, source = shutil.which("cc"), Path(__file__).with_name("cpuid_mask.c")
    if compiler is None or sys.platform != "linux" or os.uname().machine != "x86_64":
        return None
    folder = Path(tempfile.mkdtemp(prefix="minit2i-cpuid-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "cpuid_mask.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source)]
    if subprocess.run(command, capture_output=True).returncode:
        return None
    tried = subprocess.run(["true"], env={**os.environ, "LD_PRELOAD": str(library)})
    return None if tried.returncode == _NO_FAULT else library


def run_without_vnni(script: str, kind: str, *arguments: object) -> str:
    """Run a Python script; returns its output, or skips the test where nothing masks or emulates.

    Args:
        script: source.
        kind: one of WITHOUT_VNNI.
        arguments: of the script.
    """
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = dict(os.environ)
    if (library := _mask_library()) is not None:
        environment |= {"LD_PRELOAD": str(library), "CPUID_MASK": kind}
    elif (emulator := shutil.which("qemu-x86_64")) is not None and kind == "avx2":
        command = [emulator, "-cpu", "Haswell", *command]
    else:
        pytest.skip("needs a compiler and a processor with CPUID faulting, or qemu-user")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
