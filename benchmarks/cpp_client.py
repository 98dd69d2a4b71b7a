"""The C++ client against the Python runtime on one bundle: start-up, steps and memory, in turns.

    sh scripts/build_cpp.sh build/cpp .venv/bin/python
    python benchmarks/cpp_client.py BUNDLE --client build/cpp --rounds 7
    python benchmarks/cpp_client.py B16-BUNDLE --client build/cpp --table euler-4.json --rounds 3 \\
        --peer "sd-cli --diffusion-model diffusion_pytorch_model.safetensors \\
                --t5xxl flan-t5-large.safetensors --prompt {prompt} --steps {steps} \\
                --cfg-scale 2.5 --width 512 --height 512 --sampling-method euler --threads 2 \\
                --output {output}"

Both run as whole processes with the same threads, prompt, seed and table. Start-up is the wall
time of a process that embeds one text and ends. A step is the time of the table's rows over their
number, as each program says it of itself. Memory is the kernel's own peak of the process.

A peer is any program that paints: its command line is run with {steps} once and with five more,
and a step is a fifth of the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

PROMPT: Final = "a red circle above a blue square"
_PEER_STEPS: Final = 5


@dataclass(kw_only=True, slots=True)
class Program:
    """Command lines of one program, and what was measured of it."""

    name: str
    embed: list[str]
    generate: list[str]
    start_s: list[float] = field(default_factory=list)
    rows_s: list[float] = field(default_factory=list)
    num_rows: int = 0
    peak_bytes: list[int] = field(default_factory=list)

    def measure(self) -> None:
        """One start-up and one picture."""
        self.start_s.append(_run(self.embed)[0])
        _, peak, out = _run(self.generate)
        self.peak_bytes.append(peak)
        said = json.loads(out)
        # One of them has the seconds of all rows, the other the same among its stages.
        self.rows_s.append(said["step_seconds"] if "rows" in said else said["seconds"]["steps"])
        self.num_rows = said.get("rows", 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="minit2i-cpp-") as name:
        programs = [_cpp(options, Path(name)), _python(options, Path(name))]
        for _ in range(options.rounds + 1):
            for program in programs:
                program.measure()
        peer = [_peer_step(options, Path(name)) for _ in range(options.rounds * bool(options.peer))]
    for program in programs:  # the first round brings files into memory
        for values in (program.start_s, program.rows_s, program.peak_bytes):
            del values[0]
    report = _report(options, programs, peer)
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the C++ client with the Python runtime.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--client", type=Path, required=True, help="folder of the built programs")
    parser.add_argument("--table", help="a table of the bundle; default: its default preset's")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument(
        "--peer", help="command line of another program with {prompt}, {steps} and {output}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    options = parser.parse_args(arguments)
    for name in ("minit2i-embed", "minit2i-generate"):
        if not (options.client / name).is_file():
            parser.error(f"{options.client} has no {name}; build it: sh scripts/build_cpp.sh")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}, but at least 1 is needed")
    return options


def _cpp(options: argparse.Namespace, folder: Path) -> Program:
    common = ["--threads", str(options.threads), "-o"]
    client = options.client.resolve()
    embed = [str(client / "minit2i-embed"), str(options.bundle), PROMPT]
    paint = [str(client / "minit2i-generate"), str(options.bundle), PROMPT, "--json"]
    return Program(
        name="C++ client",
        embed=[*embed, *common, str(folder / "cpp.npz")],
        generate=[*paint, *_table(options), *common, str(folder / "cpp.png")],
    )


def _python(options: argparse.Namespace, folder: Path) -> Program:
    common = ["--threads", str(options.threads), "-o"]
    start = [sys.executable, "-m", "minit2i_deploy.cli"]
    embed = [*start, "embed", str(options.bundle), PROMPT]
    paint = [*start, "generate", str(options.bundle), PROMPT, "--json"]
    return Program(
        name="Python runtime",
        embed=[*embed, *common, str(folder / "python.npz")],
        generate=[*paint, *_table(options), *common, str(folder / "python.png")],
    )


def _table(options: argparse.Namespace) -> list[str]:
    return [] if options.table is None else ["--table", options.table]


def _run(command: Sequence[str]) -> tuple[float, int, str]:
    """Seconds, peak of resident memory in bytes, and standard output of a process."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(f"{shlex.join(command)}: exit {process.returncode}: {err.read()}")
        return seconds, usage.ru_maxrss * 1024, out.read()


def _peer_step(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    seconds = []
    peak = 0
    for steps in (1, 1 + _PEER_STEPS):
        values = {"prompt": PROMPT, "steps": steps, "output": folder / "peer.png"}
        words = [word.format(**values) for word in shlex.split(options.peer)]
        spent, peak, _ = _run(words)
        seconds.append(spent)
    return {"step_s": (seconds[1] - seconds[0]) / _PEER_STEPS, "peak_bytes": peak}


def _report(
    options: argparse.Namespace, programs: Sequence[Program], peer: Sequence[dict[str, float]]
) -> dict[str, Any]:
    first, other = programs

    def ratio(name: str) -> float:
        pairs = zip(getattr(first, name), getattr(other, name), strict=True)
        return statistics.median(a / b for a, b in pairs)

    report: dict[str, Any] = {
        "bundle": options.bundle.name,
        "rounds": options.rounds,
        "threads": options.threads,
        "load": os.getloadavg()[0],
        "processor": _processor(),
        "programs": [
            asdict(program)
            | {
                "start_median_s": statistics.median(program.start_s),
                "step_median_s": statistics.median(program.rows_s) / first.num_rows,
                "peak_median_bytes": statistics.median(program.peak_bytes),
            }
            for program in programs
        ],
        "cpp_over_python": {name: ratio(name) for name in ("start_s", "rows_s", "peak_bytes")},
    }
    if peer:
        steps = [one["step_s"] for one in peer]
        median = statistics.median(steps)
        report["peer"] = {
            "command": options.peer,
            "step_s": steps,
            "step_median_s": median,
            "peak_bytes": max(one["peak_bytes"] for one in peer),
            "cpp_over_peer": statistics.median(first.rows_s) / first.num_rows / median,
        }
    return report


def _text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['bundle']}, {report['rounds']} rounds in turns, {report['threads']} threads, "
        f"{report['processor']}, load {report['load']:.1f}",
        "| program | start-up and one text, s | one row, ms | peak memory, MB |",
        "|---|---|---|---|",
    ]
    for item in report["programs"]:
        lines.append(
            f"| {item['name']} | {item['start_median_s']:.3f} | {item['step_median_s'] * 1e3:.2f} "
            f"| {item['peak_median_bytes'] / 1e6:.0f} |"
        )
    over = report["cpp_over_python"]
    lines.append(
        f"| C++ over Python, median of pairs | {over['start_s']:.2f} | {over['rows_s']:.3f} "
        f"| {over['peak_bytes']:.2f} |"
    )
    if "peer" in report:
        peer = report["peer"]
        lines.append(
            f"| peer | | {peer['step_median_s'] * 1e3:.2f} | {peer['peak_bytes'] / 1e6:.0f} |"
        )
        lines.append(f"| C++ over peer | | {peer['cpp_over_peer']:.3f} | |")
    return "\n".join(lines)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    sys.exit(main())
