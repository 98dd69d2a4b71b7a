"""The C++ client against the Python runtime and another program: start-up, steps and memory.

    sh scripts/build_cpp.sh build/cpp .venv/bin/python
    python benchmarks/cpp_client.py BUNDLE --client build/cpp --rounds 7
    python benchmarks/cpp_client.py B16-BUNDLE --client build/cpp --rows 4 --rounds 3 \\
        --also B16-INT8-BUNDLE \\
        --peer "sd-cli --diffusion-model diffusion_pytorch_model.safetensors \\
                --t5xxl flan-t5-large.safetensors --prompt {prompt} --steps {steps} \\
                --cfg-scale 2.5 --width 512 --height 512 --sampling-method euler --threads 2 \\
                --output {output}"

All run as complete processes in turns, with the same threads, prompt and number of rows; ours also
with the same seed. Start-up is a process that embeds one text and ends. Every round generates
twice, with one row and with --rows. A step's CPU time is the difference of the two processes over
the rows between them, a peer's wall time too; our wall time of a row is what the program says
of itself. Memory is the kernel's own peak of the longer process. The error of a final state is its
largest difference to that of the first program over the largest value there.
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

from minit2i_deploy.cli.support.script import run_script

# No numpy before the measurements are done: a child's peak memory begins with its parent's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

PROMPT: Final = "a red circle above a blue square"
_MEASURED: Final = ("start_s", "start_cpu_s", "step_s", "step_cpu_s", "peak_bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What a process took: seconds, CPU seconds of user and kernel, peak of resident memory."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    out: str


@dataclass(kw_only=True, slots=True)
class Program:
    """Command lines of one program, and what was measured of it, a value a round."""

    name: str
    embed: list[str]
    generate: list[str]
    reports_time: bool = True
    start_s: list[float] = field(default_factory=list)
    start_cpu_s: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    step_cpu_s: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)

    def measure(self, rows: int) -> None:
        """One start-up, one image of one row and one of all rows."""
        if self.embed:
            start = _run(self.embed)
            self.start_s.append(start.wall_s)
            self.start_cpu_s.append(start.cpu_s)
        short, long = (_run(_filled(self.generate, steps)) for steps in (1, rows))
        wall = (long.wall_s - short.wall_s) / (rows - 1)
        if self.reports_time:
            output = json.loads(long.out)
            # One of them has the seconds of all rows, the other the same among its stages.
            wall = (
                output["step_seconds"] if "rows" in output else output["seconds"]["steps"]
            ) / rows
        self.step_s.append(wall)
        self.step_cpu_s.append((long.cpu_s - short.cpu_s) / (rows - 1))
        self.peak_bytes.append(long.peak_bytes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="minit2i-cpp-") as name:
        programs = _programs(options, Path(name))
        load = []
        for _ in range(options.rounds + 1):
            for program in programs:
                program.measure(options.rows)
            load.append(os.getloadavg()[0])
        errors = _state_errors(programs, Path(name))
    for program in programs:  # the first round brings files into memory
        for measured in _MEASURED:
            del getattr(program, measured)[:1]
    report = _report(options, programs, errors, max(load[1:]))
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the C++ client with other programs.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--client", type=Path, required=True, help="folder of the built programs")
    parser.add_argument(
        "--also",
        type=Path,
        action="append",
        default=[],
        metavar="BUNDLE",
        help="another form of the bundle for the C++ client; may be given several times",
    )
    parser.add_argument("--rows", type=int, default=20, help="of the longer image (default: 20)")
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
    for bundle in (options.bundle, *options.also):
        if not (bundle / "manifest.json").is_file():
            parser.error(f"{bundle} is not a bundle; give one of minit2i export")
    if options.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {options.rounds}")
    if options.rows < 2:
        parser.error(f"--rows: expected at least 2, got {options.rows}")
    if options.peer and "{steps}" not in options.peer:
        parser.error("--peer has no {steps}; put it where the number of steps goes")
    return options


def _programs(options: argparse.Namespace, folder: Path) -> list[Program]:
    _write_tables(options, folder)
    results = [_cpp(options, folder, options.bundle, "C++ client"), _python(options, folder)]
    for bundle in options.also:
        results.append(_cpp(options, folder, bundle, f"C++ client, {bundle.name}"))
    if options.peer:
        arguments = shlex.split(options.peer)
        values = {"prompt": PROMPT, "steps": "{steps}", "output": str(folder / "peer.png")}
        generate = [word.format(**values) for word in arguments]
        results.append(Program(name="peer", embed=[], generate=generate, reports_time=False))
    return results


def _write_tables(options: argparse.Namespace, folder: Path) -> None:
    """Tables of one row and of all rows, of the kind that the bundle's model takes."""
    manifest = json.loads((options.bundle / "manifest.json").read_text(encoding="utf-8"))
    solver = "mean-flow" if "student" in manifest["model"] else "euler"
    for steps in (1, options.rows):
        arguments = ["--solver", solver, "--steps", str(steps), "-o", str(folder / f"{steps}.json")]
        _run([*_minit2i(), "table", *arguments])


