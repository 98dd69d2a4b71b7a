"""What a build of a bundle's engines can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import GRAPHS
from minit2i_deploy.engines.key import LIBRARIES, BuildFlags, free_sizes
from minit2i_deploy.errors import UsageError

NATIVE: Final = "native"
# Tokens of a usual prompt; the encoder is tuned for them and takes all up to the prompt length.
_USUAL_TOKENS: Final = 32
_MAX_BATCH: Final = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """Options of ``build_bundle``.

    Args:
        library: one of ``engine_key.LIBRARIES``.
        targets: for TensorRT-RTX ``sm89`` and so on, one engine for all of them; NATIVE alone is
            the card it runs on, empty is one portable engine. TensorRT knows NATIVE only, and
            takes empty for it.
        graphs: names of the graphs to build.
        batch: pictures at once that engines are tuned for.
        max_batch: most pictures at once; None is ``batch``.
        branches: least and most branches of guidance; tuned for the most.
        texts: most texts at once that the encoder takes; tuned for one.
        flags: switches that change what an engine is.
        require_fused: least number of fused attentions of the transformer, or at most 1 their
            share; a build below it fails. 0 asks for none.
        timing_cache: file that keeps measured kernel times between builds; TensorRT only.
        wait_s: how long to wait for another process that builds the same engine.
        device: number of the card to build on; TensorRT only.

    Raises:
        UsageError: a value outside its rule.
    """

    library: str
    targets: tuple[str, ...] = ()
    graphs: tuple[str, ...] = GRAPHS
    batch: int = 1
    max_batch: int | None = None
    branches: tuple[int, int] = (1, 2)
    texts: int = 32
    flags: BuildFlags = field(default_factory=BuildFlags)
    require_fused: float = 0.0
    timing_cache: Path | None = None
    wait_s: float = 0.0
    device: int = 0

    def __post_init__(self) -> None:
        _choices("engine library", (self.library,), LIBRARIES)
        _choices("graph", self.graphs, GRAPHS)
        greatest = self.greatest_batch
        if not 1 <= self.batch <= greatest <= _MAX_BATCH:
            raise UsageError(
                f"batch {self.batch} and max batch {greatest}; 1 to {_MAX_BATCH} in order is needed"
            )
        if not 1 <= self.branches[0] <= self.branches[1]:
            raise UsageError(f"branches {self.branches}; a least and a most, from 1, are needed")
        if NATIVE in self.targets and len(self.targets) > 1:
            raise UsageError("target native stands alone; build for other cards in another run")
        if self.texts < 1:
            raise UsageError(f"texts is {self.texts}; at least 1 is needed")
        if self.require_fused < 0:
            raise UsageError(f"require fused is {self.require_fused:g}; 0 or more is needed")

    @property
    def greatest_batch(self) -> int:
        """``max_batch`` with its default."""
        return self.batch if self.max_batch is None else self.max_batch


def sizes_for(
    bundle: Bundle, graph: str, options: BuildOptions
) -> Mapping[str, tuple[int, int, int]]:
    """Least, usual and greatest value of every free size of a graph.

    Raises:
        UsageError: the graph has a free size that no option speaks of.
    """
    greatest, (fewest, most) = options.greatest_batch, options.branches
    length = bundle.config.prompt_length
    known = {
        "text_encoder": {
            "n": (1, 1, options.texts),
            "tokens": (1, min(_USUAL_TOKENS, length), length),
        },
        "text_adapter": {"n": (1, options.batch * most, greatest * most)},
        "transformer": {
            "batch": (1, options.batch, greatest),
            "branches": (fewest, most, most),
        },
    }[graph]
    free = free_sizes(bundle.manifest.graphs[graph].inputs)
    unknown = sorted(set(free) - set(known))
    if unknown:
        raise UsageError(
            f"{bundle.path}: {graph} has free sizes {', '.join(unknown)}, but"
            f" {', '.join(known)} are what minit2i export writes"
        )
    return {name: known[name] for name in free}


def _choices(what: str, given: tuple[str, ...], choices: tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in choices]
    if unknown or not given:
        raise UsageError(
            f"{what} {', '.join(unknown) or 'is missing'}; choose among {', '.join(choices)}"
        )
