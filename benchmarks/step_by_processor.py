"""Errors of quantized bundles on this processor, and what they are on another one.

    python benchmarks/step_by_processor.py demo INT8 INT8_CPU --save here.npz
    qemu-x86_64 -cpu Haswell .venv/bin/python benchmarks/step_by_processor.py demo INT8 INT8_CPU \
        --against here.npz

The first bundle is the reference. Each bundle makes single guided steps from the reference's own
states, by ONNX Runtime; a decibel is -20 log10 of a step's error relative to the reference's. With
--against the states are those of the first run, so that what differs is the processor alone:
after a few rows the smallest difference may have become another image.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

import minit2i_deploy as m
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.evaluation.relative_error import l2_relative_errors
from minit2i_deploy.generate import frames
from minit2i_deploy.request import Request

PROMPTS: Final = (
    "a red circle",
    "a blue square and a green triangle",
    "three yellow circles",
    "a red square left of a blue circle",
)
# Noise, the middle of the way, and near the image.
ROWS: Final = (0, 5, 10, 15, 19)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    earlier = None if options.against is None else dict(np.load(options.against))
    outputs = {"states": _states(options.bundles[0]) if earlier is None else earlier["states"]}
    for index, path in enumerate(options.bundles):
        outputs[str(index)] = _steps(path, outputs["states"])
    for index, path in enumerate(options.bundles):
        print(_line(path, str(index), outputs, earlier))
    if options.save is not None:
        np.savez(options.save, allow_pickle=False, **outputs)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "bundles", metavar="BUNDLE", nargs="+", help="the first is the reference; demo is shipped"
    )
    parser.add_argument("--save", metavar="FILE.npz", type=Path)
    parser.add_argument("--against", metavar="FILE.npz", type=Path, help="of a run with --save")
    return parser.parse_args(arguments)


def _open(path: str) -> m.Bundle:
    return m.Bundle.open(m.ready_bundle(path) if path == "demo" else path)


def _request(bundle: m.Bundle) -> Request:
    table = m.solver_table("dpmpp2m", steps=max(ROWS) + 1)
    return Request.of(bundle, PROMPTS, seed=range(len(PROMPTS)), table=table, guidance=2.5)


def _states(path: str) -> np.ndarray:
    """States before ``ROWS``: float32 [rows, prompts, 3, H, W]."""
    bundle = _open(path)
    request = _request(bundle)
    states = [request.start(bundle)]
    with m.open_runtime(bundle, "onnxruntime") as runtime:
        states += [frame.x() for frame in frames(bundle, runtime, request)]
    return np.stack([states[row] for row in ROWS])


def _steps(path: str, states: np.ndarray) -> np.ndarray:
    """Guided estimates of a bundle from the states: float32 [rows, prompts, 3, H, W]."""
    bundle = _open(path)
    request = _request(bundle)
    estimates = []
    with m.open_runtime(bundle, "onnxruntime") as runtime:
        tokens = request.tokens(bundle, runtime, {})
        for row, x in zip(ROWS, states, strict=True):
            state = runtime.start(x, tokens)
            state.step(request.rows[row])
            # dpmpp2m has no slope, so the history is the estimate.
            estimates.append(state.state()[1])
    return np.stack(estimates)


def _line(
    path: str, name: str, outputs: dict[str, np.ndarray], earlier: dict[str, np.ndarray] | None
) -> str:
    text = f"{path}: {_decibel(outputs[name], outputs['0']):.1f} dB"
    if earlier is None:
        return text
    largest = float(np.abs(outputs[name] - earlier[name]).max())
    return f"{text}, there {_decibel(earlier[name], earlier['0']):.1f} dB; differ by {largest:.1e}"


def _decibel(actual: np.ndarray, expected: np.ndarray) -> float:
    steps = [values.reshape(-1, *values.shape[2:]) for values in (actual, expected)]
    mean = float(l2_relative_errors(*steps).mean())
    return -20 * math.log10(mean) if mean else math.inf


if __name__ == "__main__":
    sys.exit(run_script(main))
