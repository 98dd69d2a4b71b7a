"""PyTorch on a bundle: a float32 reference, eager, compiled, all rows in one CUDA graph."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np

import minit2i_deploy as m
from benchmarks.first_half_hour.figures import Context
from benchmarks.first_half_hour.images import (
    ROWS,
    difference,
    inputs,
    rows,
    run_image,
    time_runtime,
)

_IMAGES: Final = 15


def fill_bundle(context: Context) -> None:
    """Weights of the bundle, from a seed."""
    from benchmarks.first_half_hour.stripped_bundle import fill

    folder = _folder(context)
    context.measure("bytes", lambda: fill(folder))


def reference(context: Context) -> None:
    """The final state in float32, which all others are compared with."""

    def run() -> dict[str, Any]:
        figures, end = time_runtime(
            _folder(context), "torch", num_images=4, device=context.device, precision="fp32"
        )
        np.save(_reference_path(context), end)
        return figures

    context.measure("fp32 eager", run)


def eager(context: Context) -> None:
    """The bundle's precision, eagerly."""
    context.measure("eager", lambda: _timed(context, batches=(1, 4)))


def compiled(context: Context) -> None:
    """The product's compiled step."""
    with _compile_settings(context):
        context.measure("compiled", lambda: _timed(context, compile=True))


def compile_modes(context: Context) -> None:
    """The compiled step in torch's other modes."""
    for mode in ("reduce-overhead", "max-autotune"):
        with _compile_settings(context, mode=mode):
            context.measure(mode, lambda: _timed(context, compile=True))


def one_graph(context: Context) -> None:
    """All rows as one graph of our own, with torch's choice of attention and with cuDNN's first."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    context.measure("default", lambda: _one_graph(context))
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        context.measure("cudnn attention first", lambda: _one_graph(context))


def profile(context: Context) -> None:
    """The kernels of a row that take the longest."""
    context.measure("kernels", lambda: _profile(context))


def read_reference(context: Context) -> np.ndarray | None:
    """The float32 state that ``reference`` wrote; None where it failed."""
    path = _reference_path(context)
    return np.load(path) if path.exists() else None


def _timed(context: Context, **options: Any) -> dict[str, Any]:
    return time_runtime(
        _folder(context),
        "torch",
        reference=read_reference(context),
        num_images=12 if context.on_gpu else 2,
        device=context.device,
        **options,
    )[0]


def _one_graph(context: Context) -> dict[str, Any]:
    import torch

    # What was compiled under another choice of attention must not come back.
    torch.compiler.reset()
    bundle = m.Bundle.open(_folder(context))
    with m.open_runtime(bundle, "torch", device=context.device) as runtime, torch.no_grad():
        settings = {} if context.on_gpu else {"backend": "eager"}
        network = runtime._network  # type: ignore[attr-defined]
        step = torch.compile(network.step, dynamic=False, fullgraph=True, **settings)
        state: Any = runtime.start(*inputs(bundle))
        row_list = rows()
        fixed = state._fixed_tensors(len(row_list[0].weights))
        places = (fixed["tokens"], fixed["image"], fixed["sequence"])
        known = (fixed["known"], fixed["known_mask"])
        row_inputs = [state._inputs.of_row(row) for row in row_list]
        weights, values = (
            torch.tensor(np.stack([each[name] for each in row_inputs]), device=context.device)
            for name in ("weights", "row")
        )

        def all_rows() -> Any:
            now, history = state._x, torch.zeros_like(state._x)
            for weight, value in zip(weights, values, strict=True):
                now, history = step(now, history, *places, weight, value, *known)
            return now

        began = time.perf_counter()
        replay = _recorded(context, all_rows)
        first = time.perf_counter() - began
        seconds, end = [], replay()
        for _ in range(_IMAGES if context.on_gpu else 2):
            began = time.perf_counter()
            end = replay().cpu()
            seconds.append(time.perf_counter() - began)
    figures: dict[str, Any] = {
        "first_s": round(first, 2),
        "ms_a_row": round(statistics.median(seconds) / ROWS * 1e3, 3),
        "least_ms": round(min(seconds) / ROWS * 1e3, 3),
    }
    expected = read_reference(context)
    if expected is not None:
        figures["difference"] = difference(end.numpy(), expected)
    return figures


def _recorded(context: Context, call: Callable[[], Any]) -> Callable[[], Any]:
    """A call as one CUDA graph; on the CPU the call itself."""
    import torch

    if not context.on_gpu:
        call()
        return call
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        end = call()

    def replay() -> Any:
        graph.replay()
        return end

    return replay


def _profile(context: Context) -> dict[str, Any]:
    import torch
    from torch.profiler import ProfilerActivity

    activity = ProfilerActivity.CUDA if context.on_gpu else ProfilerActivity.CPU
    bundle = m.Bundle.open(_folder(context))
    with (
        m.open_runtime(bundle, "torch", device=context.device) as runtime,
        torch.profiler.profile(activities=[activity]) as profiled,
    ):
        run_image(bundle, runtime, rows())
    key = "device_time_total" if context.on_gpu else "cpu_time_total"
    events = sorted(profiled.key_averages(), key=lambda event: -getattr(event, key))
    return {
        "kernels_a_row": sum(event.count for event in events) / ROWS,
        "longest": [(e.key[:70], e.count, round(getattr(e, key))) for e in events[:25]],
    }


@contextmanager
def _compile_settings(context: Context, **settings: Any) -> Iterator[None]:
    """Compile with other settings than the product's; on the CPU without a compiler."""
    import torch

    from minit2i_deploy.runtimes.torch import network

    torch.compiler.reset()
    if not context.on_gpu:
        settings = {"backend": "eager"}
    other = functools.partial(network.step_call, **settings)
    with mock.patch.object(network, "step_call", other) if settings else nullcontext():
        yield


def _folder(context: Context) -> Path:
    assert context.bundle is not None
    return context.bundle


def _reference_path(context: Context) -> Path:
    return context.work / f"reference-{_folder(context).name}.npy"
