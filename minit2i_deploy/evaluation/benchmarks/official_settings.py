"""What the official evaluations sampled with, by the code that published the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.flavours import LOOPED
from minit2i_deploy.evaluation.benchmarks.suites import DPG, FID, GENEVAL, PRISM
from minit2i_deploy.solvers.mean_flow import MEAN_FLOW, RELEASED


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialSettings:
    """The settings of an official evaluation.

    Args:
        flavour: reference flavour of the code.
        guidance: scale; None where that code does not evaluate the suite.
        source: file that says so.
    """

    flavour: str
    guidance: float | None
    source: str


# Source: minit2i-jax main, configs of the evaluations of B/16 and L/16, and its fid config;
# minit2i-torch configs/eval_hf_*.yml (GenEval) and finetune.yml, which its DPG run reads;
# minit2i-jax mean_flow_distill, whose guidance is omega; Looped-DiT's evaluation.
_JAX: Final = "minit2i-jax, evaluation config"
_TORCH_GENEVAL: Final = "minit2i-torch, configs/eval_hf_*.yml"
_TORCH_OTHER: Final = "minit2i-torch, configs/finetune.yml"
_STUDENT: Final = "minit2i-jax, branch mean_flow_distill"
_LOOPED: Final = "Looped-DiT, evaluation config"
_GUIDANCE: Final[Mapping[str, Mapping[str, tuple[float, str]]]] = {
    "jax-b16": {GENEVAL: (6.0, _JAX), DPG: (6.0, _JAX), FID: (2.0, _JAX)},
    "jax-l16": {GENEVAL: (8.5, _JAX), DPG: (8.5, _JAX), FID: (2.0, _JAX)},
    "torch-hub": {
        GENEVAL: (5.0, _TORCH_GENEVAL),
        DPG: (6.0, _TORCH_OTHER),
        FID: (2.0, _TORCH_OTHER),
    },
    MEAN_FLOW: {GENEVAL: (RELEASED["omega"], _STUDENT), DPG: (RELEASED["omega"], _STUDENT)},
    LOOPED: {GENEVAL: (6.0, _LOOPED), DPG: (6.0, _LOOPED), PRISM: (6.0, _LOOPED)},
}


def official_settings(bundle: Bundle, suite: str) -> OfficialSettings:
    """The settings of a suite in the code that published the bundle's model.

    Solver, steps and a_min are those of the bundle's preset ``reference``, which is the official
    run of its flavour; the guidance of an evaluation differs from the one for single images.
    """
    flavour = bundle.manifest.flavour.name
    entry = _GUIDANCE.get(flavour, {}).get(suite)
    if entry is None:
        return OfficialSettings(flavour=flavour, guidance=None, source="")
    return OfficialSettings(flavour=flavour, guidance=entry[0], source=entry[1])
