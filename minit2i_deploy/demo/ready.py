"""Ready bundles of the shipped models, put together without torch.

A bundle's data files hold the weights of the shipped checkpoint, widened from float16, and a few
constants. The package therefore carries each exported bundle as a small zip archive in which the
weights' bytes are zeros. ``ready_bundle`` writes the weights back and checks every hash, so the
folder is the exported bundle, byte for byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.names import DATA_SUFFIX, FILE_NAME, HUB_DATA_SUFFIX
from minit2i_deploy.bundle.weight_replacement import read_weights, stored_tensors
from minit2i_deploy.demo.shipped import ASSETS, shipped_model
from minit2i_deploy.errors import BundleError, Minit2iError, UsageError
from minit2i_deploy.io.files import atomic_directory, atomic_file

# Name of a ready bundle -> the shipped model whose weights it holds.
READY: Final[Mapping[str, str]] = {"demo": "model", "demo-student": "student"}
_DATA_SUFFIXES: Final = (HUB_DATA_SUFFIX, DATA_SUFFIX)
_TOKENIZER: Final = "tokenizer/"
_DIGEST_DIGITS: Final = 16
# A fixed date in the archive, so that packing twice gives the same bytes.
_ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)


def default_cache() -> Path:
    """The system's folder for files that a program can make again, and ours in it."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "minit2i-deploy"
    if sys.platform == "win32":
        return home / "AppData" / "Local" / "minit2i-deploy" / "Cache"
    return home / ".cache" / "minit2i-deploy"


def ready_bundle(name: str, cache: Path | None = None) -> Path:
    """Folder of a ready bundle; it is written on first use.

    Args:
        name: one of READY.
        cache: where such folders are; None for ``default_cache()``. Safe to delete.

    Raises:
        UsageError: no such name, or a cache that cannot be written.
        Minit2iError: the installation lacks a part, or the disk is full.
    """
    if name not in READY:
        raise UsageError(f"expected one of {', '.join(READY)}, got {name!r}")
    archive = _archive(name)
    with zipfile.ZipFile(archive) as packed:
        digest = hashlib.sha256(packed.read(FILE_NAME)).hexdigest()
        folder = (cache or default_cache()) / f"{name}-{digest[:_DIGEST_DIGITS]}"
        if not _is_complete(folder, digest):
            _unpack(packed, name, folder)
    return folder


def shipped_checkpoint(name: str) -> Path:
    """Folder of the checkpoint that a ready bundle was exported from.

    Raises:
        UsageError: no such name.
        Minit2iError: the installation lacks a part.
    """
    if name not in READY:
        raise UsageError(f"expected one of {', '.join(READY)}, got {name!r}")
    shipped = shipped_model()
    return {"model": shipped.checkpoint, "student": shipped.student}[READY[name]]


def bundle_name(folder: Path) -> str:
    """What people call the bundle in a folder: READY's name, or the folder's."""
    name, _, digits = folder.name.rpartition("-")
    return name if name in READY and len(digits) == _DIGEST_DIGITS else folder.name


def pack_bundle(bundle: Bundle, name: str, target: Path) -> None:
    """Write the archive of a bundle that was exported from a shipped model.

    Args:
        bundle: exported from the model that READY names, with the shipped text encoder.
        name: one of READY.
        target: the archive.

    Raises:
        BundleError: a weight differs from the shipped one.
    """
    weights = dict(_weights(name))
    with atomic_file(target) as partial, zipfile.ZipFile(partial, "w") as packed:
        for file in (FILE_NAME, *sorted(bundle.manifest.files)):
            if file.startswith(_TOKENIZER):
                continue
            data = bytearray((bundle.path / file).read_bytes())
            if file.endswith(_DATA_SUFFIXES):
                _erase_weights(bundle.path / file, data, weights)
            entry = zipfile.ZipInfo(file, _ZIP_DATE)
            packed.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=9)


def _archive(name: str) -> Path:
    path = ASSETS / "bundles" / f"{name}.zip"
    if not path.is_file():
        raise Minit2iError(f"{path}: missing; install minit2i-deploy again")
    return path


def _is_complete(folder: Path, digest: str) -> bool:
    """Whether the folder holds this bundle, every file with its size."""
    try:
        return Bundle.open(folder).digest == digest
    except BundleError:
        return False


def _unpack(packed: zipfile.ZipFile, name: str, folder: Path) -> None:
    weights = dict(_weights(name))
    try:
        # What stands there is incomplete: this is a cache, so it is replaced.
        with atomic_directory(folder, overwrite=True) as partial:
            packed.extractall(partial)
            for path in (shipped_model().tokenizer).iterdir():
                target = partial / _TOKENIZER / path.name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(path.read_bytes())
            for path in sorted(partial.glob("*/*")):
                if path.name.endswith(_DATA_SUFFIXES):
                    _write_weights(path, weights)
            Bundle.open(partial).verify()
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written: {error.strerror or error}; free space there, or choose "
            "another folder for caches (XDG_CACHE_HOME)"
        ) from error
    except Minit2iError:
        # Another process may have written the same bundle meanwhile.
        with contextlib.suppress(BundleError):
            Bundle.open(folder).verify()
            return
        raise


def _weights(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Weights of the shipped network and of its text encoder: name, float32 in its own layout."""
    models = shipped_model()
    network = models.checkpoint if READY[name] == "model" else models.student
    yield from read_weights(network / "ema.safetensors")
    yield from read_weights(models.text_encoder / "model.safetensors")


def _write_weights(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    with path.open("r+b") as stream:
        for name, stored in stored_tensors(path).items():
            values = weights[name].T if stored.transposed else weights[name]
            stream.seek(stored.begin)
            stream.write(np.ascontiguousarray(values, np.float32).tobytes())


def _erase_weights(path: Path, data: bytearray, weights: Mapping[str, np.ndarray]) -> None:
    for name, stored in stored_tensors(path).items():
        values = weights[name].T if stored.transposed else weights[name]
        if data[stored.begin : stored.end] != np.ascontiguousarray(values, np.float32).tobytes():
            raise BundleError(
                f"{path}: {name} differs from the shipped weight; export the shipped model in fp32"
            )
        data[stored.begin : stored.end] = bytes(stored.end - stored.begin)
