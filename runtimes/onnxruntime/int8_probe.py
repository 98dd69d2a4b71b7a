"""Whether ONNX Runtime's 8-bit products are right on this processor."""

from __future__ import annotations

import functools

import numpy as np

from minit2i_deploy.errors import require
from minit2i_deploy.runtimes import int8_probe
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from minit2i_deploy.runtimes.onnxruntime.session import open_session


def int8_products_saturate() -> bool:
    """Whether provider cpu adds 8-bit products in 16 bits, as on x86 without VNNI.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        RuntimeFailure: it does not run the products.
    """
    return bool(saturating_forms("cpu"))


@functools.cache
def saturating_forms(provider: str) -> frozenset[str]:
    """What ``runtimes.int8_probe.saturating_forms`` gives for a provider; tried once a process.

    Raises:
        MissingDependencyError: onnxruntime or the provider is not installed.
        RuntimeFailure: it does not run the products.
    """
    chosen = PROVIDERS[provider]
    ort = require("onnxruntime", chosen.extra)

    def run(model: bytes, a: np.ndarray) -> np.ndarray:
        output: np.ndarray = open_session(ort, model, chosen, threads=1).run(None, {"a": a})[0]
        return output

    return int8_probe.saturating_forms(run)
