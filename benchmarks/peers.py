"""One guided step and one encoded prompt: our runtimes against what people would run instead.

    python benchmarks/peers.py BUNDLE --official CHECKOUT
    python benchmarks/peers.py BUNDLE --part encoder --rounds 9 --json

CHECKOUT is a clone of the official PyTorch port (github Hope7Happiness/minit2i-torch). All do the
same work on the same weights, in turns (A B A B), so that a busy machine slows all of them; wall
and CPU time are taken. Errors are to the first contender that computes in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

# Read when torch loads: threads that spin while they wait slow everything beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from peer_engines import (
    OFFICIAL,
    OURS,
    Contender,
    command_step,
    matrix_rates,
    official_step,
    our_encoder,
    our_step,
    peer_encoders,
    prepare,
    text_flops,
)

import minit2i_deploy as m
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.flops import denoiser_flops
from minit2i_deploy.machine import describe_machine, machine_line
from minit2i_deploy.progress import Progress, ProgressLine

PARTS: Final = ("step", "encoder")
# The plugin finds devices of Intel only, so it is excluded unless it is requested.
_USUAL: Final = tuple(label for label in OURS if "openvino bf16" != label.partition(" ")[2])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    bundle = m.Bundle.open(options.bundle)
    with ProgressLine("peers") as progress:
        progress(0.0, "prepare")
        work = prepare(bundle, options.threads)
        rates = matrix_rates(options.threads)
        parts = {}
        for part in options.part:
            with ExitStack() as stack:
                contenders = _contenders(part, bundle, work, options, stack)
                parts[part] = _measured(part, contenders, options.rounds, progress)
        # Once more, so that what the machine did meanwhile does not stay unseen.
        rates = {
            name: max(rate, rates[name]) for name, rate in matrix_rates(options.threads).items()
        }
    step = 2 * denoiser_flops(bundle.config)
    flops = {"step": step, "encoder": text_flops(bundle, work.ids.shape[1])}
    report = {
        "machine": describe_machine(),
        "load": os.getloadavg()[0],
        "variant": bundle.manifest.variant,
        "prompt_tokens": work.ids.shape[1],
        "matrix_rate_flops": rates,
        "flops": {part: flops[part] for part in parts},
        "parts": {
            part: _summary(rows, flops[part], rates, options.threads)
            for part, rows in parts.items()
        },
    }
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our runtimes against others, in turns.")
    parser.add_argument("bundle", metavar="BUNDLE", help="of minit2i export, in fp32")
    parser.add_argument("--official", type=Path, help="clone of the official PyTorch port")
    parser.add_argument(
        "--sd-cpp",
        metavar="COMMAND",
        help="command line of stable-diffusion.cpp generating with the same model and size, with "
        "{steps} where their number goes",
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="default: both")
    parser.add_argument(
        "--ours",
        choices=OURS,
        action="append",
        help="of our runtimes; default: all but the plugin for Intel",
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--threads", type=int, default=2, help="of each engine; default: 2")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.threads) < 1:
        parser.error("--rounds and --threads must be at least 1")
    if options.official and not (options.official / "diffusers" / "mmdit.py").is_file():
        parser.error(f"{options.official}: no diffusers/mmdit.py; give a clone of the port")
    if options.sd_cpp and "{steps}" not in options.sd_cpp:
        parser.error("--sd-cpp has no {steps}; put it where the number of steps goes")
    options.part = options.part or list(PARTS)
    options.ours = options.ours or list(_USUAL)
    return options


def _contenders(
    part: str, bundle: m.Bundle, work: Any, options: argparse.Namespace, stack: ExitStack
) -> list[Contender]:
    threads = options.threads
    if part == "encoder":
        ours = [our_encoder(bundle, label, work, threads, stack) for label in _encoding(options)]
        return [*ours, *peer_encoders(bundle, work, threads)]
    contenders = [our_step(bundle, label, work, threads, stack) for label in options.ours]
    if options.official is not None:
        contenders += [official_step(bundle, label, work, options.official) for label in OFFICIAL]
    if options.sd_cpp is not None:
        contenders.append(command_step(options.sd_cpp))
    return contenders


def _encoding(options: argparse.Namespace) -> list[str]:
    """The torch runtime keeps its encoder in fp32, so its bf16 would be the same again."""
    return [label for label in options.ours if label != "torch bf16"]


def _measured(
    part: str, contenders: Sequence[Contender], rounds: int, progress: Progress
) -> list[dict[str, Any]]:
    """Warm up and take the results, then time all in turns."""
    rows: list[dict[str, Any]] = []
    for contender in contenders:
        result = None if contender.call is None else contender.call()
        rows.append({"contender": contender, "result": result, "wall_s": [], "cpu_s": []})
        progress(0.0, f"{part}: {contender.label}")
    for turn in range(rounds):
        for row in rows:
            wall, cpu = _timed(row["contender"])
            row["wall_s"].append(wall)
            row["cpu_s"].append(cpu)
        progress((turn + 1) / rounds, part)
    return rows


def _timed(contender: Contender) -> tuple[float, float]:
    if contender.timed is not None:
        return contender.timed()
    assert contender.call is not None
    wall, cpu = time.perf_counter(), time.process_time()
    contender.call()
    return time.perf_counter() - wall, time.process_time() - cpu


def _summary(
    rows: Sequence[Mapping[str, Any]], flops: int, rates: Mapping[str, float], threads: int
) -> list[dict[str, Any]]:
    reference = next(row["result"] for row in rows if row["contender"].precision == "fp32")
    first = rows[0]
    summary = []
    for row in rows:
        contender, wall = row["contender"], row["wall_s"]
        rate = rates.get(contender.precision)
        cpu = statistics.median(row["cpu_s"])
        pairs = zip(wall, first["wall_s"], strict=True)
        cpu_pairs = zip(row["cpu_s"], first["cpu_s"], strict=True)
        result = row["result"]
        off = (
            None
            if result is None
            else float(np.abs(result - reference).max() / np.abs(reference).max())
        )
        summary.append(
            {
                "label": contender.label,
                "precision": contender.precision,
                "median_s": statistics.median(wall),
                "min_s": min(wall),
                "cpu_median_s": cpu,
                "times_first": statistics.median(a / b for a, b in pairs),
                "cpu_times_first": statistics.median(a / b for a, b in cpu_pairs),
                # In CPU time on both sides, which a busy machine changes least.
                "share_of_matrix_rate": None if rate is None else threads * flops / cpu / rate,
                "difference": off,
                "wall_s": list(wall),
                "cpu_s": list(row["cpu_s"]),
            }
        )
    return summary


def _text(report: Mapping[str, Any]) -> str:
    from minit2i_deploy.cli.support.formatting import columns

    rates = ", ".join(f"{k} {v / 1e9:.0f}" for k, v in report["matrix_rate_flops"].items())
    lines = [
        f"{machine_line(report['machine'])}, load {report['load']:.1f}",
        f"{report['variant'] or 'of no published size'}, a prompt of {report['prompt_tokens']} "
        f"tokens; matrix rate by CPU time, GFLOP/s: {rates}",
    ]
    head = ("", "median s", "min s", "CPU s", "x first", "CPU x first", "share", "error")
    for part, rows in report["parts"].items():
        lines.append(f"\n{part}: {report['flops'][part] / 1e9:.1f} GFLOP")
        table = [
            (
                row["label"],
                *(f"{row[name]:.3f}" for name in ("median_s", "min_s", "cpu_median_s")),
                *(f"{row[name]:.2f}" for name in ("times_first", "cpu_times_first")),
                "" if row["share_of_matrix_rate"] is None else f"{row['share_of_matrix_rate']:.0%}",
                "" if row["difference"] is None else f"{row['difference']:.1e}",
            )
            for row in rows
        ]
        lines.append(columns(table, head=head))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
