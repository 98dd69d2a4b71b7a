"""Estimate of the memory that a build takes."""

from __future__ import annotations

import sys
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle

# Measured with TensorRT-RTX 1.7: the library, the graph and its kernels, plus 1.4 times the
# weights in a slow build and 1.8 times in a quick one, which allocates more between two rounds of
# memory_reclaim.py. That returns memory on Linux only.
_BASE_BYTES: Final = 450_000_000
_COPIES: Final = 2.0 if sys.platform == "linux" else 3.5


def weights_bytes(bundle: Bundle, graph: str) -> int:
    """Size of a graph's files.

    Raises:
        UsageError: the bundle has no such graph.
    """
    bundle.graph_path(graph)
    info, files = bundle.manifest.graphs[graph], bundle.manifest.files
    names = (info.path, bundle.manifest.data_file(info))
    return sum(files[name].bytes for name in names if name in files)


def expected_memory_bytes(bundle: Bundle, graph: str) -> int:
    """Expected peak of main memory while one graph is built."""
    return int(_BASE_BYTES + _COPIES * weights_bytes(bundle, graph))
