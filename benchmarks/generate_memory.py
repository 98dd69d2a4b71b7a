"""Peak memory of generating one image, against the weights that are loaded for it.

    python benchmarks/generate_memory.py BUNDLE
    python benchmarks/generate_memory.py BUNDLE --engine openvino --engine 'onnxruntime:arena=false'

Each engine generates in its own process. Peak is the kernel's figure (VmHWM: all resident pages,
those of mapped files among them); PSS is sampled, and counts a page that other processes hold too
by its share. Rows are few: the first one allocates all there is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import minit2i_deploy as m
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.machine import describe_machine, machine_line

MAX_RATIO: Final = 1.6
PROMPT: Final = "two blue squares to the left of a small green triangle"
_SAMPLE_S: Final = 0.1
_PROCESS: Final = Path("/proc/self")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; exits 1 where an engine takes more than MAX_RATIO."""
    options = _parse(arguments)
    if options.child:
        print(json.dumps(_generate(options.bundle, options.engine[0], options)))
        return 0
    weights = _weight_bytes(m.Bundle.open(options.bundle))
    rows = [_child(options, engine) | {"engine": engine} for engine in options.engine]
    for row in rows:
        row["ratio"] = row["peak_bytes"] / weights
    report = {"machine": describe_machine(), "weight_bytes": weights, "engines": rows}
    print(json.dumps(report, indent=2) if options.json else _text(report))
    # Below this size libraries and not weights fill the memory.
    return int(weights > 2**30 and any(row["ratio"] > MAX_RATIO for row in rows))


def engine_options(text: str) -> tuple[str, dict[str, Any]]:
    """``onnxruntime:arena=false,threads=2`` as a runtime's name and its options."""
    name, _, settings = text.partition(":")
    pairs = (item.partition("=") for item in settings.split(",") if item)
    return name, {key: _value(value) for key, _, value in pairs}


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Peak memory of generating one image.")
    parser.add_argument("bundle", metavar="BUNDLE", help="of minit2i export")
    parser.add_argument(
        "--engine",
        action="append",
        metavar="RUNTIME[:OPTION=VALUE,..]",
        help="with options of open_runtime; default: onnxruntime",
    )
    parser.add_argument("--rows", type=int, default=3, help="Euler rows; default: 3")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rows < 1:
        parser.error("--rows must be at least 1")
    options.engine = options.engine or ["onnxruntime"]
    return options


def _child(options: argparse.Namespace, engine: str) -> dict[str, Any]:
    command = [sys.executable, __file__, options.bundle, "--engine", engine, "--child"]
    command += ["--rows", str(options.rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def _generate(folder: str, engine: str, options: argparse.Namespace) -> dict[str, Any]:
    bundle = m.Bundle.open(folder)
    name, settings = engine_options(engine)
    steps: list[float] = []
    idle = _process_bytes("status", "VmRSS")
    with _Sampler() as sampler, m.open_runtime(bundle, name, **settings) as runtime:
        result = m.generate(
            bundle,
            runtime,
            PROMPT,
            table=m.solver_table("euler", steps=options.rows),
            guidance=2.5,
            on_frame=lambda frame: steps.append(frame.seconds),
        )
    return {
        "peak_bytes": _process_bytes("status", "VmHWM"),
        "peak_pss_bytes": sampler.peak,
        "idle_bytes": idle,
        "encode_s": result.timings["encode"],
        "first_step_s": steps[0],
        "last_step_s": steps[-1],
    }


class _Sampler(threading.Thread):
    """Highest PSS of this process while the block runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self.peak = max(self.peak, _process_bytes("smaps_rollup", "Pss"))

    def __enter__(self) -> _Sampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def _process_bytes(file: str, field: str) -> int:
    lines = (_PROCESS / file).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _weight_bytes(bundle: m.Bundle) -> int:
    """Bytes of the graphs and their data files, all of which generating loads."""
    folders = {Path(graph.path).parent.as_posix() for graph in bundle.manifest.graphs.values()}
    files = bundle.manifest.files.items()
    return sum(i.bytes for name, i in files if Path(name).parent.as_posix() in folders)


def _text(report: Mapping[str, Any]) -> str:
    lines = [
        machine_line(report["machine"]),
        f"weights {report['weight_bytes'] / 1e9:.2f} GB; at most {MAX_RATIO} times that",
    ]
    for row in report["engines"]:
        lines.append(
            f"  {row['engine']:44} peak {row['peak_bytes'] / 1e9:5.2f} GB ({row['ratio']:.2f} x)  "
            f"PSS {row['peak_pss_bytes'] / 1e9:5.2f} GB  idle {row['idle_bytes'] / 1e9:.2f}  "
            f"encode {row['encode_s']:.2f} s  step {row['first_step_s']:.2f}, "
            f"{row['last_step_s']:.2f} s"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
