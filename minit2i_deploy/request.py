"""Requests: prompts, seeds, table and guidance of some images, complete before any engine runs.

``generate``, comparisons and calibration start here. Two runtimes with the same request start from
the same noise and run the same rows.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.editing.default_preset import edit_preset
from minit2i_deploy.editing.edit import NO_EDIT, Edit
from minit2i_deploy.errors import SettingIgnoredWarning, UsageError
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.request_checks import (
    as_prompts,
    as_seeds,
    check_one_pass,
    check_settings,
)
from minit2i_deploy.solvers.guidance import one_pass_table
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.start import start_table
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.conditioning import branch_tokens, branch_weights, student_conditions
from minit2i_deploy.text.prompts import Prompt, common_shares


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """Some images to generate at once; ``Request.of`` makes one.

    Args:
        prompts: one for each image, all with the same shares.
        seeds: one for each image.
        base_table: solver.
        table: the rows of it that are run: all, or those after the start of an edit.
        guidance: scale of classifier-free guidance, for a few-step student omega.
        negative: prompt in place of the unconditional branch, or None.
        noise: float32 [batch, 3, H, W], unit normal start noise in place of the seeds', or None.
        guided: whether any row runs the unconditional branch.
        rows: of the table, their weights in the order of ``branch_tokens``.
        conditions: float32 [4], a few-step student's; None for a base model.
        edit: an image to begin with, pixels that stay.
        size: width and height of the images, where they are not the bundle's own.
    """

    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    base_table: Table
    table: Table
    guidance: float
    negative: str | None
    noise: Float32[np.ndarray, "batch 3 height width"] | None
    guided: bool
    rows: tuple[Row, ...]
    conditions: Float32[np.ndarray, " 4"] | None
    edit: Edit = NO_EDIT
    size: tuple[int, int] | None = None

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
        edit: Edit = NO_EDIT,
    ) -> Request:
        """Fill in the defaults; arguments as in ``generate``, and an edit of as many images.

        Raises:
            UsageError: arguments that do not fit together, or do not fit the bundle.
        """
        prompt_list = as_prompts(prompts)
        check_settings(table, guidance, negative, noise)
        base_table, guidance = _with_defaults(bundle, table, guidance, edit)
        scale = bundle.manifest.one_pass_guidance
        if scale is not None:
            check_one_pass(bundle.path, scale, base_table, guidance, negative)
            base_table = one_pass_table(base_table)
        table = start_table(base_table, 1.0 - edit.strength)
        if scale is not None:
            # A table whose meta names no interval is compiled again with guidance.
            table = one_pass_table(table)
        conditions = student_conditions(bundle, table, guidance, negative)
        shares = common_shares(prompt_list)
        rows = table.steps(guidance)
        return cls(
            prompts=tuple(prompt_list),
            seeds=as_seeds(seed, len(prompt_list)),
            base_table=base_table,
            table=table,
            guidance=guidance,
            negative=negative,
            noise=noise,
            guided=any(len(row.weights) > 1 for row in rows),
            rows=tuple(
                dataclasses.replace(row, weights=branch_weights(shares, row.weights))
                for row in rows
            ),
            conditions=conditions,
            edit=edit,
            size=bundle.size,
        )

    def tokens(
        self, bundle: Bundle, runtime: Runtime, timings: dict[str, float] | None = None
    ) -> Float32[np.ndarray, "branches batch adapted hidden"]:
        """Tokenize, encode and adapt: float32 [branches, batch, adapted tokens, hidden].

        Args:
            bundle: source of tokenizer and sizes.
            runtime: an open runtime of that bundle.
            timings: receives tokenise, encode and adapt in seconds.

        Raises:
            RuntimeFailure: the engine failed.
        """
        # Without guidance in any row, the other branch would be encoded for nothing.
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

        With an image to begin with, the noise is mixed into it.

        Raises:
            UsageError: the request's noise has another shape or type, or is not finite.
        """
        shape = (len(self.seeds), *bundle.at_size(self.size).config.image_shape)
        noise = batch_noise(self.seeds, shape[1:]) if self.noise is None else self.noise
        if noise.shape != shape or noise.dtype != np.float32:
            raise UsageError(
                f"noise must be float32 {list(shape)}, unit normal, one image for each prompt, got "
                f"{noise.dtype} {list(noise.shape)}"
            )
        if not np.isfinite(noise).all():
            raise UsageError("noise must be finite, got NaN or infinity")
        return self.edit.begin(noise * np.float32(bundle.manifest.noise.scale))

    def fresh_noise(
        self, bundle: Bundle, row: Row
    ) -> Float32[np.ndarray, "batch 3 height width"] | None:
        """Unit normal noise of a row, float32 [batch, 3, H, W], from every image's own seed.

        None for a row that draws none.
        """
        if not row.draws_noise:
            return None
        # Stream 0 is the start noise.
        shape = bundle.at_size(self.size).config.image_shape
        return batch_noise(self.seeds, shape, stream=row.index + 1)


def _with_defaults(
    bundle: Bundle, table: Table | None, guidance: float | None, edit: Edit
) -> tuple[Table, float]:
    # A student's table has its guidance in it; the default preset need not be read then.
    if table is not None:
        guidance = table.student_guidance if guidance is None else guidance
        if guidance is not None:
            return table, guidance
    preset = edit_preset(bundle, inpaints=edit.known is not None)
    preset_table, preset_guidance = bundle.preset(preset)
    return table or preset_table, preset_guidance if guidance is None else guidance
