"""Four bits, by method and scheme: prompt following, distance to fp32, and bytes.

    python benchmarks/four_bits.py demo results.json --per-kind 10
    python benchmarks/four_bits.py demo chosen.json --per-kind 100 --cell int4-weights/gptq

Each cell quantizes the step graph by one method to one scheme and generates held-out captions with
the same noise as the fp32 graph, all in float32 arithmetic of the same rounding. A trajectory
runs twice from the switch on: to the end in few bits, and to the end in 8 bits (int8-cpu). The file
is written after every cell, and the same command continues an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import numpy as np

import minit2i_deploy as m
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.evaluation.compare.confidence_interval import difference_interval
from minit2i_deploy.evaluation.compare.prompt_cases import PromptCase, caption_cases
from minit2i_deploy.evaluation.quality.paired_verdicts import PairedVerdicts
from minit2i_deploy.evaluation.shapes.score import judge
from minit2i_deploy.export.quantize import (
    Calibration,
    DrawSettings,
    Graph,
    GraphScheme,
    GraphsRuntime,
    QuantizableGraph,
    calibrate,
    default_prompts,
    find_scheme,
    match_any,
    quantize_graph,
    smooth_and_scale,
)
from minit2i_deploy.export.quantize.calibration.range_collection import plan_calibration
from minit2i_deploy.export.quantize.formats import INT4, INT8
from minit2i_deploy.export.quantize.rotation import rotate_calibration, rotate_step
from minit2i_deploy.export.quantize.rounding.layers import round_layers
from minit2i_deploy.export.quantize.schemes import WIDE_INPUTS
from minit2i_deploy.io.files import atomic_write_text
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.request import Request

SWITCH: Final = 0.75
STEPS: Final = 20
GUIDANCE: Final = 2.5
BATCH: Final = 10
RANK: Final = 32
# Activations of each value that GPTQ's second moments are taken from.
DRAW: Final = DrawSettings(samples=32, activations=8192)
SCHEMES: Final = {
    "int4-weights": find_scheme("int4-weights").transformer,
    "nvfp4-weights": find_scheme("nvfp4-weights").transformer,
    "int4-int8": GraphScheme(
        weights=INT4, activations=INT8, per_token=True, block=64, weights_only=WIDE_INPUTS
    ),
    "nvfp4": find_scheme("nvfp4").transformer,
    "mxfp8": find_scheme("mxfp8").transformer,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What is done to the weights: rounding, rotation, smoothing, rank of a branch."""

    rounding: str = "gptq"
    rotate: bool = False
    smooth: bool = False
    rank: int = 0


METHODS: Final = {
    "nearest": Method(rounding="nearest"),
    "search": Method(rounding="search"),
    "gptq": Method(),
    "smooth+gptq": Method(smooth=True),
    "rotate+nearest": Method(rounding="nearest", rotate=True),
    "rotate+gptq": Method(rotate=True),
    "low-rank+gptq": Method(rank=RANK),
    "rotate+low-rank+gptq": Method(rotate=True, rank=RANK),
}


