"""From a checkpoint to a bundle: torch to ONNX, verification, files.

The parts that work on ONNX alone need no torch: importing this package loads none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minit2i_deploy.errors import require

if TYPE_CHECKING:
    from minit2i_deploy.export.verification.bundle_check import verify_bundle
    from minit2i_deploy.export.write import export_bundle

__all__ = ["export_bundle", "verify_bundle"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # What is imported below has these at its top; the error of a missing one names the pip line.
    require("torch", "export")
    require("onnxscript", "export")
    from minit2i_deploy.export.verification.bundle_check import verify_bundle
    from minit2i_deploy.export.write import export_bundle

    globals().update(export_bundle=export_bundle, verify_bundle=verify_bundle)
    return globals()[name]
