"""A static folder in which bundles run in the browser: page, module, library and bundles.

Any file server can host it. Weights and the library are stored as gzip, which the page unpacks
itself, because few file servers compress; the page then checks them against the manifest.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.names import FILE_NAME
from minit2i_deploy.demo.ready import ready_bundle
from minit2i_deploy.demo.web_packages import PACKAGE, WEB, library_folder
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_directory

SITE: Final = "site.json"
# Files of onnxruntime-web's dist folder, by provider; the page loads one of each pair.
_LIBRARY: Final = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": (
        "ort.webgpu.min.mjs",
        "ort-wasm-simd-threaded.asyncify.mjs",
        "ort-wasm-simd-threaded.asyncify.wasm",
    ),
}
_SERVICE_WORKER: Final = "service_worker.js"
# Folders whose files are stored when they are first used.
_STORED: Final = ("bundles", "ort")
# The look of every page of the project.
_STYLE: Final = ("style.css", "icon.svg")


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteBundle:
    """A bundle of the site: its folder there, what people call it, and the bundle."""

    name: str
    title: str
    bundle: Bundle


def write_site(
    folder: Path, bundles: Sequence[SiteBundle], library: Path, *, overwrite: bool = False
) -> None:
    """Write the site, complete or not at all.

    Args:
        folder: new folder.
        bundles: at least one; the first is the page's default.
        library: folder ``dist`` of onnxruntime-web.
        overwrite: replace an earlier site; no other folder is replaced.

    Raises:
        UsageError: no bundle, or a folder that exists and is not a site.
        Minit2iError: the disk failed or is full.
    """
    if not bundles:
        raise UsageError("expected at least one bundle for the site, got none")
    with atomic_directory(folder, overwrite=overwrite, check=_require_site) as partial:
        page_bytes = _copy_page(partial)
        sizes = {name: _pack_library(library, files, partial) for name, files in _LIBRARY.items()}
        entries = [_pack_bundle(item, partial) for item in bundles]
        values = {"bundles": entries, "bytes": {"page": page_bytes, **sizes}}
        (partial / SITE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        _write_service_worker(partial)


def ready_site_bundles(cache: Path | None = None) -> list[SiteBundle]:
    """The shipped few-step student, which is fast, and the shipped model.

    Args:
        cache: as for ``ready_bundle``.

    Raises:
        UsageError: the cache cannot be written.
    """
    titles = {"demo-student": "few-step student", "demo": "base model"}
    return [
        SiteBundle(name=name, title=title, bundle=Bundle.open(ready_bundle(name, cache)))
        for name, title in titles.items()
    ]


def cached_site(cache: Path) -> Path:
    """The site of the shipped models; it is written on first use.

    Args:
        cache: the user's folder for caches. Safe to delete.

    Raises:
        MissingDependencyError: onnxruntime-web must be fetched and npm is not installed.
        Minit2iError: the cache cannot be written, or npm failed.
    """
    bundles = ready_site_bundles(cache)
    digest = hashlib.sha256("".join(item.bundle.digest for item in bundles).encode())
    for path in sorted((*WEB.glob("src/**/*.js"), *WEB.glob("page/*"))):
        digest.update(path.read_bytes())
    folder = cache / f"web-{digest.hexdigest()[:16]}"
    if not (folder / SITE).is_file():
        write_site(folder, bundles, library_folder(cache))
    return folder


def _copy_page(folder: Path) -> int:
    """Page, module and style; their bytes."""
    # node.js has what browsers lack.
    shutil.copytree(WEB / "src", folder / "src", ignore=shutil.ignore_patterns("node.js"))
    shutil.copytree(WEB / "page", folder, dirs_exist_ok=True)
    for name in _STYLE:
        shutil.copy(PACKAGE / "serving" / "page" / name, folder)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _pack_library(library: Path, files: Sequence[str], folder: Path) -> int:
    """Copy scripts, compress WebAssembly; their bytes as a browser downloads them."""
    target = folder / "ort"
    target.mkdir(exist_ok=True)
    written = []
    for name in files:
        if name.endswith(".wasm"):
            written.append(_compress(library / name, target / f"{name}.gz"))
        else:
            written.append(Path(shutil.copy(library / name, target)))
    return sum(path.stat().st_size for path in written)


def _pack_bundle(item: SiteBundle, folder: Path) -> dict[str, Any]:
    """Every file as gzip but the manifest; what the page needs to know of the bundle."""
    place = f"bundles/{item.name}/"
    target = folder / place
    target.mkdir(parents=True)
    shutil.copy(item.bundle.path / FILE_NAME, target)
    for name in item.bundle.manifest.files:
        path = target / f"{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        _compress(item.bundle.path / name, path)
    num_bytes = sum((target / name).stat().st_size for name in _needed(item.bundle))
    return {"name": item.name, "title": item.title, "path": place, "bytes": num_bytes}


def _needed(bundle: Bundle) -> list[str]:
    """Files that generating downloads: the manifest, graphs with their weights, the tokenizer."""
    manifest = bundle.manifest
    paths = [graph.path for graph in manifest.graphs.values()]
    folders = tuple(path.rpartition("/")[0] + "/" for path in paths)
    paths += [path for path in manifest.files if path.startswith(folders) and _is_data(path)]
    paths += [manifest.tables[manifest.presets[manifest.default_preset].table]]
    paths += [f"{manifest.tokenizer.path}/tokenizer.json"]
    return [FILE_NAME, *(f"{path}.gz" for path in paths)]


def _is_data(path: str) -> bool:
    return not path.endswith((".json", ".onnx"))


def _compress(source: Path, target: Path) -> Path:
    # No time in the header, so that the same files give the same site.
    target.write_bytes(gzip.compress(source.read_bytes(), compresslevel=6, mtime=0))
    return target


def _write_service_worker(folder: Path) -> None:
    """Fill in the files that it keeps, and a version that changes with any of them."""
    script = folder / _SERVICE_WORKER
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != script and path.relative_to(folder).parts[0] not in _STORED
    )
    digest = hashlib.sha256(script.read_bytes())
    for path in sorted(folder.glob("ort/*")):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
    for name in files:
        digest.update((folder / name).read_bytes())
    text = script.read_text(encoding="utf-8")
    text = text.replace("{{version}}", digest.hexdigest()[:16])
    # The folder's own address is the page as well.
    text = text.replace('"{{files}}"', ", ".join(json.dumps(name) for name in ["./", *files]))
    script.write_text(text, encoding="utf-8")


def _require_site(folder: Path) -> None:
    if not (folder / SITE).is_file():
        raise UsageError(
            f"{folder}: exists and is not a site, so it is not replaced; name a new folder"
        )
