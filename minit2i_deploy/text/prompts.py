"""Prompts: one text, or a weighted mix of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from minit2i_deploy.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Several texts that generate one image together.

    Each text is a branch of its own. The branches' estimates of the clean image are summed by
    weight, and the sum takes the place of a single prompt's estimate.

    Args:
        parts: (text, weight) pairs, at least one. Weights are finite, may be negative, and are
            divided by their sum, which is not 0.

    Raises:
        UsageError: no parts, or weights outside these rules.
    """

    parts: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        try:
            parts = tuple((text, float(weight)) for text, weight in self.parts)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"mix must be pairs of a text and a number, got {self.parts!r}"
            ) from error
        object.__setattr__(self, "parts", parts)
        if not parts:
            raise UsageError("a mix must have at least one text, got none")
        # The graph takes float32, where a larger share would become infinity; NaN fails too.
        if not (np.abs(self.shares()) <= np.finfo(np.float32).max).all():
            raise UsageError(
                "mix weights must be finite numbers whose sum is not 0, got "
                f"{[weight for _, weight in parts]}"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts in order."""
        return tuple(text for text, _ in self.parts)

    def shares(self) -> Float64[np.ndarray, " parts"]:
        """The weights divided by their sum: float64 [parts], sum 1."""
        weights = np.array([weight for _, weight in self.parts])
        # A sum of 0 and overflow are refused by the check of the result.
        with np.errstate(all="ignore"):
            shares: Float64[np.ndarray, " parts"] = weights / weights.sum()
        return shares


Prompt = str | Mix


def as_mix(prompt: Prompt) -> Mix:
    """The prompt itself, or a mix of that one text."""
    return prompt if isinstance(prompt, Mix) else Mix(parts=((prompt, 1.0),))


def common_shares(prompts: Sequence[Prompt]) -> Float64[np.ndarray, " parts"]:
    """The shares of all prompts: float64 [parts].

    Raises:
        UsageError: they differ; images that are generated at once share the branches' weights.
    """
    shares = [as_mix(prompt).shares() for prompt in prompts]
    for index, other in enumerate(shares):
        if other.tolist() != shares[0].tolist():
            raise UsageError(
                f"prompt {index} has weights {other.tolist()}, but prompt 0 has "
                f"{shares[0].tolist()}; generate prompts of other weights in another call"
            )
    return shares[0]
