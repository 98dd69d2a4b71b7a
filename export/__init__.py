"""From a checkpoint to a bundle: torch to ONNX, verification, files.

The parts that work on ONNX alone need no torch, so importing this package loads none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minit2i_deploy.errors import require
from minit2i_deploy.export.options import ExportOptions, SourceOptions

if TYPE_CHECKING:
    from minit2i_deploy.export.verification.bundle_check import verify_bundle
    from minit2i_deploy.export.write import export_bundle

__all__ = ["ExportOptions", "SourceOptions", "export_bundle", "verify_bundle"]


def __getattr__(name: str) -> Any:
    if name not in ("export_bundle", "verify_bundle"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The modules below import these at their top; require() names the pip line if one is missing.
    require("torch", "export")
    require("onnxscript", "export")
    from minit2i_deploy.export.verification.bundle_check import verify_bundle
    from minit2i_deploy.export.write import export_bundle

    globals().update(export_bundle=export_bundle, verify_bundle=verify_bundle)
    return globals()[name]
