"""minit2i help: explain a command, or a topic that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.errors import UsageError

_ENGINES: Final = """\
One word names one engine wherever an engine is chosen:

  onnxruntime   ONNX Runtime; --provider: cpu, cuda, openvino, tensorrt, tensorrt-rtx
  openvino      OpenVINO on the CPU
  tensorrt      TensorRT engines of minit2i build
  tensorrt-rtx  TensorRT-RTX engines of minit2i build
  torch         PyTorch, from the weights of the graphs
  fake          no network, for testing programs

Four options take these names, each for another question:

  --runtime NAME  (generate, embed, eval, compare, bench, verify) what runs the graphs
  --engine NAME   (build, refit) whose engine files are built: tensorrt, tensorrt-rtx
  --for NAME      (export) what the bundle is made for. ONNX Runtime is named by its
                  provider here, cpu or cuda, or by web, as each wants another graph
  --target NAME   (build, quantize) the processor it will run on: cpu, or a GPU as
                  rtx4090 or sm89 (minit2i help gpus)

--device picks among several devices of a runtime. --device auto picks the runtime as
well: the fastest that opens the bundle on this machine, which is printed.
"""
TOPICS: Final = ("engines", "gpus")


@dataclass(frozen=True, kw_only=True, slots=True)
class HelpOptions:
    """Options of minit2i help."""

    topic: tuple[str, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Explain a command or a topic; without one, list the commands."
    parser.add_argument(
        "topic",
        metavar="TOPIC",
        nargs="*",
        help=f"a command, such as generate or data pack, or {' or '.join(TOPICS)}",
    )


def run(options: HelpOptions) -> None:
    """Print."""
    printers: dict[str, Callable[[], str]] = {"engines": lambda: _ENGINES, "gpus": _gpus}
    topic = " ".join(options.topic)
    print((printers[topic]() if topic in printers else _command_help(options.topic)).rstrip())


def _gpus() -> str:
    from minit2i_deploy.cli.support.gpu_names import GPUS

    lines = ["Names that --target takes, by the capability that they stand for:", ""]
    for capability, names in GPUS.items():
        lines.append(f"  {capability:6}  {' '.join(names)}")
    return "\n".join([*lines, "", "A laptop, Ti or Super variant has the capability of its model."])


def _command_help(names: tuple[str, ...]) -> str:
    from minit2i_deploy.cli.support.parser import build_parser, subparsers

    parser: argparse.ArgumentParser = build_parser(names[0] if names else None)
    for name in names:
        choices = subparsers(parser)
        if name not in choices:
            raise UsageError(
                f"no help on {' '.join(names)!r}; choose a command of minit2i --help, or "
                f"{' or '.join(TOPICS)}"
            )
        parser = choices[name]
    return parser.format_help()
