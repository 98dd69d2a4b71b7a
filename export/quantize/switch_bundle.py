"""A quantized bundle that switches to its source's step graph at a time of the trajectory."""

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
# Of the step graph after the switch; the name stays because bundles that exist have it.
FOLDER: Final = "transformer_late"


def check_switch_time(t: float) -> None:
    """Refuse a time that leaves no rows before or after the switch.

    Raises:
        UsageError: t is not between 0 and 1.
    """
    if not 0.0 < t < 1.0:
        raise UsageError(f"the switch is at t={t:g}, but a time between 0 and 1 is required")


def copy_graph_after_switch(source: Bundle, folder: Path, t: float) -> StepSwitch:
    """Copy a bundle's step graph into a folder that becomes a bundle, for the rows from t on.

    Args:
        source: whose graph it is, in higher precision than the new bundle's.
        folder: receives FOLDER; the caller makes it atomic.
        t: of the first row after the switch, 0 noise to 1 data.

    Returns:
        the entry for the new bundle's manifest.

    Raises:
        UsageError: t is not between 0 and 1, or the source has a switch itself.
    """
    check_switch_time(t)
    if source.manifest.switch is not None:
        raise UsageError(f"{source.path}: has two step graphs already; give a bundle with one")
    for path in sorted(source.graph_path(_STEP).parent.iterdir()):
        _copy(path, folder / FOLDER / path.name)
    step = source.manifest.graphs[_STEP]
    info = dataclasses.replace(step, path=f"{FOLDER}/{Path(step.path).name}")
    return StepSwitch(t=t, graph=info)


def add_switch(bundle: Bundle, source: Bundle, t: float) -> Bundle:
    """Add another bundle's step graph to an existing bundle.

    The checks in the manifest stay, and are of the bundle's own graphs; ``quantize_bundle`` with
    ``switch_at`` measures both together.

    Args:
        bundle: replaced in its place, completely or not at all.
        source: of the same checkpoint, in higher precision.
        t: of the first row after the switch.

    Returns:
        the new bundle.

    Raises:
        UsageError: t is not between 0 and 1, the checkpoints differ, or one of the two has a
            switch already.
    """
    check_switch_time(t)
    _check_same_checkpoint(bundle, source)
    if bundle.manifest.switch is not None:
        raise UsageError(f"{bundle.path}: has two step graphs already; give a bundle with one")
    with atomic_directory(bundle.path, overwrite=True) as folder:
        switch = copy_graph_after_switch(source, folder, t)
        for name in bundle.manifest.files:
            _copy(bundle.path / name, folder / name)
        only_for = bundle.manifest.only_for or source.manifest.only_for
        manifest = dataclasses.replace(bundle.manifest, switch=switch, only_for=only_for)
        write_manifest(folder, manifest)
    return Bundle.open(bundle.path)


def _check_same_checkpoint(bundle: Bundle, source: Bundle) -> None:
    ours, other = (
        (item.manifest.provenance.checkpoint_sha256, item.manifest.provenance.lora_sha256)
        for item in (bundle, source)
    )
    if ours != other:
        raise UsageError(
            f"{source.path}: made from checkpoint {other[0][:8]}.., but {bundle.path} from"
            f" {ours[0][:8]}..; give two bundles of one checkpoint"
        )


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
