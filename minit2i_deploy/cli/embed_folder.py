"""minit2i embed-folder: the text encoder as a folder that embedding libraries open."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy.cli.support.options.shared_arguments import add_folder_of_bundle

_EPILOG: Final = """\
The folder opens in sentence-transformers, fastembed, txtai, optimum and
text-embeddings-inference (docs/guides/integrations.md has the lines for each). Its
graph, weights and tokenizer are hard links to the bundle's where the disk has them.

examples:
  minit2i embed-folder my-bundle my-encoder
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedFolderOptions:
    """Options of minit2i embed-folder."""

    bundle: str
    out: Path
    overwrite: bool
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Write a bundle's text encoder as one folder that other embedding libraries open."
    )
    parser.epilog = _EPILOG
    add_folder_of_bundle(parser)


def run(options: EmbedFolderOptions) -> None:
    """Write the folder and say what opens it."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.formatting import json_text, size
    from minit2i_deploy.interchange.embed_folder import write_embed_folder

    bundle = Bundle.open(options.bundle)
    folder = write_embed_folder(bundle, options.out, overwrite=options.overwrite)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    num_bytes = sum(path.stat().st_size for path in files)
    if options.json:
        names = [str(path.relative_to(folder)) for path in files]
        print(json_text({"folder": str(folder), "files": names, "bytes": num_bytes}))
        return
    print(f"{folder}  {len(files)} files, {size(num_bytes)}")
