"""Results of a sensitivity run as a file: complete for ``minit2i quantize``, partial to resume."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.sensitivity.budget import Selection
from minit2i_deploy.export.quantize.sensitivity.budget_curve import BudgetCurve
from minit2i_deploy.export.quantize.sensitivity.layer_errors import LayerError, TimeSplit
from minit2i_deploy.io.files import atomic_write_text

KIND: Final = "minit2i-sensitivity"
FORMAT_VERSION: Final = 1
_PARTIAL: Final = "minit2i-sensitivity-partial"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """Everything that was measured.

    Args:
        run: digest of everything that the layers' errors depend on.
        about: JSON values on what was measured: bundle, scheme, calibration, table, seeds.
        times: t of the first row of each stratum, 0 noise to 1 data.
        layers: in the order they run.
        splits: all layers quantized for a part of the time, from nothing to everything; empty
            if final states were not measured.
        selection: layers to exclude for a budget; None without one.
        curve: error over bytes; None if it was not measured.
    """

    run: str
    about: Mapping[str, Any]
    times: tuple[float, ...]
    layers: tuple[LayerError, ...]
    splits: tuple[TimeSplit, ...]
    selection: Selection | None
    curve: BudgetCurve | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "run": self.run,
            **self.about,
            "times": list(self.times),
            "layers": [layer.to_dict() for layer in self.layers],
            "splits": [split.to_dict() for split in self.splits],
            "budget": None if self.selection is None else _finite(self.selection.to_dict()),
            "curve": None if self.curve is None else self.curve.to_dict(),
            "excluded": None if self.selection is None else list(self.selection.excluded),
        }


def read_exclusions(
    path: str | Path, *, checkpoint_sha256: str, lora_sha256: str | None, scheme: str
) -> tuple[str, ...]:
    """Names of the layers that a budget excludes.

    Args:
        path: file that ``minit2i sensitivity --budget`` wrote.
        checkpoint_sha256: of the bundle that is quantized.
        lora_sha256: of the adapters that are merged into it; None without any.
        scheme: that it is quantized to.

    Raises:
        UsageError: no such file, one without a budget, or one of another checkpoint, other
            adapters or another scheme.
    """
    values = _read(Path(path))
    if values.get("kind") != KIND or values.get("format_version") != FORMAT_VERSION:
        raise UsageError(f"{path}: not a file of minit2i sensitivity")
    if values.get("excluded") is None:
        raise UsageError(f"{path}: has no budget; run minit2i sensitivity with --budget")
    sides: dict[str, str | None] = {
        "checkpoint_sha256": checkpoint_sha256,
        "lora_sha256": lora_sha256,
        "scheme": scheme,
    }
    for key, expected in sides.items():
        if values.get(key) != expected:
            raise UsageError(
                f"{path}: measured at {key} {str(values.get(key))[:12]}, but"
                f" {str(expected)[:12]} is quantized; run minit2i sensitivity on this bundle and"
                " scheme"
            )
    return tuple(map(str, values["excluded"]))


def partial_path(path: Path) -> Path:
    """Where results are stored until all are measured."""
    return path.with_name(f"{path.name}.partial")


def save_partial(path: Path, digest: str, layers: Sequence[LayerError]) -> None:
    """Store what is measured so far."""
    values = {"kind": _PARTIAL, "run": digest, "layers": [one.to_dict() for one in layers]}
    atomic_write_text(path, json.dumps(values) + "\n")


def load_known(output: Path, digest: str) -> dict[str, LayerError]:
    """Results of an earlier run by layer: an interrupted one, or a complete one for a new budget.

    Args:
        output: file of a complete run, which need not exist; the partial one is beside it.
        digest: of this run.

    Raises:
        UsageError: the partial file belongs to another run, or is corrupt.
    """
    path = partial_path(output)
    if not path.exists():
        return _of_complete_run(output, digest)
    values = _read(path)
    if values.get("kind") != _PARTIAL or values.get("run") != digest:
        raise UsageError(
            f"{path}: belongs to a run with other settings; resume with those, or remove it"
        )
    return _layers(path, values)


def _of_complete_run(path: Path, digest: str) -> dict[str, LayerError]:
    """Layers of a complete run with the same settings; any other file is replaced at the end."""
    try:
        values = _read(path)
    except UsageError:
        return {}
    return _layers(path, values) if values.get("run") == digest else {}


def _layers(path: Path, values: Mapping[str, Any]) -> dict[str, LayerError]:
    try:
        layers = [LayerError.from_dict(item) for item in values["layers"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: corrupt ({error}); remove it") from error
    return {layer.name: layer for layer in layers}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON; give a file of minit2i sensitivity") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: not a JSON object; give a file of minit2i sensitivity")
    return values


def _finite(value: Any) -> Any:
    """None for infinity, which JSON lacks and the PSNR of equal images is."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
