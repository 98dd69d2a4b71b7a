"""TensorRT engines of a bundle's graphs, built by tensorrt or tensorrt_rtx.

Needs neither torch nor onnx: the libraries read ONNX themselves.
"""

from __future__ import annotations

from minit2i_deploy.export.tensorrt.audit import audit_layers
from minit2i_deploy.export.tensorrt.build import BuildResult, build_engine
from minit2i_deploy.export.tensorrt.build_bundle import Outcome, build_bundle, plan_bundle
from minit2i_deploy.export.tensorrt.build_library import BuildLibrary
from minit2i_deploy.export.tensorrt.build_options import BuildOptions

__all__ = [
    "BuildLibrary",
    "BuildOptions",
    "BuildResult",
    "Outcome",
    "audit_layers",
    "build_bundle",
    "build_engine",
    "plan_bundle",
]
