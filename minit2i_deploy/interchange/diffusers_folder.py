"""A bundle as a folder that ``DiffusionPipeline.from_pretrained`` opens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import FILE_NAME
from minit2i_deploy.errors import UsageError
from minit2i_deploy.interchange.linked_files import link_file, write_template, write_values
from minit2i_deploy.io.files import atomic_directory

PIPELINE_FILE: Final = "pipeline.py"
_COMPONENT: Final = "bundle"
_COMPONENT_FILE: Final = "minit2i_bundle.py"
_INDEX: Final = "model_index.json"


def write_diffusers_folder(
    bundle: Bundle, out: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write the folder; the bundle inside it is hard links where the disk has them.

    diffusers' own class for ONNX graphs ends with release 0.43, so the component is the bundle
    itself, opened by a class that the folder brings.

    Args:
        bundle: what the pipeline runs.
        out: folder to create; it appears complete or not at all.
        overwrite: replace a folder that an earlier call wrote.

    Returns:
        the folder.

    Raises:
        UsageError: it exists and may not be replaced, or is inside the bundle.
        Minit2iError: the disk failed or is full.
    """
    target = Path(out)
    if target.resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(f"{target}: is inside the bundle; name a folder outside")
    with atomic_directory(target, overwrite=overwrite, check=_require_own) as folder:
        for name in (FILE_NAME, *bundle.manifest.files):
            link_file(bundle.path / name, folder / _COMPONENT / name)
        write_template(_COMPONENT_FILE, folder / _COMPONENT / _COMPONENT_FILE)
        write_template(PIPELINE_FILE, folder / PIPELINE_FILE)
        index = {
            "_class_name": [PIPELINE_FILE.removesuffix(".py"), "MiniT2IPipeline"],
            "_diffusers_version": "0.42.1",
            _COMPONENT: [_COMPONENT_FILE.removesuffix(".py"), "MiniT2IBundle"],
        }
        write_values(folder / _INDEX, index)
    return target


def _require_own(folder: Path) -> None:
    if not (folder / _COMPONENT / _COMPONENT_FILE).is_file():
        raise UsageError(
            f"{folder}: exists and was not written by minit2i diffusers-folder, so it is not "
            "replaced; name a new folder"
        )
