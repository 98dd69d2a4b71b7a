"""From a bundle to an INT8, FP8 or weight-only bundle: calibrate, smooth, quantize, measure.

Works on the bundle's ONNX graphs, without torch.
"""

from __future__ import annotations

from minit2i_deploy.errors import require

# The modules below import these at their top; require() names the pip line if one is missing.
require("onnx", "quantize")
require("ml_dtypes", "quantize")

from minit2i_deploy.export.quantize.bundle_quantization import quantize_bundle  # noqa: E402
from minit2i_deploy.export.quantize.calibration.prompts import default_prompts, read_prompts  # noqa: E402
from minit2i_deploy.export.quantize.calibration.range_collection import DrawSettings, calibrate  # noqa: E402
from minit2i_deploy.export.quantize.calibration.range_comparison import compare_ranges  # noqa: E402
from minit2i_deploy.export.quantize.calibration.ranges import Calibration  # noqa: E402
from minit2i_deploy.export.quantize.calibration.trajectory_states import (  # noqa: E402
    State,
    run_trajectories,
)
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime  # noqa: E402
from minit2i_deploy.export.quantize.graph.linear_layers import (  # noqa: E402
    Linear,
    linear_layers,
    match_any,
    match_layers,
)
from minit2i_deploy.export.quantize.graph.model_graph import Graph, Session, read_graph, write_graph  # noqa: E402
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph  # noqa: E402
from minit2i_deploy.export.quantize.graph.rewrite import quantize_graph  # noqa: E402
from minit2i_deploy.export.quantize.options import QuantizeOptions  # noqa: E402
from minit2i_deploy.export.quantize.schemes import SCHEMES, GraphScheme, Scheme, find_scheme  # noqa: E402
from minit2i_deploy.export.quantize.smoothing_search import ScaledGraph, smooth_and_scale  # noqa: E402

__all__ = [
    "SCHEMES",
    "Calibration",
    "DrawSettings",
    "Graph",
    "GraphScheme",
    "GraphsRuntime",
    "Linear",
    "QuantizableGraph",
    "QuantizeOptions",
    "ScaledGraph",
    "Scheme",
    "Session",
    "State",
    "calibrate",
    "compare_ranges",
    "default_prompts",
    "find_scheme",
    "linear_layers",
    "match_any",
    "match_layers",
    "quantize_bundle",
    "quantize_graph",
    "read_graph",
    "read_prompts",
    "run_trajectories",
    "smooth_and_scale",
    "write_graph",
]
