"""Options of a quantization: scheme, layers, calibration, and what the result runs on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.manifest import GRAPHS
from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.calibration.range_collection import DrawSettings
from minit2i_deploy.export.quantize.rounding.layers import GPTQ, NEAREST, check_rounding
from minit2i_deploy.export.quantize.schemes import find_scheme
from minit2i_deploy.export.quantize.switch_bundle import check_switch_time

STEP = GRAPHS[-1]
# Activations of each value that are stored for GPTQ, which needs several for every channel.
GPTQ_ACTIVATIONS: Final = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeOptions:
    """Options of ``quantize_bundle``.

    Args:
        scheme: a name in ``schemes.SCHEMES``.
        calibration: file of ranges; None draws them, and stores them in ``calibration_path(out)``
            until the bundle is complete.
        prompts: text file of prompts for the draw, one per line; None takes the default ones.
        draw: of the draw.
        exclude: patterns of step graph layers that are not quantized, besides the scheme's.
        include: patterns of layers to quantize, weights and inputs, although the scheme excludes
            them or their inputs.
        graphs: which of the three to quantize; the step graph must be one.
        smoothing: whether to smooth, if the scheme gains by it.
        rounding: how the step graph's weights are rounded: nearest, search (scales of blocks) or
            gptq; None is the scheme's own.
        rotate: mix channels by Hadamard matrices first, folded into the weights.
        low_rank: rank of a branch beside every layer, in the source's precision; 0 for none.
        clip: whether input scales may reach to less than the largest recorded magnitude.
        target: what it is to run on, checked; None for no check.
        switch_at: rows from this time on, 0 noise to 1 data, run the source's step graph, which
            the new bundle then contains as well; None for no such rows.
        save_calibration: file to write the ranges to as well.
        overwrite: replace an existing bundle.

    Raises:
        UsageError: an unknown scheme, rounding or graph, a rounding that the scheme excludes, a
            negative rank, a time outside 0 to 1, a calibration where none is needed, or a file
            that cannot be written.
    """

    scheme: str
    calibration: str | Path | None = None
    prompts: str | Path | None = None
    draw: DrawSettings = field(default_factory=DrawSettings)
    exclude: Sequence[str] = ()
    include: Sequence[str] = ()
    graphs: Sequence[str] = GRAPHS
    smoothing: bool = True
    rounding: str | None = None
    rotate: bool = False
    low_rank: int = 0
    clip: bool = False
    target: str | None = None
    switch_at: float | None = None
    save_calibration: str | Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        scheme = find_scheme(self.scheme)
        if scheme.text_only:
            self._check_text_options()
        check_rounding(self.rounding_of_layers, scheme.transformer, scheme.name)
        if self.low_rank < 0:
            raise UsageError(f"low_rank is {self.low_rank}, but must not be negative")
        if self.switch_at is not None:
            check_switch_time(self.switch_at)
        if STEP not in self.graphs or not set(self.graphs) <= set(GRAPHS):
            raise UsageError(
                f"graphs are {', '.join(self.graphs)}; choose among {', '.join(GRAPHS)}, and"
                f" always {STEP}"
            )
        if not self.needs_calibration:
            self._check_no_calibration()
        if self.save_calibration is not None:
            _check_output_file(Path(self.save_calibration))

    def _check_text_options(self) -> None:
        """Refuse what is for a step graph."""
        default = DrawSettings()
        step_options = {
            "samples": self.draw.samples != default.samples,
            "seed": self.draw.seed != default.seed,
            "calibration": self.calibration is not None,
            "save-calibration": self.save_calibration is not None,
            "no-smoothing": not self.smoothing,
            "rounding": self.rounding is not None,
            "rotate": self.rotate,
            "low-rank": self.low_rank != 0,
            "clip": self.clip,
            "switch-at": self.switch_at is not None,
            "keep": set(self.graphs) != set(GRAPHS),
        }
        for name, is_set in step_options.items():
            if is_set:
                raise UsageError(
                    f"--{name} is for the step graph, but scheme {self.scheme} quantizes the text"
                    f" encoder alone; omit --{name}, or choose another scheme"
                )

    def _check_no_calibration(self) -> None:
        """Refuse files of ranges that would neither be read nor written."""
        files = {"calibration": self.calibration, "save-calibration": self.save_calibration}
        for name, path in files.items():
            if path is not None:
                raise UsageError(
                    f"--{name} {path}: scheme {self.scheme} with rounding {self.rounding_of_layers}"
                    f" takes no ranges from calibration; omit --{name}, or choose another scheme"
                )

    def ignored(self) -> dict[str, str]:
        """Options that have no effect beside the others, each with the reason."""
        form = find_scheme(self.scheme).transformer
        default, ignored = DrawSettings(), {}
        if not self.needs_calibration:
            for name in ("samples", "seed"):
                if getattr(self.draw, name) != getattr(default, name):
                    ignored[name] = "draws no calibration"
        if self.clip and (not form.needs_scales or form.takes_block_ranges):
            ignored["clip"] = "takes no single scale of an input from calibration"
        if not self.smoothing and not form.gains_by_smoothing:
            ignored["no-smoothing"] = "is not smoothed"
        return ignored

    @property
    def needs_calibration(self) -> bool:
        """Whether ranges or recorded activations decide anything."""
        form = find_scheme(self.scheme).transformer
        smooths = self.smoothing and form.gains_by_smoothing
        return form.needs_scales or smooths or self.judges_weights

    @property
    def rounding_of_layers(self) -> str:
        """The rounding asked for, or the scheme's own."""
        return self.rounding or find_scheme(self.scheme).rounding

    @property
    def judges_weights(self) -> bool:
        """Whether weights are rounded by what calibration recorded."""
        return self.rounding_of_layers != NEAREST or self.low_rank > 0

    @property
    def least_activations(self) -> int:
        """Activations of each value that the rounding needs."""
        return GPTQ_ACTIVATIONS if self.rounding_of_layers == GPTQ or self.low_rank else 1

    @property
    def full_draw(self) -> DrawSettings:
        """The draw, with as many activations as the rounding needs."""
        activations = max(self.draw.activations, self.least_activations)
        return dataclasses.replace(self.draw, activations=activations)


def _check_output_file(path: Path) -> None:
    """Before hours of calibration rather than after them."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: its folder does not exist; create it, or name another file")
