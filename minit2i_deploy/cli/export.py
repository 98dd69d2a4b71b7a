"""minit2i export: a checkpoint to a bundle."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.options.checkpoint_options import (
    CheckpointOptions,
    add_checkpoint_options,
)
from minit2i_deploy.cli.support.options.shared_arguments import (
    READY_BUNDLES,
    add_json,
    checkpoint_path,
    integer,
    side_bounds,
)

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle

_EPILOG: Final = """\
CHECKPOINT may be a Hugging Face folder, a .pt file of the PyTorch port or of
Looped-DiT, a Flax checkpoint (msgpack file or Orbax folder) or a checkpoint of
minit2i train; its form is detected from its content.

examples:
  minit2i export minit2i-b-16 b16-bundle --text-encoder flan-t5-large
  minit2i export minit2i-b-16 b16-rtx --text-encoder flan-t5-large --for tensorrt-rtx
  minit2i export demo demo-fp16 --precision fp16
  minit2i export looped-dit-b16.pt b16-fast --text-encoder flan-t5-large --loops 2
  minit2i export minit2i-b-16 b16-wide --text-encoder flan-t5-large --image-size 768x512
  minit2i export minit2i-b-16 b16-any --text-encoder flan-t5-large --sides 256-1024
  minit2i export run/step-020000 my-bundle --text-encoder t5 --overwrite
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportCommandOptions:
    """Options of minit2i export; None leaves a choice to the engine or the checkpoint."""

    checkpoint: str
    bundle: str
    precision: str | None
    engine: str | None
    head_multiple: int | None
    flavour: str | None
    loops: int | None
    sides: tuple[int, int] | None
    overwrite: bool
    source: CheckpointOptions
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Export a checkpoint to ONNX graphs, compare each with PyTorch, and write a bundle. "
        "Nothing is written if a check exceeds its bound."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_path,
        help=f"file or folder to export, or {' or '.join(READY_BUNDLES)} for the shipped models",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="new folder for the bundle")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="of text adapter and denoiser (default fp32, or what --for chooses); the text "
        "encoder stays fp32",
    )
    parser.add_argument(
        "--for",
        dest="engine",
        metavar="ENGINE",
        help="choose opset, precision and width of heads for cpu, web, openvino, cuda, tensorrt or "
        "tensorrt-rtx (minit2i help engines), and print why; default: fp32 at opset 23, which "
        "cpu, openvino and cuda run (a bundle for cpu is faster there, and runs nowhere else)",
    )
    parser.add_argument(
        "--head-multiple",
        metavar="N",
        type=integer,
        help="pad attention heads with zeros to the next multiple of 8, 16, 32 or 64, for fused "
        "kernels that need it; the images stay the same (default: 1, no padding, or what --for "
        "chooses)",
    )
    parser.add_argument(
        "--flavour",
        metavar="NAME",
        help="official code to match: torch-hub, jax-b16, jax-l16, looped-dit or mean-flow; "
        "default: the one of the checkpoint",
    )
    parser.add_argument(
        "--loops",
        metavar="N",
        type=integer,
        help="of a Looped-DiT: passes through its loop in every evaluation; fewer are faster and "
        "less exact (default: those of the checkpoint)",
    )
    parser.add_argument(
        "--sides",
        metavar="MIN-MAX",
        type=side_bounds,
        help="leave height and width of the images free, between two multiples of the patch in "
        "pixels, for generate --size; without --size images are as --image-size says",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    add_checkpoint_options(parser)
    add_json(parser)


def run(options: ExportCommandOptions) -> None:
    """Export and print the checks."""
    from minit2i_deploy.export.choices import check_multiple, choose
    from minit2i_deploy.progress import ProgressLine

    if options.head_multiple is not None:
        check_multiple(options.head_multiple)
    _check_places(options)
    settings: dict[str, Any] = {"precision": options.precision or "fp32"}
    if options.engine is not None:
        choice = choose(options.engine, options.precision)
        settings = {
            "precision": choice.precision,
            "opset": choice.opset,
            "head_multiple": choice.head_multiple,
            "only_for": choice.only_for,
        }
        sys.stderr.write(f"minit2i: {choice.line()}\n")
    if options.head_multiple is not None:
        settings["head_multiple"] = options.head_multiple
    # Takes seconds to import.
    from minit2i_deploy.export import ExportOptions, export_bundle

    with ProgressLine("export") as progress:
        bundle = export_bundle(
            Path(options.checkpoint),
            Path(options.bundle),
            ExportOptions(
                **settings,
                flavour=options.flavour,
                loops=options.loops,
                sides=options.sides,
                **options.source.arguments(),
                overwrite=options.overwrite,
            ),
            progress=progress,
        )
    _print(options, bundle, settings["precision"])


def _check_places(options: ExportCommandOptions) -> None:
    """Refuse at once what the export would refuse after loading torch.

    Raises:
        UsageError: an unknown flavour, a target that may not be written, or no text encoder.
        CheckpointError: no checkpoint there.
    """
    from minit2i_deploy.bundle.flavours import find_flavour
    from minit2i_deploy.bundle.folder import check_bundle_folder
    from minit2i_deploy.checkpoints.find import find_checkpoint
    from minit2i_deploy.export.text_encoder_folder import find_text_encoder

    if options.flavour is not None:
        find_flavour(options.flavour)
    text_encoder = options.source.text_encoder
    sources = (options.checkpoint, text_encoder, *(options.source.adapters or ()))
    check_bundle_folder(options.bundle, overwrite=options.overwrite, sources=sources)
    checkpoint = find_checkpoint(Path(options.checkpoint))
    find_text_encoder(checkpoint.path, None if text_encoder is None else Path(text_encoder))


def _print(options: ExportCommandOptions, bundle: Bundle, precision: str) -> None:
    from minit2i_deploy.cli.support.formatting import check_lines, json_text, size
    from minit2i_deploy.io.strict_json import encode

    manifest = bundle.manifest
    if options.json:
        values = {"bundle": str(bundle.path), "digest": bundle.digest, "bytes": manifest.num_bytes}
        print(json_text(values | {"checks": encode(manifest.checks)}))
        return
    print(check_lines(manifest.checks))
    if manifest.padded_head_dim is not None:
        print(f"heads of {manifest.model.head_dim} padded with zeros to {manifest.padded_head_dim}")
    if manifest.only_for is not None:
        print(f"for provider {manifest.only_for} of onnxruntime only")
    if manifest.trained_size is not None:
        print(f"images of {manifest.model.size_text}; {manifest.trained_text}")
    if manifest.side_bounds is not None:
        print(f"sides of {manifest.sides_text}")
    if manifest.model.loop is not None:
        loop = manifest.model.loop
        print(f"{loop.num_loops} passes through the {loop.core} blocks of the loop")
    print(f"{bundle.path}  {len(manifest.files)} files, {size(manifest.num_bytes)}, {precision}")