def _minit2i() -> list[str]:
    return [sys.executable, "-m", "minit2i_deploy.cli"]


def _cpp(options: argparse.Namespace, folder: Path, bundle: Path, name: str) -> Program:
    client = options.client.resolve()
    return Program(
        name=name,
        embed=[str(client / "minit2i-embed"), *_embedding(options, folder, bundle)],
        generate=[
            str(client / "minit2i-generate"),
            *_generate_arguments(options, folder, bundle, name),
        ],
    )


def _python(options: argparse.Namespace, folder: Path) -> Program:
    name = "Python runtime"
    return Program(
        name=name,
        embed=[*_minit2i(), "embed", *_embedding(options, folder, options.bundle)],
        generate=[
            *_minit2i(),
            "generate",
            *_generate_arguments(options, folder, options.bundle, name),
        ],
    )


def _embedding(options: argparse.Namespace, folder: Path, bundle: Path) -> list[str]:
    threads = ["--threads", str(options.threads)]
    return [str(bundle), PROMPT, *threads, "-o", str(folder / "embeddings.npz")]


def _generate_arguments(
    options: argparse.Namespace, folder: Path, bundle: Path, name: str
) -> list[str]:
    threads = ["--threads", str(options.threads), "--json"]
    table = ["--table", str(folder / "{steps}.json")]
    output = ["-o", str(folder / f"{name}.png"), "--save-state", str(folder / f"{name}.npy")]
    return [str(bundle), PROMPT, *threads, *table, *output]


def _filled(command: Sequence[str], steps: int) -> list[str]:
    return [word.replace("{steps}", str(steps)) for word in command]


def _run(command: Sequence[str]) -> Ended:
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
        cpu = usage.ru_utime + usage.ru_stime
        return Ended(wall_s=seconds, cpu_s=cpu, peak_bytes=usage.ru_maxrss * 1024, out=out.read())


def _state_errors(programs: Sequence[Program], folder: Path) -> list[float | None]:
    import numpy as np

    states = [folder / f"{program.name}.npy" for program in programs]
    reference = np.load(states[0])
    return [
        float(np.abs(np.load(path) - reference).max() / np.abs(reference).max())
        if path.is_file()
        else None
        for path in states
    ]


def _report(
    options: argparse.Namespace,
    programs: Sequence[Program],
    errors: Sequence[float | None],
    load: float,
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "bundle": options.bundle.name,
        "rows": options.rows,
        "rounds": options.rounds,
        "threads": options.threads,
        "load": load,
        "processor": _processor(),
        "programs": [
            asdict(program) | {"median": _medians(program), "state_error": error}
            for program, error in zip(programs, errors, strict=True)
        ],
        "cpp_over_python": _ratios(programs[0], programs[1]),
    }
    if options.peer:
        ours = [program for program in programs[:-1]]
        report["over_peer"] = {program.name: _ratios(program, programs[-1]) for program in ours}
    return report


def _medians(program: Program) -> dict[str, float]:
    values = {name: getattr(program, name) for name in _MEASURED}
    return {name: statistics.median(results) for name, results in values.items() if results}


def _ratios(first: Program, other: Program) -> dict[str, float]:
    """Medians of what each round gave, where both have it."""
    results = {}
    for name in _MEASURED:
        mine, its = getattr(first, name), getattr(other, name)
        if mine and its:
            results[name] = statistics.median(a / b for a, b in zip(mine, its, strict=True))
    return results


def _text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['bundle']}, {report['rounds']} rounds in turns of {report['rows']} rows, "
        f"{report['threads']} threads, {report['processor']}, load {report['load']:.1f}",
        "| program | start-up and one text, s | CPU s | one row, ms | CPU ms | peak memory, MB "
        "| error of the final state |",
        "|---|---|---|---|---|---|---|",
    ]
    scales = {"step_s": 1e3, "step_cpu_s": 1e3, "peak_bytes": 1e-6}
    digits = {"start_s": 3, "start_cpu_s": 3, "step_s": 2, "step_cpu_s": 2, "peak_bytes": 0}
    for item in report["programs"]:
        cells = _cells(item["median"], scales, digits)
        error = "" if item["state_error"] is None else f"{item['state_error']:.1e}"
        lines.append(f"| {item['name']} | {' | '.join(cells)} | {error} |")
    pairs = {"C++ client over Python runtime": report["cpp_over_python"]}
    for name, ratios in report.get("over_peer", {}).items():
        pairs[f"{name} over peer"] = ratios
    for name, ratios in pairs.items():
        cells = _cells(ratios, {}, dict.fromkeys(_MEASURED, 3))
        lines.append(f"| {name}, median of pairs | {' | '.join(cells)} | |")
    return "\n".join(lines)


def _cells(values: dict[str, float], scales: dict[str, float], digits: dict[str, int]) -> list[str]:
    return [
        f"{values[name] * scales.get(name, 1.0):.{digits[name]}f}" if name in values else ""
        for name in _MEASURED
    ]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    sys.exit(run_script(main))
