"""Samples of the graphs' outputs for fixed inputs, stored in a bundle to compare engines with.

A network that overflows gives NaN, but operators turn NaN into numbers on the way: OpenVINO's Relu,
Max and Clip, and QuantizeLinear everywhere. What comes out is finite and about as large as it
should be, but another image. So a bundle whose number types overflow holds values of float32
arithmetic, and a runtime compares its own with them when a graph first runs.

Measured on the demo model: int8, int8-cpu, fp8 and fp16 steps are off by 0.002 to 0.15, and those
of a network that overflows in one norm by 1.4 to 2.2, while its size is right within a factor 1.4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, Int64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.names import REFERENCE_OUTPUTS
from minit2i_deploy.errors import BundleError, RuntimeFailure
from minit2i_deploy.io.files import atomic_write_text
from minit2i_deploy.io.strict_json import decode, parse_json
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.row import Row

# Precisions of graphs that overflow or saturate where float32 does not.
OVERFLOWING: Final = ("fp16", "int8", "fp8", "mxfp8", "fp4")
# Nine common tokens and the end.
TEXT_IDS: Final = np.array([[3, 4, 5, 6, 7, 8, 9, 10, 11, 1]], dtype=np.int64)
MAX_ERROR: Final = 0.5
NUM_SAMPLES: Final = 256
_DIGITS: Final = 6
_SEED: Final = 7
# About the size of a T5's output, and tokens of a short prompt.
_CONTEXT_SCALE, _NUM_TOKENS = 0.2, 6
# h, omega, t_min, t_max of the released student.
_CONDITIONS: Final = (0.25, 12.0, 0.2, 0.8)
# The next state is then the network's own estimate of the image.
_ESTIMATE: Final = np.array([0, 1, 0, 0, 0, 0], np.float32)


def write_reference_outputs(bundle: Bundle, runtime: Runtime, folder: Path) -> None:
    """Write the samples of all graphs into a folder, from a runtime that computes in float32."""
    adapted = runtime.adapt(*adapter_inputs(bundle))
    x, tokens, row = step_inputs(bundle, adapted, batch=1, branches=1)
    state = runtime.start(x, tokens)
    state.step(row)
    outputs = {
        "text_encoder": runtime.encode(TEXT_IDS, np.ones_like(TEXT_IDS)),
        "text_adapter": adapted,
        "transformer": patches(bundle, state.state()[0]),
    }
    samples = {
        graph: [float(f"{value:.{_DIGITS}g}") for value in sample(output)]
        for graph, output in outputs.items()
    }
    atomic_write_text(folder / REFERENCE_OUTPUTS, json.dumps(samples) + "\n")


def read_reference_outputs(bundle: Bundle) -> Mapping[str, tuple[float, ...]]:
    """Samples by graph; empty for a bundle without the file.

    Raises:
        BundleError: the file is not of this form.
    """
    if REFERENCE_OUTPUTS not in bundle.manifest.files:
        return {}
    path = bundle.path / REFERENCE_OUTPUTS
    try:
        samples: dict[str, tuple[float, ...]] = decode(
            Mapping[str, tuple[float, ...]], parse_json(path.read_bytes()), "samples"
        )
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); run minit2i verify") from error
    return samples


def require_reference_output(
    bundle: Bundle, graph: str, engine: str, output: Float32[np.ndarray, "n positions width"]
) -> None:
    """Refuse an engine whose output is another one than the bundle's; without one, nothing.

    Raises:
        RuntimeFailure: the samples differ by more than MAX_ERROR, or are not finite.
        BundleError: the bundle's file cannot be read.
    """
    samples = read_reference_outputs(bundle).get(graph)
    if samples is None:
        return
    actual, expected = sample(output), np.array(samples)
    error = float("inf")
    if actual.shape == expected.shape:
        with np.errstate(invalid="ignore", over="ignore"):
            error = float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
    if not error <= MAX_ERROR:
        raise RuntimeFailure(
            f"{bundle.path}: {graph} is broken on {engine}: its output for fixed inputs is off by "
            f"{error:.2g}, and {MAX_ERROR} is the most; numbers overflow there, so choose another "
            "engine, or a bundle of a higher precision (fp32)"
        )


def adapter_inputs(
    bundle: Bundle,
) -> tuple[
    Float32[np.ndarray, "1 length width"],
    Int64[np.ndarray, "1 length"],
    Float32[np.ndarray, "1 4"] | None,
]:
    """Context, mask and conditions for ``adapt``."""
    config = bundle.config
    context = standard_noise(_SEED, (1, config.prompt_length, config.txt_input_size))
    mask = np.zeros((1, config.prompt_length), np.int64)
    mask[:, :_NUM_TOKENS] = 1
    conditions = None if config.student is None else np.array([_CONDITIONS], np.float32)
    return context * np.float32(_CONTEXT_SCALE), mask, conditions


def step_inputs(
    bundle: Bundle, adapted: Float32[np.ndarray, "1 adapted hidden"], *, batch: int, branches: int
) -> tuple[
    Float32[np.ndarray, "batch 3 height width"],
    Float32[np.ndarray, "branches batch adapted hidden"],
    Row,
]:
    """State, tokens and row for one step from noise; images and branches are all the same."""
    scale = np.float32(bundle.manifest.noise.scale)
    # At the bundle's own size, which the stored samples are of.
    noise = standard_noise(_SEED, bundle.manifest.model.image_shape) * scale
    weights = np.full(branches, 1 / branches, np.float32)
    return (
        np.tile(noise, (batch, 1, 1, 1)),
        np.tile(adapted, (branches, batch, 1, 1)),
        Row(values=_ESTIMATE, weights=weights),
    )


def sample(output: Float32[np.ndarray, "n positions width"]) -> Float64[np.ndarray, " samples"]:
    """Evenly chosen deviations from the mean over positions: float64, NUM_SAMPLES at most.

    The mean is most of an estimate from noise, and a broken network may well give it.
    """
    values = output[0].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        deviations = (values - values.mean(0)).reshape(-1)
    places = np.linspace(0, deviations.size - 1, min(NUM_SAMPLES, deviations.size))
    return deviations[places.round().astype(np.int64)]


def patches(
    bundle: Bundle, x: Float32[np.ndarray, "batch 3 height width"]
) -> Float32[np.ndarray, "1 patches values"]:
    """The first image's patches, one a position."""
    model = bundle.manifest.model
    (lines, columns), size = model.patch_grid, model.patch_size
    image = x[0].reshape(len(x[0]), lines, size, columns, size)
    return image.transpose(1, 3, 0, 2, 4).reshape(1, lines * columns, -1)