def cells() -> dict[str, tuple[GraphScheme, Method]]:
    """All that differ: only integer inputs gain by smoothing, and 8 bits need no method."""
    return {
        f"{scheme}/{name}": (form, method)
        for scheme, form in SCHEMES.items()
        for name, method in METHODS.items()
        if (form.gains_by_smoothing or not method.smooth)
        and (scheme != "mxfp8" or name == "nearest")
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    try:
        _run(options)
    except Minit2iError as error:
        print(f"four_bits.py: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", metavar="BUNDLE", help="fp32, of a shapes model; demo is shipped")
    parser.add_argument("results", metavar="FILE.json", type=Path, help="continued if it exists")
    parser.add_argument("--per-kind", metavar="N", type=int, default=10, help="captions a kind")
    parser.add_argument(
        "--cell", metavar="PATTERN", action="append", help="such as 'nvfp4/*'; default all"
    )
    parser.add_argument("--threads", metavar="N", type=int, default=0)
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    names = _matching(options.cell or ["*"])
    path = m.ready_bundle("demo") if options.bundle == "demo" else options.bundle
    ranges = options.results.with_suffix(".ranges.npz")
    subject = Subject(m.Bundle.open(path), options.per_kind, options.threads, ranges)
    results = _read(options.results, subject.meta())
    finals = options.results.with_suffix(".npy")
    if "fp32" not in results["cells"] or not finals.is_file():
        expected, cell = subject.reference()
        np.save(finals, expected)
        results["cells"]["fp32"] = cell
        _write(options.results, results)
    subject.expected = np.load(finals)
    for name in names:
        if name not in results["cells"]:
            results["cells"][name] = subject.cell(*cells()[name], results["cells"]["fp32"])
            _write(options.results, results)
            print(_line(name, results["cells"]), flush=True)
    print("\n".join(table(results["cells"])))


def _matching(patterns: Sequence[str]) -> list[str]:
    names = [name for name in cells() if any(fnmatchcase(name, item) for item in patterns)]
    if not names:
        raise UsageError(f"no cell is like {' or '.join(patterns)}; cells are {', '.join(cells())}")
    return names


def _read(path: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    if not path.is_file():
        return {"meta": dict(meta), "cells": {}}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if results.get("meta") != meta:
        raise UsageError(f"{path}: is of another bundle, captions or version; name another file")
    return results


def _write(path: Path, results: Mapping[str, Any]) -> None:
    atomic_write_text(path, json.dumps(results, indent=1) + "\n")


class Subject:
    """A bundle, its captions, and what every cell needs of both.

    Args:
        bundle: in fp32.
        per_kind: captions of each of six kinds.
        threads: of onnxruntime; 0 takes one per core.
        ranges: file of the calibration, written if it is not there or of another one.
    """

    def __init__(self, bundle: m.Bundle, per_kind: int, threads: int, ranges: Path) -> None:
        self.bundle, self.threads, self.expected = bundle, threads, np.empty(0)
        self._path = ranges
        self._cases = caption_cases(per_kind)
        self._step = QuantizableGraph.read(bundle.graph_path("transformer"))
        self._exclude = match_any(self._step.linears, SCHEMES["nvfp4"].exclude)
        self._table = m.solver_table("dpmpp2m", steps=STEPS)
        self._calibration: Calibration | None = None
        self._eight_bits: Graph | None = None

    def meta(self) -> dict[str, Any]:
        """What results of two runs must have in common."""
        count = len(self._cases)
        return {"bundle": self.bundle.digest, "captions": count, "switch": SWITCH, "format": 1}

    def reference(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Final states of the fp32 graph, float32 [captions, 3, H, W], and its cell."""
        with GraphsRuntime(self.bundle, threads=self.threads) as runtime:
            states = [self._run_batch(batch, runtime, None)[0] for batch in self._batches()]
        finals = np.concatenate(states)
        verdicts = [judge(*item).correct for item in self._images(finals)]
        return finals, {"verdicts": verdicts, "bytes": self._step.graph.num_bytes}

    def cell(self, scheme: GraphScheme, method: Method, fp32: Mapping[str, Any]) -> dict[str, Any]:
        """Verdicts and PSNR of a scheme and method, to the end and with the last rows in 8 bits."""
        begin = time.perf_counter()
        graph = self._quantize(scheme, method)
        rounded = time.perf_counter()
        late = self._late_graph()
        with (
            GraphsRuntime(self.bundle, {"transformer": graph}, threads=self.threads) as few,
            GraphsRuntime(self.bundle, {"transformer": late}, threads=self.threads) as eight,
        ):
            pairs = [self._run_batch(batch, few, eight) for batch in self._batches()]
        whole, switched = (np.concatenate(states) for states in zip(*pairs, strict=True))
        extra = late.num_bytes
        return {
            "bytes": graph.num_bytes,
            "quantize_s": round(rounded - begin, 1),
            "generate_s": round(time.perf_counter() - rounded, 1),
            "whole": self._figures(whole, fp32) | {"bytes": graph.num_bytes},
            "late": self._figures(switched, fp32) | {"bytes": graph.num_bytes + extra},
        }

    def _quantize(self, scheme: GraphScheme, method: Method) -> Graph:
        step, calibration = self._step, self._ranges()
        if method.rotate:
            step, calibration = rotate_step(step), rotate_calibration(step, calibration)
        scaled = smooth_and_scale(
            step, scheme, calibration, smoothing=method.smooth, exclude=self._exclude
        )
        rounded = round_layers(
            scaled.step,
            scheme,
            calibration,
            rounding=method.rounding,
            rank=method.rank,
            exclude=self._exclude,
            powers=scaled.powers,
        )
        return quantize_graph(
            scaled.step,
            scheme,
            scaled.scales,
            exclude=self._exclude,
            weights=rounded.weights,
            branches=rounded.branches,
        )

    def _late_graph(self) -> Graph:
        if self._eight_bits is None:
            scheme = find_scheme("int8-cpu").transformer
            scaled = smooth_and_scale(self._step, scheme, self._ranges(), exclude=self._exclude)
            self._eight_bits = quantize_graph(scaled.step, scheme, {}, exclude=self._exclude)
        return self._eight_bits

    def _ranges(self) -> Calibration:
        if self._calibration is None:
            prompts = default_prompts(self.bundle)
            plan = plan_calibration(self.bundle, prompts, DRAW)
            earlier = Calibration.load(self._path) if self._path.is_file() else None
            if earlier is None or earlier.meta != dict(plan.meta):
                earlier = calibrate(self.bundle, prompts, DRAW)
                earlier.save(self._path)
            self._calibration = earlier
        return self._calibration

    def _batches(self) -> Iterator[Sequence[PromptCase]]:
        for begin in range(0, len(self._cases), BATCH):
            yield self._cases[begin : begin + BATCH]

    def _run_batch(
        self, cases: Sequence[PromptCase], few: GraphsRuntime, eight: GraphsRuntime | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Final states in few bits alone, and with the rows from SWITCH on in 8 bits."""
        request = Request.of(
            self.bundle,
            [case.prompt for case in cases],
            seed=[case.seed for case in cases],
            table=self._table,
            guidance=GUIDANCE,
        )
        tokens = request.tokens(self.bundle, few)
        state, late = few.start(request.start(self.bundle), tokens), None
        for row in request.rows:
            history = None
            if late is None and eight is not None and row.t >= SWITCH:
                x, history = state.state()
                late = eight.start(x, tokens)
            state.step(row)
            if late is not None:
                late.step(row, history)
        final = state.state()[0]
        return final, final if late is None else late.state()[0]

    def _images(self, finals: np.ndarray) -> Iterator[tuple[np.ndarray, Any]]:
        for image, case in zip(to_uint8(finals), self._cases, strict=True):
            yield image, case.spec

    def _figures(self, finals: np.ndarray, fp32: Mapping[str, Any]) -> dict[str, Any]:
        verdicts = [judge(*item).correct for item in self._images(finals)]
        paired = PairedVerdicts.of(verdicts, fp32["verdicts"])
        errors = np.square(finals - self.expected, dtype=np.float64).mean(axis=(1, 2, 3))
        # The range is 2.
        decibels = -10 * np.log10(np.maximum(errors, 1e-12) / 4)
        return {
            "score": sum(verdicts) / len(verdicts),
            "difference": (paired.won - paired.lost) / len(verdicts),
            "interval": list(difference_interval(paired, len(verdicts))),
            "psnr_mean": float(decibels.mean()),
            "psnr_median": float(np.median(decibels)),
            "over_30": float((decibels >= 30).mean()),
        }


def table(results: Mapping[str, Any]) -> list[str]:
    """The Markdown table of all cells, in their order."""
    fp32 = results["fp32"]
    score = sum(fp32["verdicts"]) / len(fp32["verdicts"])
    count = len(fp32["verdicts"])
    lines = [
        f"fp32 follows {score:.3f} of {count} captions.",
        "",
        "| scheme | method | rows | bytes | PSNR: mean, median | >= 30 dB | against fp32 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in cells():
        if name in results:
            lines += [_row(name, rows, results[name][rows], fp32) for rows in ("whole", "late")]
    return lines


def _row(name: str, rows: str, figures: Mapping[str, Any], fp32: Mapping[str, Any]) -> str:
    scheme, _, method = name.partition("/")
    low, high = figures["interval"]
    cells_of_row = (
        f"`{scheme}`",
        method,
        "all" if rows == "whole" else f"8 bits from t={SWITCH:g}",
        f"{figures['bytes'] / fp32['bytes']:.3f}",
        f"{figures['psnr_mean']:.1f}, {figures['psnr_median']:.1f}",
        f"{100 * figures['over_30']:.0f}%",
        f"{figures['difference']:+.3f} ({low:+.3f} to {high:+.3f})",
    )
    return f"| {' | '.join(cells_of_row)} |"


def _line(name: str, results: Mapping[str, Any]) -> str:
    cell = results[name]
    rows = "; ".join(_row(name, rows, cell[rows], results["fp32"]) for rows in ("whole", "late"))
    return f"{rows} quantized in {cell['quantize_s']} s, generated in {cell['generate_s']} s"


if __name__ == "__main__":
    sys.exit(run_script(main))
