"""Export at full size: time, peak memory, peak disk, bundle size, and the error of each precision.

    python benchmarks/full_size.py --variant b-16 --json b16.json

Random weights in the official form stand in for a release: the network's, and a text encoder of
FLAN-T5-Large's shape. Each export runs in a process of its own, whose memory is the kernel's own
peak (VmHWM: all resident pages, those of mapped files among them).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.cli.support.script import run_script

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

MAX_MEMORY_RATIO: Final = 2.5
PRECISIONS: Final = ("fp32", "bf16", "fp16")
# FLAN-T5-Large's encoder, and one for the tiny network.
_LARGE: Final = (24, 32128)
_T5: Final = {
    "tiny": (2, 8192),
    **dict.fromkeys(("b-16", "l-16", "looped-b-32", "looped-b-16"), _LARGE),
}
_POLL_S: Final = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What one export took. Sizes are bytes; weights are float32, encoder and network together."""

    variant: str
    precision: str
    rows: int
    seconds: float
    peak_memory: int
    peak_anonymous: int
    idle_memory: int
    weights: int
    network_weights: int
    bundle: int
    peak_disk: int
    checks: dict[str, float]
    machine: str

    @property
    def ratio(self) -> float:
        """Peak memory over the float32 weights."""
        return self.peak_memory / self.weights

    @property
    def steps(self) -> list[float]:
        """Relative errors of single steps, in order of time."""
        return [value for name, value in self.checks.items() if name.startswith("transformer@t=")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; exits 1 where an export took more memory than allowed."""
    options = _parse(arguments)
    if options.child:
        print(json.dumps(_child(options)))
        return 0
    with tempfile.TemporaryDirectory(prefix="minit2i-full-", dir=options.work) as name:
        work = Path(name)
        _run([*_self(options), "--child", "make", "--work", name])
        exports = [_export(options, precision, work) for precision in options.precision]
    print(table(exports))
    if options.json is not None:
        values = [asdict(item) | {"ratio": item.ratio} for item in exports]
        options.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    # Below this size libraries and not weights fill the memory.
    judged = options.variant != "tiny"
    return int(judged and any(item.ratio > MAX_MEMORY_RATIO for item in exports))


def table(exports: Sequence[Export]) -> str:
    """A Markdown table."""
    head = (
        "variant", "precision", "export, s", "peak memory, GB", "x fp32 weights", "bundle, GB",
        "peak disk, GB", "one step, worst of t = 0 to 0.95", "picture",
    )  # fmt: skip
    rows = [
        (
            item.variant,
            item.precision,
            f"{item.seconds:.0f}",
            _gb(item.peak_memory),
            f"{item.ratio:.2f}",
            _gb(item.bundle),
            _gb(item.peak_disk),
            f"{max(item.steps):.1e}",
            f"{item.checks['trajectory']:.1e}",
        )
        for item in exports
    ]
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure exports at full size.")
    parser.add_argument("--variant", choices=_T5, default="tiny", help="default: tiny")
    parser.add_argument(
        "--precision", choices=PRECISIONS, action="append", help="default: all, one after another"
    )
    parser.add_argument(
        "--rows", type=int, default=20, help="Euler rows of the reference image; default: 20"
    )
    parser.add_argument("--work", type=Path, help="folder for temporary files (10 GB for l-16)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--child", choices=("make", "export"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.precision = options.precision or list(PRECISIONS)
    return options


def _self(options: argparse.Namespace) -> list[str]:
    command = [sys.executable, __file__, "--variant", options.variant]
    return [*command, "--rows", str(options.rows)]


def _run(command: Sequence[str]) -> Any:
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def _export(options: argparse.Namespace, precision: str, work: Path) -> Export:
    command = [*_self(options), "--child", "export", "--precision", precision, "--work", str(work)]
    out = work / "out"
    out.mkdir(exist_ok=True)
    before = _disk_bytes(out)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watcher = _Watcher(process.pid, out)
        watcher.start()
        assert process.stdout is not None
        answer = process.stdout.read()
    watcher.stop()
    if process.returncode:
        raise SystemExit(f"the export failed with exit code {process.returncode}")
    return Export(
        variant=options.variant,
        precision=precision,
        rows=options.rows,
        peak_anonymous=watcher.peak_anonymous,
        peak_disk=watcher.peak_disk - before,
        machine=f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {_processor()}",
        **json.loads(answer.splitlines()[-1]),
    )


class _Watcher(threading.Thread):
    """Highest anonymous memory of a process, and of bytes in a folder, while it runs."""

    def __init__(self, pid: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self.status, self.folder = Path(f"/proc/{pid}/status"), folder
        self.peak_anonymous = self.peak_disk = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_POLL_S):
            self.peak_anonymous = max(self.peak_anonymous, _status_bytes(self.status, "RssAnon"))
            self.peak_disk = max(self.peak_disk, _disk_bytes(self.folder))

    def stop(self) -> None:
        self._over.set()
        self.join()


def _status_bytes(status: Path, field: str) -> int:
    try:
        lines = status.read_text(encoding="ascii").splitlines()
    except OSError:  # the process has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def _disk_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # renamed or removed meanwhile
            continue
    return total


def _child(options: argparse.Namespace) -> dict[str, Any]:
    from random_release import CONFIGS, write_release

    if options.child == "make":
        write_release(options.work / "release", CONFIGS[options.variant], *_T5[options.variant])
        return {}
    from minit2i_deploy.export import ExportOptions, export_bundle
    from minit2i_deploy.export.verification import reference

    reference.STEPS = options.rows  # type: ignore[misc]
    precision = options.precision[0]
    _import_all()
    status_file = Path("/proc/self/status")
    idle, began = _status_bytes(status_file, "VmRSS"), time.monotonic()
    release = options.work / "release"
    bundle = export_bundle(
        release / "transformer",
        options.work / "out" / f"bundle-{precision}",
        ExportOptions(text_encoder=release / "text_encoder", precision=precision),
        progress=_Stages(began),
    )
    sizes = {
        name: (release / name).stat().st_size
        for name in (
            "transformer/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
        )
    }
    network, encoder = sizes.values()
    return {
        "seconds": time.monotonic() - began,
        "peak_memory": _status_bytes(status_file, "VmHWM"),
        "idle_memory": idle,
        "weights": network + encoder,
        "network_weights": network,
        "bundle": sum(info.bytes for info in bundle.manifest.files.values()),
        "checks": {check.name: check.measured for check in bundle.manifest.checks},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def _import_all() -> None:
    """What export imports as it goes, so that the memory before it is the libraries' own."""
    for name in ("onnxruntime", "optimum.exporters.onnx.model_configs", "transformers"):
        importlib.import_module(name)


class _Stages:
    """Print on stderr when each stage starts, and the peak memory until then."""

    def __init__(self, began: float) -> None:
        self.began, self.stage = began, ""

    def __call__(self, share: float, stage: str = "", /) -> None:
        if stage == self.stage:
            return
        self.stage = stage
        status_file = Path("/proc/self/status")
        now, peak = (_gb(_status_bytes(status_file, field)) for field in ("VmRSS", "VmHWM"))
        seconds = time.monotonic() - self.began
        print(f"{seconds:7.0f} s  {now} GB, peak {peak} GB  {stage}", file=sys.stderr, flush=True)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f}"


if __name__ == "__main__":
    sys.exit(run_script(main))
