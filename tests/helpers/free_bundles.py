"""A bundle whose height and width are free, and fixed ones of the same weights to compare with."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Final

from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.tiny_bundle import bundles_folder, text_folder

SIDES: Final = (16, 64)
# Of the weights' own 32 x 32: half as large again, and not square.
LARGE: Final = (48, 48)
WIDE: Final = (48, 24)


@functools.cache
def free_bundle() -> Path:
    """Of 32 x 32, and 16 to 64 pixels a side. Do not write into it; copy it."""
    return _export("free", sides=SIDES)


@functools.cache
def fixed_bundle(size: tuple[int, int]) -> Path:
    """Of that width and height alone."""
    return _export(f"fixed-{size[0]}x{size[1]}", image_size=size)


def _export(name: str, **options: Any) -> Path:
    from minit2i_deploy.export import ExportOptions, export_bundle

    requested = ExportOptions(text_encoder=text_folder(), **options)
    return export_bundle(hub_folder(), bundles_folder() / name, requested).path
