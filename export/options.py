"""Options of an export: which weights of a checkpoint, and what graphs to make of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from minit2i_deploy.bundle.flavours import find_flavour
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.checkpoints.checkpoint import Checkpoint
from minit2i_deploy.checkpoints.load import ImageSize
from minit2i_deploy.checkpoints.lora_sources import Lora
from minit2i_deploy.export.choices import (
    DEFAULT_OPSET,
    check_multiple,
    check_opset,
    check_precision,
    check_private_operators,
)
from minit2i_deploy.export.text_encoder_folder import find_text_encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOptions:
    """Which weights of a checkpoint, and which text encoder.

    Args:
        text_encoder: folder of the T5 encoder; None looks for one at the checkpoint.
        ema: as for ``load_checkpoint``, like the three below.
        lora: adapter to merge, or several with their strengths, as for ``load_checkpoint``.
        image_size: pixels of a side, or (width, height), of the images; None is as the weights
            were trained.
        prompt_length: tokens, for a Flax checkpoint of no published shape.
        loops: passes of a looped network's core; None is the checkpoint's own number.
    """

    text_encoder: str | Path | None = None
    ema: bool | str = True
    lora: Lora | None = None
    image_size: ImageSize | None = None
    prompt_length: int | None = None
    loops: int | None = None

    def load(self, checkpoint: str | Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            UsageError: the network has no loop, or cannot run it ``loops`` times; and what
                ``load_checkpoint`` raises.
        """
        source = load_checkpoint(
            checkpoint,
            self.ema,
            lora=self.lora,
            image_size=self.image_size,
            prompt_length=self.prompt_length,
        )
        return dataclasses.replace(source, config=source.config.with_loops(self.loops))

    def find_text_encoder(self, checkpoint: Path) -> Path:
        """Folder of the text encoder; raises what ``find_text_encoder`` raises."""
        named = None if self.text_encoder is None else Path(self.text_encoder)
        return find_text_encoder(checkpoint, named)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions(SourceOptions):
    """Options of ``export_bundle``.

    Args:
        precision: fp32, bf16 or fp16, of text adapter and denoiser; the text encoder stays fp32.
        flavour: a name in ``flavours.FLAVOURS``; None takes the one of the network's shape.
        opset: of the graphs, one of ``choices.OPSETS``.
        head_multiple: heads of text adapter and denoiser are padded with zeros to the next
            multiple of it, one of ``choices.HEAD_MULTIPLES``.
        sides: least and most pixels of a side, where height and width of the images are to be
            free; None fixes them.
        only_for: "cpu" or "cuda" writes attention and rotation as operators of ONNX Runtime's own,
            which are faster on that provider and run nowhere else; None writes standard operators.
        overwrite: replace an existing bundle.

    Raises:
        UsageError: a value outside its rule, or values that do not fit together.
    """

    precision: str = "fp32"
    flavour: str | None = None
    opset: int = DEFAULT_OPSET
    head_multiple: int = 1
    sides: tuple[int, int] | None = None
    only_for: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_opset(self.opset)
        check_multiple(self.head_multiple)
        check_private_operators(self.only_for, self.precision, self.opset)
        if self.flavour is not None:
            find_flavour(self.flavour)
