"""How much memory a build takes, said before it begins."""

from __future__ import annotations

import sys
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle

# Measured with TensorRT-RTX 1.7: the library, the graph and its kernels, and then 1.4 times the
# weights in a slow build and 1.8 in a quick one, which goes further between two rounds of
# reclaim.py. That gives back what was read and freed, on Linux alone.
_BASE_BYTES: Final = 450_000_000
_COPIES: Final = 2.0 if sys.platform == "linux" else 3.5


def weights_bytes(bundle: Bundle, graph: str) -> int:
    """Size of a graph's files.

    Raises:
        UsageError: the bundle has no such graph.
    """
    bundle.graph_path(graph)
    path = bundle.manifest.graphs[graph].path
    files = bundle.manifest.files
    return sum(files[name].bytes for name in (path, f"{path}.data") if name in files)


def expected_memory_bytes(bundle: Bundle, graph: str) -> int:
    """Main memory that building one graph is expected to take at its peak."""
    return int(_BASE_BYTES + _COPIES * weights_bytes(bundle, graph))
