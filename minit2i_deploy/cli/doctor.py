"""minit2i doctor: what is installed, what works here, and what to install for the rest."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.options.shared_arguments import add_json, bundle_path
from minit2i_deploy.errors import Minit2iError, MissingDependencyError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle

_ROWS: Final = 10
INT8_SATURATES: Final = (
    "8-bit products saturate (the processor has no VNNI), so quantize with this version of minit2i "
    "by a scheme other than int8-text"
)
_EPILOG: Final = """\
An engine works if it has just run a toy model of ten rows with the right values.
With BUNDLE, it must also embed a text and run ten rows of that bundle.

examples:
  minit2i doctor
  minit2i doctor my-bundle --json
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorOptions:
    """Options of minit2i doctor."""

    bundle: str | None
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Show what is installed, which engines work here, and what to install for the others."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        nargs="?",
        type=bundle_path,
        help="bundle to try the engines on as well",
    )
    add_json(parser)


def run(options: DoctorOptions) -> None:
    """Look, try and print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.flops import variant_bytes
    from minit2i_deploy.machine import (
        cpu_features,
        describe_machine,
        installed_extras,
        memory_bytes,
        read_cpuinfo,
    )

    bundle = None if options.bundle is None else Bundle.open(options.bundle)
    values: dict[str, Any] = {
        "machine": describe_machine(),
        "memory_bytes": memory_bytes(),
        "cpu_features": cpu_features(read_cpuinfo()),
        **_gpus(),
        "extras": {
            extra.name or "always": {
                "packages": dict(extra.packages),
                "too_old": dict(extra.too_old),
                "pip": extra.pip_line,
            }
            for extra in installed_extras()
        },
        "engines": _engines(bundle),
        "runtime_options": _runtime_options(),
        "variants_bytes": variant_bytes(),
    }
    print(json_text(values) if options.json else _text(values))


def _gpus() -> dict[str, Any]:
    from minit2i_deploy.runtimes.cuda.devices import dotted, driver_gpus

    try:
        gpus = driver_gpus()
    except Minit2iError as error:
        return {"gpus": [], "gpu_error": str(error)}
    values = [
        {"name": gpu.name, "compute_capability": dotted(gpu.capability), "bytes": gpu.memory_bytes}
        for gpu in gpus
    ]
    return {"gpus": values, "gpu_error": None}


def _engines(bundle: Bundle | None) -> list[dict[str, Any]]:
    from minit2i_deploy.runtimes import RUNTIMES, runtime_class

    results = []
    for name in RUNTIMES:
        for test in runtime_class(name).self_tests():
            result = _try_toy(test.run)
            if result["state"] == "works" and test.int8_saturates is not None:
                result["int8_saturates"] = test.int8_saturates()
            if bundle is not None and result["state"] == "works":
                result |= _try_bundle(bundle, name, test.options)
            results.append({"engine": test.label, **result})
    return results


def _runtime_options() -> dict[str, list[str]]:
    from minit2i_deploy.runtimes import RUNTIMES, runtime_class

    return {
        name: [str(option) for option in runtime_class(name).options().values()]
        for name in RUNTIMES
    }


def _try_toy(prove: Callable[[], float]) -> dict[str, Any]:
    try:
        return {"state": "works", "error": prove(), "why": None}
    except MissingDependencyError as error:
        return {"state": "not installed", "error": None, "why": str(error)}
    except (Minit2iError, OSError) as error:
        return {"state": "does not work", "error": None, "why": str(error)}


def _try_bundle(bundle: Bundle, name: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Embed a text and run ten rows, or as many as a student's table has."""
    from minit2i_deploy.generate import trajectory
    from minit2i_deploy.runtimes import open_runtime
    from minit2i_deploy.solvers.table import solver_table
    from minit2i_deploy.text.embed import embed

    table, guidance = bundle.preset()
    if bundle.config.student is None:
        table = solver_table("euler", steps=_ROWS)
    began = time.perf_counter()
    try:
        with open_runtime(bundle, name, **options) as runtime:
            embed(bundle, runtime, "a red circle")
            frames = trajectory(bundle, runtime, "a red circle", table=table, guidance=guidance)
            rows = [frame.seconds for frame in frames]
    except Minit2iError as error:
        return {"state": "does not run this bundle", "why": str(error)}
    return {"row_s": sorted(rows)[len(rows) // 2], "total_s": time.perf_counter() - began}


def _text(values: dict[str, Any]) -> str:
    from minit2i_deploy.cli.support.formatting import columns, size
    from minit2i_deploy.machine import machine_line

    memory = values["memory_bytes"]
    facts = [
        ("machine", machine_line(values["machine"])),
        ("memory", "unknown" if memory is None else size(memory)),
        *_gpu_facts(values),
    ]
    features = list(values["cpu_features"].items()) or [("none", "of those that matter here")]
    engines = [(item["engine"], item["state"], _engine_text(item)) for item in values["engines"]]
    runtimes = [
        (name, ", ".join(options) or "none") for name, options in values["runtime_options"].items()
    ]
    variants = [
        (name, *(size(item[what]) for what in ("fp32", "16 bit", "with encoder")))
        for name, item in values["variants_bytes"].items()
    ]
    return "\n\n".join(
        [
            columns(facts),
            columns(features, head=("processor has", "good for")),
            columns(_extra_rows(values["extras"]), head=("extra", "state", "packages")),
            columns(engines, head=("engine", "state", "")),
            columns(
                runtimes,
                head=("runtime", "options in Python; minit2i --help has those of commands"),
            ),
            columns(variants, head=("weights", "fp32", "16 bit", "fp32 with FLAN-T5-Large")),
        ]
    )


def _gpu_facts(values: dict[str, Any]) -> list[tuple[str, str]]:
    from minit2i_deploy.cli.support.formatting import size

    facts = [
        (
            f"GPU {index}",
            f"{gpu['name']}, compute capability {gpu['compute_capability']}, {size(gpu['bytes'])}",
        )
        for index, gpu in enumerate(values["gpus"])
    ]
    return facts or [("NVIDIA GPU", values["gpu_error"] or "none")]


def _extra_rows(extras: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for name, extra in extras.items():
        packages = ", ".join(
            f"{package} {version or '(missing)'}{_bound(extra['too_old'].get(package))}"
            for package, version in extra["packages"].items()
        )
        rows.append((name, "complete" if extra["pip"] is None else extra["pip"], packages))
    return rows or [("unknown", "this package was not installed with pip", "")]


def _bound(least: str | None) -> str:
    return "" if least is None else f" (too old, {least} or later is needed)"


def _engine_text(item: dict[str, Any]) -> str:
    if item["why"] is not None:
        return str(item["why"])
    text = f"error {item['error']:.1e}"
    if "row_s" in item:
        text += f", {item['row_s'] * 1e3:.1f} ms per row, {item['total_s']:.1f} s with opening"
    if item.get("int8_saturates"):
        text += f"; {INT8_SATURATES}"
    return text
