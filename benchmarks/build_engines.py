"""TensorRT engines of published sizes: seconds, memory against weights, and the kernels.

    python benchmarks/build_engines.py --variant b-16 --target sm89

The step graph of a random network is exported without being verified and built in a process of
its own. Two figures of memory are sampled while it runs: all that is resident, the interpreter,
the libraries and the mapped weights included, and what is not a mapping of a file. The load of the
machine is printed, because the wall time depends on it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.cli.support.script import run_script

# What a build of the published sizes may take.
MAX_SECONDS: Final = 120.0
MAX_TIMES_WEIGHTS: Final = 3.0
_SAMPLE_S: Final = 0.5
_CHILD_WORK: Final = ("export", "build")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One build.

    Args:
        variant: name in ``config.VARIANTS``.
        precision: of the network.
        target: GPU.
        head_dim: of the graph, pads and all.
        weights_bytes: of the data file.
        plan_bytes: of the engine.
        seconds: of the build, reading the graph included.
        cpu_seconds: of the processor, all threads together; what to read on a busy machine.
        resident_bytes: greatest resident memory of the building process.
        own_bytes: greatest resident memory that is not a mapped file.
        audit: the kernels.
    """

    variant: str
    precision: str
    target: str
    head_dim: int
    weights_bytes: int
    plan_bytes: int
    seconds: float
    cpu_seconds: float
    resident_bytes: int
    own_bytes: int
    audit: dict[str, Any]

    @property
    def times_weights(self) -> float:
        """Resident memory over weights."""
        return self.resident_bytes / self.weights_bytes

    def line(self) -> str:
        """A row of the Markdown table."""
        audit = self.audit
        fused = f"{audit['attention_fused']}/{audit['attention']}"
        gemms = ", ".join(f"{count} {name}" for name, count in audit["gemms"].items())
        return (
            f"| {self.variant} {self.precision} {self.target} | {self.head_dim}"
            f" | {self.weights_bytes / 1e9:.2f} GB"
            f" | {self.plan_bytes / 1e9:.2f} GB | {self.seconds:.0f} s"
            f" | {self.cpu_seconds:.0f} s"
            f" | {self.resident_bytes / 1e9:.2f} GB ({self.times_weights:.1f}x)"
            f" | {self.own_bytes / 1e9:.2f} GB | {fused} | {gemms} | {audit['kernels']} |"
        )


_HEAD: Final = (
    "| step graph | heads | weights | plan | build | CPU time | resident | of it no file | fused"
    " | GEMMs | kernels |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def export(variant: str, precision: str, head_multiple: int, folder: Path) -> None:
    """Write the step graph of a random network."""
    import torch

    from minit2i_deploy.config import VARIANTS
    from minit2i_deploy.export.choices import DEFAULT_OPSET
    from minit2i_deploy.export.graphs.head_padding import pad_heads, padding_for
    from minit2i_deploy.export.graphs.modules import canonical_name, network_dtype, step_signature
    from minit2i_deploy.export.graphs.onnx_export import to_onnx
    from minit2i_deploy.export.graphs.weights_file import write_graph
    from minit2i_deploy.model import Step
    from minit2i_deploy.model.mmjit import Denoiser

    torch.manual_seed(0)
    denoiser = Denoiser(VARIANTS[variant]).eval().requires_grad_(False)
    padding = padding_for(VARIANTS[variant], head_multiple)
    if padding is not None:
        pad_heads(denoiser, padding)
    step = Step(denoiser.to(network_dtype(precision))).eval()
    model = to_onnx(step, step_signature(VARIANTS[variant]), DEFAULT_OPSET)
    write_graph(model, step, folder, canonical_name)


def build(graph: Path, precision: str, target: str) -> None:
    """Build beside the graph and print what it gave."""
    from minit2i_deploy.engines.key import BuildFlags
    from minit2i_deploy.export.tensorrt import BuildLibrary, build_engine

    built = build_engine(
        BuildLibrary.open("tensorrt_rtx"),
        graph,
        graph.with_suffix(".plan"),
        sizes={"batch": (1, 1, 1), "branches": (1, 2, 2), "sequences": (1, 2, 2)},
        targets=(target,),
        flags=BuildFlags(),
        precision=precision,
    )
    result = {"seconds": built.seconds, "cpu_seconds": time.process_time()}
    print(json.dumps({**result, "audit": asdict(built.audit)}))


def measure(variant: str, precision: str, target: str, head_multiple: int, folder: Path) -> Report:
    """Export and build, each in a process of its own, and sample the second one's memory."""
    from minit2i_deploy.config import VARIANTS

    work = [sys.executable, __file__, "--variant", variant, "--precision", precision]
    work += ["--target", target, "--head-multiple", str(head_multiple)]
    work += ["--work", str(folder), "--only"]
    subprocess.run([*work, "export"], check=True)
    child = subprocess.Popen([*work, "build"], stdout=subprocess.PIPE, text=True)
    resident = anonymous = 0
    while child.poll() is None:
        sample = _memory(child.pid)
        resident, anonymous = (
            max(resident, sample.get("VmHWM", 0)),
            max(anonymous, sample.get("RssAnon", 0)),
        )
        time.sleep(_SAMPLE_S)
    assert child.stdout is not None
    if child.returncode != 0:
        raise SystemExit(f"the build of {variant} failed with exit code {child.returncode}")
    result = json.loads(child.stdout.read())
    return Report(
        variant=variant,
        precision=precision,
        target=target,
        head_dim=-(-VARIANTS[variant].head_dim // head_multiple) * head_multiple,
        weights_bytes=(folder / "model.onnx.data").stat().st_size,
        plan_bytes=(folder / "model.plan").stat().st_size,
        seconds=result["seconds"],
        cpu_seconds=result["cpu_seconds"],
        resident_bytes=resident,
        own_bytes=anonymous,
        audit=result["audit"],
    )


def _memory(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.startswith(("VmHWM", "RssAnon")))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def main() -> int:
    """Measure and print; 1 if a build took more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--variant", action="append", help="b-16, l-16 and so on; repeatable")
    parser.add_argument("--precision", choices=("fp16", "bf16"), default="fp16")
    parser.add_argument("--target", default="sm89")
    parser.add_argument(
        "--head-multiple", type=int, default=1, help="as for minit2i export (default 1)"
    )
    parser.add_argument("--work", type=Path, help="folder with room for twice the weights")
    parser.add_argument("--json", type=Path, help="keep all figures in this file")
    parser.add_argument("--only", choices=_CHILD_WORK, help=argparse.SUPPRESS)
    options = parser.parse_args()
    variants = options.variant or ["b-16", "l-16"]
    if options.only == "export":
        export(variants[0], options.precision, options.head_multiple, options.work)
        return 0
    if options.only == "build":
        build(options.work / "model.onnx", options.precision, options.target)
        return 0
    reports = []
    for variant in variants:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            settings = variant, options.precision, options.target, options.head_multiple
            reports.append(measure(*settings, Path(folder)))
    print("\n".join([_HEAD, *(report.line() for report in reports)]))
    print(f"load of the machine: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(report) for report in reports], indent=2))
    return int(any(r.seconds > MAX_SECONDS or r.times_weights > MAX_TIMES_WEIGHTS for r in reports))


if __name__ == "__main__":
    sys.exit(run_script(main))
