"""Which parameter tree of a Flax checkpoint is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.checkpoints.forms.flax_config import STUDENT_MARK
from minit2i_deploy.errors import CheckpointError, UsageError

_ONLINE: Final = "params"
_EMA: Final = "ema_params_dict"
# Where the EMA was before its decays had names.
_OLD_EMA: Final = "ema_params"
STATE_KEYS: Final = frozenset({"step", "opt_state", _ONLINE, _EMA, _OLD_EMA})


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """One tree of a checkpoint.

    Args:
        root: path of the tree's network, with a slash at its end.
        weights: the tree's name for the report, for example "EMA 0.99995".
        teacher: path of a student's frozen teacher in the tree; None for a base model.
        others: path of each other tree to its name for the report.
    """

    root: str
    weights: str
    teacher: str | None
    others: dict[str, str]


def select_tree(names: Sequence[str], ema: bool | str, where: str) -> Selection:
    """Select among the online and averaged weights.

    Base models are deployed with their EMA, and with the last name in text order where there
    are several; the few-step student with its online weights. Both as the official evaluations.

    Args:
        names: all array names of the checkpoint, parts joined with "/".
        ema: True for the weights that are meant to be deployed, False for the online ones, or
            the name of an EMA.
        where: path of the checkpoint, for errors.

    Raises:
        CheckpointError: this is no official training state, or has no such weights.
        UsageError: there is no EMA of that name.

    Source: minit2i-jax, branch mean_flow_distill, utils/ckpt_util.py, extract_params_tree.
    """
    trees = _trees(names, where)
    emas = sorted(name for name in trees if name != _ONLINE)
    has_student = any(_network_root(names, tree)[1] for tree in trees.values())
    key = _ema_key(emas, ema, has_student, where)
    if key is None and ema and not has_student and "opt_state" in _top_keys(names):
        raise CheckpointError(
            f"{where}: a training state without EMA weights; pass ema=False to take the online ones"
        )
    if key is None:
        key = _ONLINE
    if key not in trees:
        raise CheckpointError(
            f"{where}: no online weights (params); pass ema with one of {emas} as text"
        )
    tree = trees[key]
    root, is_student = _network_root(names, tree)
    alone = key == _ONLINE and not emas and not is_student
    return Selection(
        root=root,
        weights="the only ones in the file (params)" if alone else _label(key),
        teacher=f"{tree}pt_net/" if is_student else None,
        others={path: _label(name) for name, path in trees.items() if path != tree},
    )


def _label(key: str) -> str:
    return {_ONLINE: "online", _OLD_EMA: "EMA"}.get(key, f"EMA {key}")


def _trees(names: Sequence[str], where: str) -> dict[str, str]:
    """Key of each parameter tree, and its path."""
    tops = _top_keys(names)
    if not tops or not tops <= STATE_KEYS:
        raise CheckpointError(
            f"{where}: top keys {sorted(tops)[:6]}, expected those of a MiniT2I training state "
            f"({', '.join(sorted(STATE_KEYS))}); give the checkpoint as the official code saved it"
        )
    trees: dict[str, str] = {top: f"{top}/" for top in (_ONLINE, _OLD_EMA) if top in tops}
    for name in names:
        top, *rest = name.split("/", 2)
        if top == _EMA and len(rest) == 2:
            trees[rest[0]] = f"{top}/{rest[0]}/"
    return trees


def _top_keys(names: Sequence[str]) -> set[str]:
    return {name.split("/", 1)[0] for name in names}


def _network_root(names: Sequence[str], tree: str) -> tuple[str, bool]:
    """Path of the network in a tree, below ``net`` or not, and whether it is a student."""
    inside = [name for name in names if name.startswith(tree)]
    root = f"{tree}net/" if any(name.startswith(f"{tree}net/") for name in inside) else tree
    return root, any(name.startswith(f"{root}{STUDENT_MARK}/") for name in inside)


def _ema_key(emas: list[str], ema: bool | str, has_student: bool, where: str) -> str | None:
    """The EMA to take, or None for the online weights."""
    if isinstance(ema, str):
        if ema not in emas:
            raise UsageError(f"{where}: no EMA {ema!r}; this checkpoint has {emas or 'none'}")
        return ema
    return emas[-1] if ema and emas and not has_student else None
