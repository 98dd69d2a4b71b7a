"""TensorRT engines of a bundle's graphs, by tensorrt or tensorrt_rtx, whichever is asked for.

Needs neither torch nor onnx: the libraries read ONNX themselves.
"""

from __future__ import annotations

from minit2i_deploy.export.tensorrt.audit import audit_layers
from minit2i_deploy.export.tensorrt.build import Built, build_engine
from minit2i_deploy.export.tensorrt.build_bundle import Outcome, build_bundle, plan_bundle
from minit2i_deploy.export.tensorrt.library import BuildLibrary
from minit2i_deploy.export.tensorrt.options import BuildOptions

__all__ = [
    "BuildLibrary",
    "BuildOptions",
    "Built",
    "Outcome",
    "audit_layers",
    "build_bundle",
    "build_engine",
    "plan_bundle",
]
