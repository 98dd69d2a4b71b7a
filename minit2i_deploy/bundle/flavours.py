"""Reference flavours: the few numbers in which the official codes differ, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from minit2i_deploy.bundle.manifest import Flavour
from minit2i_deploy.config import LOOPED_VARIANTS, VARIANTS, ModelConfig
from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.mean_flow import MEAN_FLOW, RELEASED

LOOPED: Final = "looped-dit"


def _flavour(name: str, a_min: float, guidance: float, steps: int) -> Flavour:
    return Flavour(name=name, a_min=a_min, guidance=guidance, steps=steps, rounding="truncate")


# Source: minit2i-torch pipeline and trainer (a_min is a constant there); minit2i-jax main,
# evaluation configs of B/16 and L/16; minit2i-jax mean_flow_distill, whose guidance is omega;
# Looped-DiT's sampler and its evaluation config.
FLAVOURS: Final[Mapping[str, Flavour]] = {
    flavour.name: flavour
    for flavour in (
        _flavour("torch-hub", 0.05, 2.5, 100),
        _flavour("jax-b16", 0.05, 2.5, 100),
        _flavour("jax-l16", 0.01, 6.0, 100),
        _flavour(LOOPED, 0.05, 6.0, 100),
        _flavour(MEAN_FLOW, 0.05, RELEASED["omega"], 4),
    )
}

# Standard deviation of the start noise in every official code.
NOISE_SCALE: Final = 2.0


def find_flavour(name: str) -> Flavour:
    """Look up a flavour.

    Raises:
        UsageError: the name is unknown; the text lists the choices.
    """
    if name not in FLAVOURS:
        raise UsageError(f"flavour {name!r} is unknown; choose one of {', '.join(FLAVOURS)}")
    return FLAVOURS[name]


def flavour_for(config: ModelConfig, name: str | None) -> Flavour:
    """The flavour of that name, or without one the default for the network.

    Raises:
        UsageError: the name is unknown, or for the other kind of model (base, student).
    """
    if name is None:
        return default_flavour(config)
    if (name == MEAN_FLOW) != (config.student is not None):
        kind = "base model" if config.student is None else "few-step student"
        raise UsageError(
            f"flavour {name!r} does not fit a {kind}; omit it or choose "
            f"{default_flavour(config).name!r}"
        )
    return find_flavour(name)


def default_flavour(config: ModelConfig) -> Flavour:
    """The numbers of the official code that published such a network; else those of B/16."""
    if config.student is not None:
        return FLAVOURS[MEAN_FLOW]
    if config.loop is not None:
        return FLAVOURS[LOOPED]
    return FLAVOURS["jax-l16" if config == VARIANTS["l-16"] else "jax-b16"]


def variant_of(config: ModelConfig) -> str | None:
    """The published variant of this shape, however often its loop runs, or None."""
    loops = None if config.loop is None else config.loop.num_loops
    looped = ((name, known.with_loops(loops)) for name, known in LOOPED_VARIANTS.items())
    known = dict(VARIANTS if loops is None else looped)
    return next((name for name, variant in known.items() if variant == config), None)
