"""`PromptCase`: what both bundles generate, from prompts or from shapes captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes import Spec, held_out_captions
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.tokenizer import Tokenizer

_UNKNOWN: Final = "<unk>"
# A vocabulary for shapes captions has some hundred pieces, one for a language thousands.
_LARGEST_SHAPES_VOCABULARY: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptCase:
    """One image: its prompt, the seed of its noise, and the spec of a shapes caption."""

    prompt: str
    seed: int
    spec: Spec | None = None


def is_shapes_model(bundle: Bundle) -> bool:
    """Whether the model was trained on shapes, judged by its tokenizer."""
    return is_shapes_tokenizer(bundle.tokenizer())


def is_shapes_tokenizer(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is one for shapes captions: few pieces, and every caption fits."""
    if tokenizer.rust.get_vocab_size() > _LARGEST_SHAPES_VOCABULARY:
        return False
    unknown = tokenizer.rust.token_to_id(_UNKNOWN)
    captions = [caption for _, caption in held_out_captions(2, 0)]
    encoded = tokenizer.encode(captions)
    return all(unknown not in item.ids and not item.truncated for item in encoded)


def caption_cases(per_kind: int, seeds: Sequence[int] | None = None) -> list[PromptCase]:
    """Held-out shapes captions, those of ``minit2i eval shapes`` with the same noise.

    Args:
        per_kind: captions of each of the six kinds, at least 1.
        seeds: every caption is generated from each; None gives the n-th caption seed n.

    Raises:
        UsageError: per_kind below 1, or a seed outside its range.
    """
    if per_kind < 1:
        raise UsageError(f"expected at least 1 caption of each kind, got {per_kind}")
    return _cases([(text, spec) for spec, text in held_out_captions(per_kind, 0)], seeds)


def prompt_cases(prompts: Sequence[str], seeds: Sequence[int] | None = None) -> list[PromptCase]:
    """Prompts whose images are not judged.

    Args:
        prompts: at least one.
        seeds: every prompt is generated from each; None gives the n-th prompt seed n.

    Raises:
        UsageError: no prompt, or a seed outside its range.
    """
    if not prompts:
        raise UsageError("no prompts; give at least one")
    return _cases([(text, None) for text in prompts], seeds)


def spread_indices(cases: Sequence[PromptCase], count: int) -> list[int]:
    """Indices of so many cases, spread evenly over them."""
    count = min(count, len(cases))
    return [index * len(cases) // count for index in range(count)]


def _cases(
    texts: Sequence[tuple[str, Spec | None]], seeds: Sequence[int] | None
) -> list[PromptCase]:
    for seed in seeds or ():
        # Refuses a seed outside its range before any image is generated.
        standard_noise(seed, (1,))
    return [
        PromptCase(prompt=text, seed=seed, spec=spec)
        for index, (text, spec) in enumerate(texts)
        for seed in ((index,) if seeds is None else seeds)
    ]
