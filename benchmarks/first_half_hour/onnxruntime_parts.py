"""onnxruntime on a bundle: proof, plain and recorded steps, rows in turns, text encoder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import minit2i_deploy as m
from benchmarks.first_half_hour.figures import Context
from benchmarks.first_half_hour.images import difference, inputs, time_runtime
from benchmarks.first_half_hour.torch_parts import read_reference
from minit2i_deploy.solvers.table import solver_table

ROOT: Final = Path(__file__).resolve().parents[2]
GPU_TESTS: Final = ("tests/test_gpu.py",)
_TURNS: Final = 12


def proof(context: Context) -> None:
    """Whether the provider opens and multiplies at all."""
    ort = _library()
    context.record("onnxruntime", [ort.__version__, ort.get_available_providers()])

    def run() -> float:
        from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
        from minit2i_deploy.runtimes.onnxruntime.session import run_toy

        return run_toy(ort, PROVIDERS[_provider(context)])

    context.measure("toy graph, difference", run)


def plain(context: Context) -> None:
    """Steps launched kernel by kernel."""
    context.measure("plain", lambda: _timed(context, "off", (1, 4)))


def recorded(context: Context) -> None:
    """Steps replayed as CUDA graphs."""
    context.measure("recorded", lambda: _timed(context, "on" if context.on_gpu else "off", (1, 4)))


def turns(context: Context) -> None:
    """Rows with guidance and without it in turns: a graph that reads what is stale shows here."""

    def run() -> dict[str, Any]:
        modes = ("off", "on") if context.on_gpu else ("off", "off")
        plain_ends, recorded_ends = (_ends_of_turns(context, mode) for mode in modes)
        pairs = zip(recorded_ends, plain_ends, strict=True)
        return {"differences": [difference(actual, expected) for actual, expected in pairs]}

    context.measure("recorded against plain", run)


def encoder(context: Context) -> None:
    """The text encoder against PyTorch in float32; products in TF32 show as 1e-3."""

    def run() -> float:
        _library()
        bundle = m.Bundle.open(_folder(context))
        ids = np.array([[3, 4, 5, 6, 7, 1]])
        results = []
        for runtime, options in (
            ("torch", {"device": context.device}),
            ("onnxruntime", {"provider": _provider(context)}),
        ):
            with m.open_runtime(bundle, runtime, **options) as opened:
                results.append(opened.encode(ids, np.ones_like(ids)))
        return difference(results[1], results[0])

    context.measure("difference", run)


def gpu_tests(context: Context) -> None:
    """The tests that need a GPU; a rehearsal collects them."""

    def run() -> dict[str, Any]:
        how = [] if context.on_gpu else ["--collect-only"]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *how, *GPU_TESTS]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return {"exit": done.returncode, "last_lines": lines[-12:]}

    context.measure("pytest -m gpu", run)


def _timed(context: Context, cuda_graph: str, batches: Sequence[int]) -> dict[str, Any]:
    _library()
    return time_runtime(
        _folder(context),
        "onnxruntime",
        reference=read_reference(context),
        batches=batches,
        num_images=12 if context.on_gpu else 1,
        provider=_provider(context),
        cuda_graph=cuda_graph,
    )[0]


def _ends_of_turns(context: Context, cuda_graph: str) -> list[np.ndarray]:
    """Final states of three images with one seed twice, on one runtime."""
    _library()
    bundle = m.Bundle.open(_folder(context))
    # Guidance between 0.3 and 0.7 alone.
    table = solver_table("euler", steps=_TURNS, interval=(0.3, 0.7))
    options = {"provider": _provider(context), "cuda_graph": cuda_graph}
    ends = []
    with m.open_runtime(bundle, "onnxruntime", **options) as runtime:
        for seed in (1, 2, 1):
            state = runtime.start(*inputs(bundle, seed=seed))
            for row in table.steps(2.5):
                state.step(row)
            ends.append(state.state()[0])
    return ends


def _library() -> Any:
    """onnxruntime, after torch, which brings the CUDA libraries into the process."""
    import torch  # noqa: F401

    import onnxruntime  # isort: skip

    return onnxruntime


def _provider(context: Context) -> str:
    return "cuda" if context.on_gpu else "cpu"


def _folder(context: Context) -> Path:
    assert context.bundle is not None
    return context.bundle
