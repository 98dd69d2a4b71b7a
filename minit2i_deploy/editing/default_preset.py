"""The preset of an edit that names no table."""

from __future__ import annotations

from typing import Final

from minit2i_deploy.bundle.bundle import Bundle

INPAINT: Final = "inpaint"


def edit_preset(bundle: Bundle, *, inpaints: bool) -> str | None:
    """Name of the preset; None is the bundle's default.

    Args:
        bundle: has the presets.
        inpaints: whether a part of an image stays.
    """
    return INPAINT if inpaints and INPAINT in bundle.manifest.presets else None
