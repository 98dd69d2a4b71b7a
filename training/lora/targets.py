"""Which linear layers an adapter is put on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from minit2i_deploy.checkpoints import linear_modules
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import UsageError

BLOCKS: Final = ("txt_preamble_blocks", "double_blocks")


def lora_targets(config: ModelConfig, patterns: Sequence[str]) -> tuple[str, ...]:
    """The canonical names of the linear layers that any of the patterns matches.

    A pattern is a name or complete components of one, with * and ? as in file names:
    "double_blocks", "img_qkv", "double_blocks.0", "double_blocks.*.img_mlp.w1". The last block's
    txt_attn_proj and txt_mlp reach no output, would learn nothing and are never targets.

    Args:
        config: shape of the network.
        patterns: at least one.

    Raises:
        UsageError: a pattern matches nothing; the nearest name is given.
    """
    names = list(linear_modules(config))
    unused = _unused(config)
    targets: set[str] = set()
    for pattern in patterns:
        matches = {name for name in names if _matches(pattern, name)}
        if not matches:
            raise UsageError(f"recipe: lora.targets has {pattern!r}, {_hint(pattern, names)}")
        if matches <= unused:
            raise UsageError(
                f"recipe: lora.targets has {pattern!r}, which matches only modules such as "
                f"{sorted(matches)[0]} that reach no output of the network; remove it"
            )
        targets |= matches
    return tuple(name for name in names if name in targets - unused)


def check_rank(config: ModelConfig, rank: int, targets: Iterable[str]) -> None:
    """Refuse a rank above the smaller side of a target's matrix.

    Raises:
        UsageError: the rank is too large.
    """
    modules = linear_modules(config)
    smallest = min(targets, key=lambda name: min(modules[name]))
    if rank > min(modules[smallest]):
        raise UsageError(
            f"recipe: lora.rank is {rank}, but {smallest} is {list(modules[smallest])}; "
            f"use at most {min(modules[smallest])}"
        )


def _matches(pattern: str, name: str) -> bool:
    forms = (pattern, f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*")
    return any(fnmatchcase(name, form) for form in forms)


def _unused(config: ModelConfig) -> set[str]:
    last = f"double_blocks.{config.depth_double - 1}."
    return {last + name for name in ("txt_attn_proj", "txt_mlp.w1", "txt_mlp.w2", "txt_mlp.w3")}


def _hint(pattern: str, names: Sequence[str]) -> str:
    parts = [name.split(".") for name in names]
    known = {
        ".".join(p[i:j]) for p in parts for i in range(len(p)) for j in range(i + 1, 1 + len(p))
    }
    candidates = sorted(item for item in known if not item.isdigit())
    near = difflib.get_close_matches(pattern, candidates, n=1)
    if near:
        return f"which is not a linear layer; did you mean {near[0]}?"
    return f"which is not a linear layer; known are {', '.join(sorted({p[0] for p in parts}))}"
