"""minit2i embed: texts to the text encoder's embeddings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from minit2i_deploy.cli.options import add_bundle, add_engine, add_json, opened_runtime

_EPILOG: Final = """\
The file holds
  values  float32 [texts, tokens, width], zero at padding
  mask    int64 [texts, tokens], 1 at real tokens
  pooled  float32 [texts, width], with --pooled

example:
  minit2i embed my-bundle "a red circle" "a blue square" -o texts.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Embed texts with a bundle's text encoder and write them as .npz."
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="one or more texts")
    parser.set_defaults(gather="texts")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help=".npz file, replaced if it is there",
    )
    parser.add_argument(
        "--pooled", action="store_true", help="add the mean over each text's tokens, of length 1"
    )
    add_engine(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Embed and write."""
    from minit2i_deploy.bundle import Bundle
    from minit2i_deploy.cli import places
    from minit2i_deploy.cli.text import json_text
    from minit2i_deploy.embed import embed

    places.output_file(options.output, ".npz")
    bundle = Bundle.open(options.bundle)
    with opened_runtime(bundle, options) as runtime:
        embeddings = embed(bundle, runtime, options.texts)
    arrays = {"values": embeddings.values, "mask": embeddings.mask}
    if options.pooled:
        arrays["pooled"] = embeddings.pooled()
    places.write_npz(options.output, arrays)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if options.json:
        print(json_text({"file": str(options.output), "shapes": shapes}))
        return
    print(options.output, " ".join(f"{name} {shape}" for name, shape in shapes.items()), sep="  ")
