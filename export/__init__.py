"""From a checkpoint to a bundle: torch to ONNX, verification, files."""

from __future__ import annotations

from minit2i_deploy.errors import require

# Everything below imports these at its top; the error of a missing one should name the pip line.
require("torch", "export")
require("onnxscript", "export")

from minit2i_deploy.export.check_bundle import verify_bundle  # noqa: E402
from minit2i_deploy.export.write import export_bundle  # noqa: E402

__all__ = ["export_bundle", "verify_bundle"]
