"""The commands by name. Their modules are imported only when one of them is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command.

    Args:
        name: the word on the command line; the module of that name in this folder, with _ for
            -, holds ``configure(parser)`` and ``run(options)``.
        help: its line in ``minit2i --help``.
        extra: extra of the distribution that installs what it needs.
    """

    name: str
    help: str
    extra: str

    @property
    def module(self) -> str:
        """Name of its module in this folder."""
        return self.name.replace("-", "_")


COMMANDS: Final = (
    Command(name="demo", help="generate with the shipped models, score, report", extra="export"),
    Command(name="pull", help="download a released checkpoint and its text encoder", extra="hub"),
    Command(name="export", help="export a checkpoint to a bundle", extra="export"),
    Command(name="quantize", help="make an INT8, FP8 or INT4 bundle", extra="quantize"),
    Command(name="build", help="build TensorRT engines of a bundle's graphs", extra="rtx"),
    Command(name="refit", help="replace the weights of TensorRT engines", extra="rtx"),
    Command(name="generate", help="generate images from prompts", extra="cpu"),
    Command(name="embed", help="write the text encoder's embeddings of texts", extra="cpu"),
    Command(name="serve", help="serve images and embeddings over HTTP, and a page", extra="serve"),
    Command(
        name="embed-folder", help="write the text encoder for embedding libraries", extra="cpu"
    ),
    Command(name="diffusers-folder", help="write a bundle as a diffusers pipeline", extra="cpu"),
    Command(name="inspect", help="describe a bundle, checkpoint or image", extra="checkpoints"),
    Command(name="verify", help="check the files of a bundle and run its graphs", extra="export"),
    Command(name="bench", help="time the stages of a bundle on one or more engines", extra="cpu"),
    Command(name="doctor", help="show what is installed and what works here", extra="cpu"),
    Command(name="compare", help="compare images, scores and speed of bundles", extra="eval"),
    Command(name="sensitivity", help="measure what quantizing each layer costs", extra="quantize"),
    Command(name="table", help="print a solver as the table that runtimes follow", extra="cpu"),
    Command(name="eval", help="score how well images follow their prompts", extra="cpu"),
    Command(name="plan", help="forecast time, devices and disk of a large job", extra="cpu"),
    Command(name="shards", help="check and join work of several processes", extra="cpu"),
    Command(name="data", help="pack, check and embed training shards", extra="train"),
    Command(name="train", help="train a model from a recipe", extra="train"),
    Command(name="distill", help="distill a model into a few-step student", extra="train"),
    Command(name="completion", help="print a completion script for a shell", extra="cpu"),
    Command(name="help", help="explain a command or a topic", extra="cpu"),
)
