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
    """The canonical names of the linear layers that any of the patterns picks.

    A pattern is a name or whole components of one, with * and ? as in file names: "double_blocks",
    "img_qkv", "double_blocks.0", "double_blocks.*.img_mlp.w1". What reaches no output of the
    network, the last block's txt_attn_proj and txt_mlp, is never picked: it would learn nothing.

    Args:
        config: shape of the network.
        patterns: at least one.

    Raises:
        UsageError: a pattern picks nothing; the nearest name is given.
    """
    names = list(linear_modules(config))
    inert = _inert(config)
    picked: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if _picks(pattern, name)}
        if not found:
            raise UsageError(f"recipe: lora.targets has {pattern!r}, {_hint(pattern, names)}")
        if found <= inert:
            raise UsageError(
                f"recipe: lora.targets has {pattern!r}, which picks only {sorted(found)[0]} and "
                "the like, which reach no output of the network; drop it"
            )
        picked |= found
    return tuple(name for name in names if name in picked - inert)


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


def _picks(pattern: str, name: str) -> bool:
    forms = (pattern, f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*")
    return any(fnmatchcase(name, form) for form in forms)


def _inert(config: ModelConfig) -> set[str]:
    last = f"double_blocks.{config.depth_double - 1}."
    return {last + name for name in ("txt_attn_proj", "txt_mlp.w1", "txt_mlp.w2", "txt_mlp.w3")}


def _hint(pattern: str, names: Sequence[str]) -> str:
    parts = [name.split(".") for name in names]
    known = {
        ".".join(p[i:j]) for p in parts for i in range(len(p)) for j in range(i + 1, 1 + len(p))
    }
    words = sorted(item for item in known if not item.isdigit())
    near = difflib.get_close_matches(pattern, words, n=1)
    if near:
        return f"which is no linear layer; did you mean {near[0]}?"
    return f"which is no linear layer; known are {', '.join(sorted({p[0] for p in parts}))}"
