"""The engine that a command runs on: its arguments, its short form, and how it is opened."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.cli.support.options.shared_arguments import integer

SPEC_FORM: Final = "RUNTIME[:PROVIDER[:PRECISION]]"
AUTO: Final = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """The engine that is asked for; None leaves a setting to the runtime.

    Args:
        runtime: a name in ``runtimes.RUNTIMES``; None is onnxruntime, or what ``device`` finds.
        provider: execution provider of onnxruntime, or auto.
        precision: that openvino or torch computes in.
        device: torch device, index of an NVIDIA GPU, or auto.
        compile: torch only: compile the step.
        tf32: onnxruntime only: let cuda round factors of float32 products.
        threads: CPU threads, 0 for one per core.
        cache: onnxruntime and openvino only: folder for what is compiled of the graphs.
    """

    runtime: str | None
    provider: str | None = None
    precision: str | None = None
    device: str | None = None
    compile: bool | None = None
    tf32: bool | None = None
    threads: int | None = None
    cache: str | None = None

    @property
    def name(self) -> str:
        """The runtime's name, the default one where none is given."""
        from minit2i_deploy.runtimes import DEFAULT_RUNTIME

        return self.runtime or DEFAULT_RUNTIME

    @property
    def spec(self) -> str:
        """The short form, SPEC_FORM."""
        return ":".join([self.name, self.provider or "", self.precision or ""]).rstrip(":")

    @classmethod
    def from_spec(cls, spec: str, *, beside: EngineOptions) -> EngineOptions:
        """The engine of a short form, with another one's threads and cache where it has such.

        Raises:
            ValueError: more parts than SPEC_FORM has.
            UsageError: an unknown runtime; the choices are listed.
        """
        from minit2i_deploy.runtimes import runtime_class

        runtime, *parts = spec.split(":")
        if len(parts) > 2:
            raise ValueError(f"expected {SPEC_FORM}, got {spec!r}")
        provider, precision = [*parts, "", ""][:2]
        known = runtime_class(runtime).options()
        return cls(
            runtime=runtime,
            provider=provider or None,
            precision=precision or None,
            threads=beside.threads if "threads" in known else None,
            cache=beside.cache if "cache" in known else None,
        )


# Fields that are options of the same name of some runtimes.
SETTINGS: Final = tuple(
    field.name for field in dataclasses.fields(EngineOptions) if field.name != "runtime"
)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--runtime, --provider, --precision, --device, --compile, --tf32, --threads and --cache."""
    from minit2i_deploy.runtimes import DEFAULT_RUNTIME, RUNTIMES

    group = parser.add_argument_group(
        "engine",
        "minit2i help engines explains the names, minit2i doctor lists the options of each runtime",
    )
    group.add_argument(
        "--runtime",
        metavar="NAME",
        help=f"one of {', '.join(RUNTIMES)} (default: {DEFAULT_RUNTIME}); fake runs no network and "
        "is for testing programs",
    )
    group.add_argument(
        "--provider",
        metavar="NAME",
        help="execution provider, for example of onnxruntime: cpu (default), openvino, cuda, "
        "tensorrt, tensorrt-rtx or auto",
    )
    group.add_argument(
        "--precision",
        metavar="NAME",
        help="what to compute in, in place of the bundle's precision: fp32, bf16 or fp16",
    )
    group.add_argument(
        "--device",
        metavar="DEVICE",
        help="auto: the fastest runtime and device that open the bundle here, which are printed; "
        "else cpu or cuda:0 for torch, the index of a GPU for onnxruntime, tensorrt and "
        "tensorrt-rtx",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        default=None,
        help="compile the step at its first use, on a GPU into CUDA graphs",
    )
    group.add_argument(
        "--tf32",
        action="store_true",
        default=None,
        help="provider cuda: multiply fp32 in TF32, faster and good to 3 digits",
    )
    group.add_argument(
        "--threads",
        metavar="N",
        type=integer,
        help="CPU threads; 0 (default) is one per core",
    )
    group.add_argument(
        "--cache",
        metavar="DIR",
        help="keep what onnxruntime or openvino compile of the bundle's graphs in this folder, and "
        "what generate encodes of a prompt on the CPU, so that the next start is faster",
    )
