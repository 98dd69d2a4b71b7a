"""minit2i diffusers-folder: a bundle as a folder that diffusers opens."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy.cli.support.options.shared_arguments import add_folder_of_bundle

_EPILOG: Final = """\
Open it with DiffusionPipeline.from_pretrained(OUT, trust_remote_code=True); it
needs minit2i-deploy beside diffusers. The bundle inside it is hard links where the
disk has them.

examples:
  minit2i diffusers-folder my-bundle my-pipeline
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusersFolderOptions:
    """Options of minit2i diffusers-folder."""

    bundle: str
    out: Path
    overwrite: bool
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Write a bundle as a pipeline folder that diffusers opens."
    parser.epilog = _EPILOG
    add_folder_of_bundle(parser)


def run(options: DiffusersFolderOptions) -> None:
    """Write the folder and say where it is."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.interchange.diffusers_folder import write_diffusers_folder

    bundle = Bundle.open(options.bundle)
    folder = write_diffusers_folder(bundle, options.out, overwrite=options.overwrite)
    if options.json:
        print(json_text({"folder": str(folder)}))
        return
    print(f"{folder}  a diffusers pipeline around {len(bundle.manifest.files) + 1} linked files")
