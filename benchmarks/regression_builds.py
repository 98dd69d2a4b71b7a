"""Builds of this package: a checkout, a wheel, or a git revision of this one."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[1]
_PACKAGE: Final = "minit2i_deploy"
_MAX_REASON: Final = 300


class BuildError(Exception):
    """One line: what came, and what was expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """A build that can be run.

    Args:
        root: folder for PYTHONPATH, with the package in it.
        label: for people.
        digest: sha256 of its Python files; another digest is measured anew.
        python: interpreter with the libraries that it needs.
        cache: folder for what it caches.
    """

    root: Path
    label: str
    digest: str
    python: str
    cache: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A process of this build."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "XDG_CACHE_HOME": str(self.cache),
            # Threads that spin while they wait take a busy machine's time from the other build.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        return subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.cache,
            check=False,
        )


def open_build(source: str, work: Path, python: str) -> Build:
    """A build by what the command line calls it; wheels and revisions are unpacked in ``work``.

    Raises:
        BuildError: it is none, or has no package in it.
    """
    if shutil.which(python) is None:
        raise BuildError(f"{python}: no such Python; pass --old-python with a path of one")
    path = Path(source)
    if path.is_dir():
        root, label = path.resolve(), str(path)
    elif path.is_file():
        root, label = _unpacked_wheel(path, work), path.name
    else:
        root, label = _unpacked_revision(source, work)
    if not (root / _PACKAGE / "__init__.py").is_file():
        raise BuildError(f"{source}: has no {_PACKAGE} in it; pass a checkout or a wheel of it")
    digest = _digest(root)
    cache = work.resolve() / "builds" / digest[:16]
    cache.mkdir(parents=True, exist_ok=True)
    return Build(
        root=root, label=f"{label} ({digest[:8]})", digest=digest, python=python, cache=cache
    )


def last_line(text: str) -> str:
    """What a process that failed said last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_MAX_REASON] if lines else "it ended without a word"


def _unpacked_wheel(path: Path, work: Path) -> Path:
    folder = work.resolve() / "sources" / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if not zipfile.is_zipfile(path):
        raise BuildError(f"{path}: is no wheel; pass a checkout, a wheel or a git revision")
    with zipfile.ZipFile(path) as wheel:
        _unpack(folder, wheel.extractall)
    return folder


def _unpacked_revision(revision: str, work: Path) -> tuple[Path, str]:
    command = ["git", "-C", str(_ROOT), "rev-parse", "--verify", "--quiet", "--end-of-options"]
    done = subprocess.run(
        [*command, f"{revision}^{{commit}}"], capture_output=True, text=True, check=False
    )
    commit = done.stdout.strip()
    if done.returncode or not commit:
        raise BuildError(
            f"OLD is {revision!r}, expected a checkout, a wheel or a git revision of {_ROOT}"
        )
    folder = work.resolve() / "sources" / commit[:16]
    archive = subprocess.run(
        ["git", "-C", str(_ROOT), "archive", commit], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        _unpack(folder, lambda place: tar.extractall(place, filter="tar"))
    return folder, f"{revision} = {commit[:8]}"


def _unpack(folder: Path, extract: Callable[[Path], None]) -> None:
    """The folder appears complete or not at all."""
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    extract(partial)
    partial.rename(folder)


def _digest(root: Path) -> str:
    """Of the package's files; the links of a checkout are followed."""
    digest = hashlib.sha256()
    for folder, names, files in os.walk(root / _PACKAGE, followlinks=True):
        names[:] = sorted(name for name in names if name not in ("__pycache__", "cpp", "web"))
        for name in sorted(file for file in files if file.endswith(".py")):
            path = Path(folder) / name
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
