"""What is to be painted and how, decided before any engine runs.

Whoever paints rows starts here: ``generate``, comparisons, calibration. Two runtimes that are given
the same request start from the same noise and take the same rows.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import SettingIgnoredWarning, UsageError
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.request_checks import as_prompts, as_seeds, check_settings
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.conditioning import branch_tokens, branch_weights, student_conditions
from minit2i_deploy.text.prompts import Prompt, common_shares


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """Some pictures to paint at once; ``Request.of`` makes one.

    Args:
        prompts: one for each picture, all with the same shares.
        seeds: one for each picture.
        table: solver.
        guidance: scale of classifier-free guidance, for a few-step student omega.
        negative: prompt in the place of the unconditional branch, or None.
        noise: float32 [batch, 3, H, W], unit normal start noise in place of the seeds', or None.
        guided: whether any row runs another branch than the prompts'.
        rows: of the table, their weights in the order of ``branch_tokens``.
        conditions: float32 [4], what a few-step student is told; None for a base model.
    """

    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    table: Table
    guidance: float
    negative: str | None
    noise: Float32[np.ndarray, "batch 3 height width"] | None
    guided: bool
    rows: tuple[Row, ...]
    conditions: Float32[np.ndarray, " 4"] | None

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        prompts: Prompt | Sequence[Prompt],
        *,
        seed: int | Sequence[int] = 0,
        table: Table | None = None,
        guidance: float | None = None,
        negative: str | None = None,
        noise: Float32[np.ndarray, "batch 3 height width"] | None = None,
    ) -> Request:
        """Fill in what was left open; arguments as in ``generate``.

        Raises:
            UsageError: arguments that do not fit together, or not the bundle.
        """
        wanted = as_prompts(prompts)
        check_settings(table, guidance, negative, noise)
        chosen, scale = _preset(bundle, table, guidance)
        conditions = student_conditions(bundle, chosen, scale, negative)
        shares = common_shares(wanted)
        rows = chosen.steps(scale)
        return cls(
            prompts=tuple(wanted),
            seeds=as_seeds(seed, len(wanted)),
            table=chosen,
            guidance=scale,
            negative=negative,
            noise=noise,
            guided=any(len(row.weights) > 1 for row in rows),
            rows=tuple(
                dataclasses.replace(row, weights=branch_weights(shares, row.weights))
                for row in rows
            ),
            conditions=conditions,
        )

    def tokens(
        self, bundle: Bundle, runtime: Runtime, timings: dict[str, float] | None = None
    ) -> Float32[np.ndarray, "branches batch adapted hidden"]:
        """Read the texts: float32 [branches, batch, adapted tokens, hidden].

        Args:
            bundle: gives tokenizer and sizes.
            runtime: an open runtime of that bundle.
            timings: receives tokenise, encode and adapt in seconds.

        Raises:
            RuntimeFailure: the engine failed.
        """
        return branch_tokens(
            bundle,
            runtime,
            self.prompts,
            self.negative if self.guided else None,
            self.guided,
            {} if timings is None else timings,
            self.conditions,
        )

    def warn_ignored_negative(self, *, stacklevel: int) -> None:
        """Warn of a negative prompt that no row uses; ``stacklevel`` counts from the caller."""
        if self.negative is not None and not self.guided:
            warnings.warn(
                f"the negative prompt has no effect at guidance {self.guidance:g} under table "
                f"{self.table.name}",
                SettingIgnoredWarning,
                stacklevel=stacklevel + 1,
            )

    def start(self, bundle: Bundle) -> Float32[np.ndarray, "batch 3 height width"]:
        """The start state: float32 [batch, 3, H, W], noise of the bundle's deviation.

        Raises:
            UsageError: the noise that came has another shape or type, or is not finite.
        """
        wanted = (len(self.seeds), *bundle.config.image_shape)
        noise = self.noise
        if noise is None:
            noise = batch_noise(self.seeds, wanted[1:])
        if noise.shape != wanted or noise.dtype != np.float32:
            raise UsageError(
                f"noise is {noise.dtype} {list(noise.shape)}, but float32 {list(wanted)} is "
                "needed: unit normal, one image for each prompt"
            )
        if not np.isfinite(noise).all():
            raise UsageError("noise holds NaN or infinity; give finite unit normal values")
        return noise * np.float32(bundle.manifest.noise.scale)

    def fresh_noise(
        self, bundle: Bundle, row: Row
    ) -> Float32[np.ndarray, "batch 3 height width"] | None:
        """Unit normal noise of a row, float32 [batch, 3, H, W], from every image's own seed.

        None for a row that draws none.
        """
        if not row.draws_noise:
            return None
        # Stream 0 is the start noise.
        return batch_noise(self.seeds, bundle.config.image_shape, stream=row.index + 1)


def _preset(bundle: Bundle, table: Table | None, guidance: float | None) -> tuple[Table, float]:
    if table is not None:
        guidance = table.student_guidance if guidance is None else guidance
        if guidance is not None:
            return table, guidance
    preset_table, preset_guidance = bundle.preset()
    return table or preset_table, preset_guidance if guidance is None else guidance
