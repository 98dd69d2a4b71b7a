"""Figures of docs/measurements/performance.md that are ours, as cells that any build measures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.regression_builds import Build, last_line
from minit2i_deploy.config import VARIANTS

_CELL: Final = Path(__file__).with_name("regression_cell.py")
_MEMORY: Final = ("image-memory", "embed-memory")
# Of FLAN-T5-Large.
_T5_LAYERS: Final = 24
_VOCABULARY: Final = 32128


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One figure.

    Args:
        name: as ``--only`` takes it.
        kind: what is measured, one of ``regression_cell.KINDS``.
        network: "demo", or one of the published sizes with random weights.
        bundle: how its bundle is made, one of BUNDLES.
        runtime: that runs it.
        options: of the runtime.
    """

    name: str
    kind: str
    network: str
    bundle: str = "fp32"
    runtime: str = "onnxruntime"
    options: Mapping[str, Any] = field(default_factory=dict)

    def text(self, value: float) -> str:
        """A value with its unit."""
        if self.kind in _MEMORY:
            return f"{value / 1e6:.0f} MB"
        return f"{value:.3g} s" if value >= 0.1 else f"{value * 1e3:.3g} ms"


# What the command line makes a bundle of: its command, the bundle it starts from, and options.
BUNDLES: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "fp32": ("export", "", ("--precision", "fp32")),
    "for-cpu": ("export", "", ("--precision", "fp32", "--for", "cpu")),
    "int8-cpu": ("quantize", "fp32", ("--scheme", "int8-cpu")),
    "int8-for-cpu": ("quantize", "for-cpu", ("--scheme", "int8-cpu")),
}
_OPENVINO: Final = {"runtime": "openvino"}
# By the figure's name within a network.
_FIGURES: Final[dict[str, dict[str, Any]]] = {
    "step/NETWORK/onnxruntime": {},
    "step/NETWORK/openvino-fp32": {**_OPENVINO, "options": {"precision": "fp32"}},
    "step/NETWORK/openvino-bf16": {**_OPENVINO, "options": {"precision": "bf16"}},
    "step/NETWORK/for-cpu": {"bundle": "for-cpu"},
    "step/NETWORK/int8-cpu": {"bundle": "int8-cpu"},
    "step/NETWORK/int8-for-cpu": {"bundle": "int8-for-cpu"},
    "prompt/NETWORK/onnxruntime": {},
    "texts/NETWORK/onnxruntime": {},
    "image-memory/NETWORK/onnxruntime": {},
    "image-memory/NETWORK/lean": {"options": {"lean": True}},
    "image-memory/NETWORK/lean-no-arena": {"options": {"lean": True, "arena": False}},
    "image-memory/NETWORK/openvino-fp32": {**_OPENVINO, "options": {"precision": "fp32"}},
    "image-memory/NETWORK/openvino-bf16": {**_OPENVINO, "options": {"precision": "bf16"}},
    "image-memory/NETWORK/openvino-lean": {
        **_OPENVINO, "options": {"precision": "fp32", "lean": True},
    },
    "image-memory/NETWORK/openvino-bf16-lean": {
        **_OPENVINO, "options": {"precision": "bf16", "lean": True},
    },
    "embed-memory/NETWORK/onnxruntime": {},
}  # fmt: skip
# Of the demo model those that take no calibration; of L/16 the two steps that the page has.
_OF_DEMO: Final = tuple(name for name in _FIGURES if "int8" not in name and "openvino-" not in name)
_OF_L16: Final = ("step/NETWORK/onnxruntime", "step/NETWORK/openvino-bf16")
_FIGURES_OF: Final[dict[str, Sequence[str]]] = {
    "demo": (*_OF_DEMO, "step/NETWORK/openvino-bf16"),
    "b-16": tuple(_FIGURES),
    "l-16": _OF_L16,
}
CELLS: Final = {
    name.replace("NETWORK", network): Cell(
        name=name.replace("NETWORK", network),
        kind=name.partition("/")[0],
        network=network,
        **_FIGURES[name],
    )
    for network, names in _FIGURES_OF.items()
    for name in names
}


