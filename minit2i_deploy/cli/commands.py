"""The commands by name. Their modules are imported only when one of them is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command.

    Args:
        name: the word on the command line, and the module in this folder that holds
            ``configure(parser)`` and ``run(options)``.
        help: its line in ``minit2i --help``.
        extra: extra of the distribution that installs what it needs.
    """

    name: str
    help: str
    extra: str


COMMANDS: Final = (
    Command(name="demo", help="export the shipped model, paint, judge, report", extra="export"),
    Command(name="pull", help="fetch a released checkpoint and its text encoder", extra="hub"),
    Command(name="export", help="make a bundle from a checkpoint", extra="export"),
    Command(name="quantize", help="make an INT8 or FP8 bundle from a bundle", extra="quantize"),
    Command(name="build", help="build TensorRT engines of a bundle's graphs", extra="rtx"),
    Command(name="refit", help="put other weights into engines without a rebuild", extra="rtx"),
    Command(name="generate", help="paint pictures from prompts", extra="export"),
    Command(name="embed", help="write the text encoder's embeddings of texts", extra="export"),
    Command(name="inspect", help="show what a bundle or a checkpoint holds", extra="checkpoints"),
    Command(name="verify", help="check that a bundle is whole and runs", extra="export"),
    Command(name="bench", help="time a bundle's stages, on several engines in turns", extra="cpu"),
    Command(name="doctor", help="show what is installed and what works here", extra="cpu"),
    Command(name="compare", help="compare two bundles' pictures, scores and speed", extra="eval"),
    Command(name="sensitivity", help="show which layers suffer when quantised", extra="quantize"),
    Command(name="table", help="print a solver as the table that runtimes follow", extra="cpu"),
    Command(name="eval", help="measure how often a bundle follows its prompts", extra="export"),
    Command(name="data", help="make, check and embed training shards", extra="train"),
    Command(name="train", help="train a model from a recipe", extra="train"),
    Command(name="distill", help="distil a model to a few-step student", extra="train"),
)
