"""What gpu_tensorrt.py reads of a GPU and prints of a run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from minit2i_deploy.cli.support.formatting import columns
from minit2i_deploy.machine import machine_line

_QUERY: Final = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,power.limit,"
    "temperature.gpu,memory.used,memory.total"
)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Quantiles, and the spread of an engine against itself: medians of odd and even rounds."""
    p50, p95 = (float(value) for value in np.quantile(values, (0.5, 0.95)))
    halves = [float(np.median(part)) for part in (values[::2], values[1::2]) if len(part)]
    return {
        "p50": p50,
        "p95": p95,
        "least": min(values),
        "n": len(values),
        "aa_spread": max(halves) - min(halves),
    }


def read_card() -> dict[str, str] | None:
    """Facts of the first GPU from nvidia-smi; None without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return dict(zip(_QUERY.split(","), map(str.strip, done.stdout.split(",")), strict=False))


def text(report: Mapping[str, Any]) -> str:
    """Tables for people."""
    parts = [machine_line(report["machine"]), _card_line(report)]
    parts += [f"not run: {label}: {reason}" for label, reason in report["not_run"].items()]
    rows = [
        (label, graph, f"{error:.1e}")
        for label, errors in report["errors"].items()
        for graph, error in errors.items()
    ]
    parts.append(columns(rows, head=("engine", "compared", "relative error")))
    tflop = report["step_flops"] / 1e12
    rows = [
        (
            batch,
            label,
            *(f"{values[key] * 1e3:.3f}" for key in ("p50", "p95", "aa_spread")),
            f"{tflop * int(batch) / values['p50']:.1f}",
        )
        for batch, contenders in report["step_s"].items()
        for label, values in contenders.items()
    ]
    head = ("batch", "engine", "p50 ms", "p95 ms", "A/A ms", "TFLOP/s")
    parts.append("guided step\n" + columns(rows, head=head))
    rows = [
        (preset, label, *(f"{values[key] * 1e3:.2f}" for key in ("p50", "p95", "aa_spread")))
        for preset, contenders in report["picture_s"].items()
        for label, values in contenders.items()
    ]
    parts.append("picture\n" + columns(rows, head=("preset", "engine", "p50 ms", "p95 ms", "A/A")))
    for label, copies in report["host_copies_a_picture"].items():
        parts.append(f"{label}: {copies['to_device']} copies to the GPU, {copies['to_host']} back")
    return "\n\n".join(parts)


def _card_line(report: Mapping[str, Any]) -> str:
    gpu = report["card_before"]
    if gpu is None:
        return "no nvidia-smi, so nothing is known of a GPU"
    after = report["card_after"]
    clocks = f"{gpu['clocks.sm']} before, {after['clocks.sm']} after" if after else ""
    return f"{gpu['name']}, driver {gpu['driver_version']}, SM clock {clocks}"
