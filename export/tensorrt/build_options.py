"""Options of a build of a bundle's engines, and the sizes that they are tuned for."""

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
        library: one of ``key.LIBRARIES``.
        targets: for TensorRT-RTX ``sm89`` and so on, one engine for all of them; NATIVE is the
            GPU of this machine, empty is one portable engine. For TensorRT only NATIVE or empty,
            which is the same.
        graphs: names of the graphs to build.
        batch: images at once that engines are tuned for.
        max_batch: most images at once; None is ``batch``.
        branches: least and most branches of guidance; tuned for the most.
        texts: most texts at once that the encoder takes; tuned for one.
        flags: that change what an engine is.
        require_fused: least number of fused attentions of the transformer, or at most 1 their
            share; a build below it fails. 0 requires none.
        timing_cache: file that stores measured kernel times between builds; TensorRT only.
        wait_s: how long to wait for another process that builds the same engine.
        device: number of the GPU to build on; TensorRT only.

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
        _check_choices("engine library", (self.library,), LIBRARIES)
        _check_choices("graph", self.graphs, GRAPHS)
        greatest = self.greatest_batch
        if not 1 <= self.batch <= greatest <= _MAX_BATCH:
            raise UsageError(
                f"expected 1 <= batch <= max batch <= {_MAX_BATCH}, got {self.batch} and {greatest}"
            )
        if not 1 <= self.branches[0] <= self.branches[1]:
            raise UsageError(
                f"expected a least and a most number of branches from 1 on, got {self.branches}"
            )
        if NATIVE in self.targets and len(self.targets) > 1:
            raise UsageError("target native excludes others; build for other GPUs in another run")
        if self.texts < 1:
            raise UsageError(f"texts is {self.texts}, but must be at least 1")
        if self.require_fused < 0:
            raise UsageError(f"require fused is {self.require_fused:g}, but must not be negative")

    @property
    def greatest_batch(self) -> int:
        """``max_batch`` with its default."""
        return self.batch if self.max_batch is None else self.max_batch


def sizes_for(
    bundle: Bundle, graph: str, options: BuildOptions
) -> Mapping[str, tuple[int, int, int]]:
    """Least, usual and greatest value of every free size of a graph.

    Raises:
        UsageError: the graph has a free size that no option covers.
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
            # An image of one branch brings one sequence.
            "sequences": (fewest, options.batch * most, greatest * most),
            **bundle.manifest.free_axes,
        },
    }[graph]
    free = free_sizes(bundle.manifest.graphs[graph].inputs)
    unknown = sorted(set(free) - set(known))
    if unknown:
        raise UsageError(
            f"{bundle.path}: {graph} has free sizes {', '.join(unknown)}, but"
            f" minit2i export writes {', '.join(known)}"
        )
    return {name: known[name] for name in free}


def _check_choices(what: str, names: tuple[str, ...], choices: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in choices]
    if unknown or not names:
        raise UsageError(
            f"{what} {', '.join(unknown) or 'is missing'}; choose among {', '.join(choices)}"
        )
