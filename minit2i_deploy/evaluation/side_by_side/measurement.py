"""Generate the same prompts with every bundle and measure the images against the reference's."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import PromptTruncatedWarning, UsageError
from minit2i_deploy.evaluation.compare.comparison import CompareSettings, measure_pairs
from minit2i_deploy.evaluation.compare.comparison_result import ImagePair
from minit2i_deploy.evaluation.compare.contenders import Contender, check_comparable
from minit2i_deploy.evaluation.compare.lockstep import check_finite
from minit2i_deploy.evaluation.compare.prompt_cases import PromptCase
from minit2i_deploy.evaluation.side_by_side.result import (
    Candidate,
    ShownCase,
    SideBySide,
    worst_psnr,
)
from minit2i_deploy.evaluation.side_by_side.settings import describe_settings, unique_names
from minit2i_deploy.generate import frames
from minit2i_deploy.machine import describe_machine
from minit2i_deploy.progress import Progress, by_count, no_progress, stage_of
from minit2i_deploy.request import Request
from minit2i_deploy.text.conditioning import tokenize


def measure_side_by_side(
    contenders: Sequence[Contender],
    cases: Sequence[PromptCase],
    settings: CompareSettings,
    progress: Progress = no_progress,
) -> SideBySide:
    """Generate the same cases with every bundle and compare each with the first.

    Args:
        contenders: the reference and at least one other.
        cases: at least one.
        settings: table, guidance, batch, and how many of the worst cases are shown.
        progress: called with the share done, 0 to 1, and the name of the bundle.

    Raises:
        UsageError: no cases, fewer than two bundles, or bundles that cannot be compared.
        RuntimeFailure: an engine failed, or gave NaN or infinity.
    """
    if len(contenders) < 2 or not cases:
        raise UsageError(
            f"expected at least two bundles and one prompt, got {len(contenders)} and {len(cases)}"
        )
    reference = contenders[0].bundle
    for other in contenders[1:]:
        check_comparable(reference, other.bundle)
    # Warns of truncated prompts once here, and not again for each bundle and batch.
    tokenize(reference, list(dict.fromkeys(case.prompt for case in cases)), stacklevel=3)
    names = unique_names(contenders)
    pairs: list[list[ImagePair]] = [[] for _ in contenders[1:]]
    shown: list[ShownCase] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        for start in range(0, len(cases), settings.batch):
            batch = cases[start : start + settings.batch]
            ends = start / len(cases), (start + len(batch)) / len(cases)
            states = _final_states(contenders, names, batch, settings, stage_of(progress, *ends))
            for measured, x in zip(pairs, states[1:], strict=True):
                measured += measure_pairs(batch, states[0], x)
            shown = _worst_cases(shown, states, start, pairs, settings.details)
    parts = [
        Candidate(name=name, side=one.to_dict(), settings=describe_settings(one))
        for name, one in zip(names, contenders, strict=True)
    ]
    candidates = [
        dataclasses.replace(part, pairs=tuple(measured))
        for part, measured in zip(parts[1:], pairs, strict=True)
    ]
    return SideBySide(
        table=settings.table.name,
        guidance=settings.guidance,
        cases=tuple(cases),
        reference=parts[0],
        candidates=tuple(candidates),
        shown=tuple(shown),
        machine=describe_machine(),
    )


def _final_states(
    contenders: Sequence[Contender],
    names: Sequence[str],
    cases: Sequence[PromptCase],
    settings: CompareSettings,
    progress: Progress,
) -> list[Float32[np.ndarray, "batch 3 height width"]]:
    """One batch on every bundle, all from the reference's request."""
    request = Request.of(
        contenders[0].bundle,
        [case.prompt for case in cases],
        seed=[case.seed for case in cases],
        table=settings.table,
        guidance=settings.guidance,
    )
    states = []
    for index, (name, one) in enumerate(zip(names, contenders, strict=True)):
        ends = index / len(contenders), (index + 1) / len(contenders)
        on_row = by_count(stage_of(progress, *ends, name))
        for frame in frames(one.bundle, one.runtime, request, every_row=False, on_row=on_row):
            last = frame
        states.append(last.x())
        check_finite(states[-1], one)
    return states


def _worst_cases(
    shown: Sequence[ShownCase],
    states: Sequence[np.ndarray],
    start: int,
    pairs: Sequence[Sequence[ImagePair]],
    count: int,
) -> list[ShownCase]:
    """The worst of the cases so far and of this batch, whose states are not stored otherwise."""
    batch = [
        ShownCase(index=start + offset, x=np.stack(case))
        for offset, case in enumerate(zip(*states, strict=True))
    ]

    def order(case: ShownCase) -> tuple[float, int]:
        return worst_psnr([measured[case.index] for measured in pairs]), case.index

    # The index breaks ties, so that the batch size does not change what is shown.
    return sorted([*shown, *batch], key=order)[:count]
