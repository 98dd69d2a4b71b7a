"""Recorded ranges of a graph's values by channel and time, and some of the values: the file.

Its bytes are a function of its content: no clock, no order of writing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_write_bytes

FORMAT_VERSION: Final = 1
KIND: Final = "minit2i-calibration"
# Ranges are rounded to this many bits of mantissa, so that the last bits of sums do not count.
RANGE_BITS: Final = 12

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_META: Final = "meta"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """Ranges and samples of the values that linear layers and attention read.

    Args:
        meta: JSON values: ``checkpoint_sha256`` of the model, ``times`` (edges of the strata),
            ``prompts``, ``noise_seeds``, ``table``, ``guidance``, ``seed`` and the rest of the
            draw.
        absmax: by site, float32 [strata, channels]: largest magnitude.
        activations: by site, float32 [n, channels]: some of the values, in bfloat16's precision.
    """

    meta: Mapping[str, Any]
    absmax: Mapping[str, Float32[np.ndarray, "strata _"]]
    activations: Mapping[str, Float32[np.ndarray, "n _"]] = field(repr=False)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, sorted."""
        return tuple(sorted(self.absmax))

    def channel_absmax(self, site: str) -> Float32[np.ndarray, " channels"]:
        """Largest magnitude of each channel over all times: float32 [channels]."""
        highest: np.ndarray = self.absmax[site].max(axis=0)
        return highest

    def tensor_absmax(self, site: str) -> float:
        """Largest magnitude of all."""
        return float(self.absmax[site].max())

    def percentile(self, site: str, share: float) -> float:
        """A percentile, 0 to 100, of the magnitudes of the stored activations."""
        return float(np.percentile(np.abs(self.activations[site]), share))

    @property
    def digest(self) -> str:
        """sha256 of the file's bytes: 64 hexadecimal digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """The .npz file: sorted names, one date, no compression."""
        fields = {"kind": KIND, "format_version": FORMAT_VERSION, **self.meta}
        text = json.dumps(fields, sort_keys=True, allow_nan=False).encode("ascii")
        arrays = {_META: np.frombuffer(text, dtype=np.uint8)}
        for site in self.sites:
            arrays[f"absmax/{site}"] = self.absmax[site]
            rounded = self.activations[site].astype(ml_dtypes.bfloat16)
            arrays[f"rows/{site}"] = rounded.view(np.uint16)
        return _npz(arrays)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, completely or not at all."""
        atomic_write_bytes(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a file.

        Raises:
            UsageError: it is missing or not a calibration; the text has the path.
        """
        try:
            return _from_arrays(_read_npz(Path(path)))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{path}: not a calibration file ({error}); write one with minit2i quantize"
                " --save-calibration"
            ) from error


def round_range(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Round to RANGE_BITS of mantissa: float32."""
    fraction, exponent = np.frexp(values)
    steps = np.rint(fraction.astype(np.float64) * 2**RANGE_BITS)
    rounded: np.ndarray = np.ldexp(steps, exponent - RANGE_BITS).astype(np.float32)
    return rounded


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    # Stored and not deflated: what deflate writes differs between versions of zlib.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), (1, 0))
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            # The default records the operating system.
            info.create_system = 3
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    # From memory: numpy leaves a file open that turns out not to be an archive.
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("not an .npz file")
        return {name: archive[name] for name in archive.files}


def _from_arrays(arrays: dict[str, np.ndarray]) -> Calibration:
    meta = json.loads(arrays.pop(_META).tobytes())
    kind, version = meta.pop("kind", None), meta.pop("format_version", None)
    if kind != KIND or version != FORMAT_VERSION:
        raise ValueError(f"kind {kind!r} version {version!r}, expected {KIND} {FORMAT_VERSION}")
    absmax, activations = {}, {}
    for name, values in arrays.items():
        group, _, site = name.partition("/")
        if group == "absmax":
            absmax[site] = values
        else:
            activations[site] = values.view(ml_dtypes.bfloat16).astype(np.float32)
    if not absmax or absmax.keys() != activations.keys():
        raise ValueError("ranges and activations are not of the same sites")
    return Calibration(meta=meta, absmax=absmax, activations=activations)
