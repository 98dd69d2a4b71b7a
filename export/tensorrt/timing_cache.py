"""TensorRT's timing cache: a file that stores measured kernel times between builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.tensorrt.build_library import BuildLibrary
from minit2i_deploy.io.files import atomic_write_bytes


def load_timing_cache(library: BuildLibrary, config: Any, path: Path | None) -> Any:
    """Give a build's config the cache of a file, or an empty one if the file does not exist.

    Returns:
        the library's cache; None without a path.

    Raises:
        UsageError: the library has no such cache, or the file is not one of its own.
    """
    if path is None:
        return None
    if library.is_rtx:
        raise UsageError("TensorRT-RTX measures no kernels while it builds; omit --timing-cache")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: its folder does not exist; create it, or name another file")
    try:
        cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    if cache is None or not config.set_timing_cache(cache, False):
        raise UsageError(
            f"{path}: not a timing cache of {library.name} {library.version} for this GPU; name"
            " another file"
        )
    return cache


def save_timing_cache(cache: Any, path: Path | None) -> None:
    """Store what ``load_timing_cache`` returned, with what the build added."""
    if cache is not None and path is not None:
        atomic_write_bytes(path, bytes(cache.serialize()))