class Measurements:
    """Values by what they were measured of, in a file that a killed run leaves whole lines in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[tuple[Any, ...], float] = {}
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
        complete = [line for line in lines if line.endswith("\n")]
        if complete != lines:
            # A run was killed in the middle of its last line.
            path.write_text("".join(complete), encoding="utf-8")
        for record in map(json.loads, complete):
            self._values[tuple(record["of"])] = record["value"]

    def get(self, *of: str | int) -> float | None:
        """A value of an earlier run, or None."""
        return self._values.get(of)

    def put(self, value: float, *of: str | int) -> None:
        """Keep a value."""
        self._values[of] = value
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"of": of, "value": value}) + "\n")


class NotMeasured(Exception):
    """Why a build gave no value, in one line."""


def measure_cell(
    cell: Cell,
    builds: tuple[Build, Build],
    measurements: Measurements,
    *,
    rounds: int,
    threads: int,
) -> tuple[list[tuple[float, float]], tuple[str, str]]:
    """Pairs of values, old and new in turns, and why either build gave none.

    Args:
        cell: the figure.
        builds: old and new.
        measurements: what need not be measured again.
        rounds: number of pairs.
        threads: of each engine.
    """
    digests = tuple(build.digest for build in builds)
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        values, reasons = [], ["", ""]
        for side, build in enumerate(builds):
            of = (cell.name, threads, *digests, number, side)
            value = measurements.get(*of)
            if value is None:
                try:
                    value = _value(cell, build, threads)
                    measurements.put(value, *of)
                except NotMeasured as error:
                    reasons[side] = str(error)
                    continue
            values.append(value)
        if any(reasons):
            return [], (reasons[0], reasons[1])
        pairs.append((values[0], values[1]))
    return pairs, ("", "")


def _value(cell: Cell, build: Build, threads: int) -> float:
    is_small = cell.network == "demo"
    plan = {
        "root": str(build.root),
        "kind": cell.kind,
        "bundle": str(_bundle(build, cell.network, cell.bundle)),
        "runtime": cell.runtime,
        "options": {"threads": threads, **cell.options},
        "rows": 20 if is_small and cell.kind == "step" else 2,
        "texts": 2000 if is_small else 64,
        "repeats": 15 if is_small else 3,
    }
    done = build.run(str(_CELL), json.dumps(plan))
    if done.returncode:
        raise NotMeasured(last_line(done.stderr))
    return float(json.loads(done.stdout.splitlines()[-1]))


def _bundle(build: Build, network: str, name: str) -> Path:
    """The build's own bundle of a network, made where it is missing."""
    place = build.cache / f"{network}-{name}"
    if place.is_dir():
        return place
    command, source, options = BUNDLES[name]
    arguments = [str(_bundle(build, network, source))] if source else _weights(build, network)
    first, *further = arguments
    partial = place.with_name(f"{place.name}.partial")
    done = build.run(
        "-m", "minit2i_deploy", command, first, str(partial), *further, *options,
        *(["--overwrite"] if partial.exists() else []),
    )  # fmt: skip
    if done.returncode:
        raise NotMeasured(f"minit2i {command}: {last_line(done.stderr)}")
    partial.rename(place)
    return place


def _weights(build: Build, network: str) -> list[str]:
    """The checkpoint, and options that export needs for it; the same for all builds."""
    if network == "demo":
        import minit2i_deploy.demo

        assets = Path(minit2i_deploy.demo.__file__).parent / "assets"
        return [str(assets / "model"), "--text-encoder", str(assets / "text_encoder")]
    folder = build.cache.parents[1] / "weights" / network
    if not folder.is_dir():
        from benchmarks.random_release import write_release

        partial = folder.with_name(f"{network}.partial")
        write_release(partial, VARIANTS[network], _T5_LAYERS, _VOCABULARY)
        partial.rename(folder)
    return [str(folder)]
