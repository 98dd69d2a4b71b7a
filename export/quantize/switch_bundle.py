"""A quantised bundle whose late rows run its source's step graph."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import GRAPHS, StepSwitch
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_directory

_STEP: Final = GRAPHS[-1]
FOLDER: Final = "transformer_late"


def check_late_time(t: float) -> None:
    """Refuse a time that leaves no early or no late rows.

    Raises:
        UsageError: t is not between 0 and 1.
    """
    if not 0.0 < t < 1.0:
        raise UsageError(f"late rows from t={t:g} on, but a time between 0 and 1 is needed")


def copy_late_graph(source: Bundle, folder: Path, t: float) -> StepSwitch:
    """Copy a bundle's step graph into a folder that becomes a bundle, for the rows from a time on.

    Args:
        source: whose graph it is, in higher precision than the new bundle's own.
        folder: receives FOLDER; the caller makes it atomic.
        t: of the first late row, 0 noise to 1 data.

    Returns:
        what the new bundle's manifest says of it.

    Raises:
        UsageError: t is not between 0 and 1, or the source has a late graph itself.
    """
    check_late_time(t)
    if source.manifest.switch is not None:
        raise UsageError(f"{source.path}: has a late step graph already; give one without")
    for path in sorted(source.graph_path(_STEP).parent.iterdir()):
        _copy(path, folder / FOLDER / path.name)
    step = source.manifest.graphs[_STEP]
    info = dataclasses.replace(step, path=f"{FOLDER}/{Path(step.path).name}")
    return StepSwitch(t=t, graph=info)


def add_late_graph(bundle: Bundle, source: Bundle, t: float) -> Bundle:
    """Put another bundle's step graph beside a whole bundle's own.

    The checks in the manifest stay, and are of the bundle's own graphs; ``quantize_bundle`` with
    ``late_from`` measures both together.

    Args:
        bundle: replaced in its place, whole or not at all.
        source: of the same checkpoint, in higher precision.
        t: of the first late row, 0 noise to 1 data.

    Returns:
        the new bundle.

    Raises:
        UsageError: t is not between 0 and 1, the checkpoints differ, or one of the two has a
            late graph already.
    """
    check_late_time(t)
    origins = [
        (item.manifest.provenance.checkpoint_sha256, item.manifest.provenance.lora_sha256)
        for item in (bundle, source)
    ]
    if origins[0] != origins[1]:
        raise UsageError(
            f"{source.path}: is of checkpoint {origins[1][0][:8]}.., but {bundle.path} of"
            f" {origins[0][0][:8]}..; give two bundles of one checkpoint"
        )
    if bundle.manifest.switch is not None:
        raise UsageError(f"{bundle.path}: has a late step graph already; give one without")
    with atomic_directory(bundle.path, overwrite=True) as folder:
        late = copy_late_graph(source, folder, t)
        for name in bundle.manifest.files:
            _copy(bundle.path / name, folder / name)
        only_for = bundle.manifest.only_for or source.manifest.only_for
        write_manifest(folder, dataclasses.replace(bundle.manifest, switch=late, only_for=only_for))
    return Bundle.open(bundle.path)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
