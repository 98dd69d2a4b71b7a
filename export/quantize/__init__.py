"""From a bundle to an INT8, FP8 or weight-only bundle: calibrate, smooth, quantise, measure.

Works on the bundle's ONNX graphs; no torch is needed.
"""

from __future__ import annotations

from minit2i_deploy.errors import require

# Everything below imports these at its top; the error of a missing one should name the pip line.
require("onnx", "quantize")
require("ml_dtypes", "quantize")

from minit2i_deploy.export.quantize.bundle_quantization import quantize_bundle  # noqa: E402
from minit2i_deploy.export.quantize.calibration.collection import DrawSettings, calibrate  # noqa: E402
from minit2i_deploy.export.quantize.calibration.prompts import default_prompts, read_prompts  # noqa: E402
from minit2i_deploy.export.quantize.calibration.range_comparison import compare_ranges  # noqa: E402
from minit2i_deploy.export.quantize.calibration.ranges import Calibration  # noqa: E402
from minit2i_deploy.export.quantize.calibration.trajectory_states import State, draw  # noqa: E402
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime  # noqa: E402
from minit2i_deploy.export.quantize.graph.linear_layers import (  # noqa: E402
    Linear,
    default_exclusions,
    excluded_layers,
    linear_layers,
)
from minit2i_deploy.export.quantize.graph.model_graph import Graph, Session, read_graph, write_graph  # noqa: E402
from minit2i_deploy.export.quantize.graph.rewrite import quantize_graph  # noqa: E402
from minit2i_deploy.export.quantize.schemes import SCHEMES, GraphScheme, Scheme, find_scheme  # noqa: E402
from minit2i_deploy.export.quantize.smoothing_search import Prepared, prepare  # noqa: E402

__all__ = [
    "SCHEMES",
    "Calibration",
    "DrawSettings",
    "Graph",
    "GraphScheme",
    "GraphsRuntime",
    "Linear",
    "Prepared",
    "Scheme",
    "Session",
    "State",
    "calibrate",
    "compare_ranges",
    "default_exclusions",
    "default_prompts",
    "draw",
    "excluded_layers",
    "find_scheme",
    "linear_layers",
    "prepare",
    "quantize_bundle",
    "quantize_graph",
    "read_graph",
    "read_prompts",
    "write_graph",
]
