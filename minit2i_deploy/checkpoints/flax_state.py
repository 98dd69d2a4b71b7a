"""Which parameter tree of a Flax checkpoint is read, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.checkpoints.assemble import Drop, Rule, Target
from minit2i_deploy.checkpoints.infer import STUDENT_MARK
from minit2i_deploy.checkpoints.rename import flax_rule
from minit2i_deploy.errors import CheckpointError, UsageError

_ONLINE: Final = "params"
_EMA: Final = "ema_params_dict"
# Form of the EMA before its decays had names.
_OLD_EMA: Final = "ema_params"
_STATE_KEYS: Final = frozenset({"step", "opt_state", _ONLINE, _EMA, _OLD_EMA})


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The tree to read: ``root`` is the path of its network, ``weights`` its name in words."""

    root: str
    weights: str
    is_student: bool
    trees: dict[str, str]

    def rule(self) -> Rule:
        """Map the chosen network; drop the other trees, the optimizer and the teacher by name."""
        chosen_tree = next(tree for tree in self.trees.values() if self.root.startswith(tree))
        others = {tree: _in_words(name) for name, tree in self.trees.items() if tree != chosen_tree}

        def rule(name: str) -> Target | Drop | None:
            if name.startswith(self.root):
                return flax_rule(name.removeprefix(self.root))
            if self.is_student and name.startswith(f"{chosen_tree}pt_net/"):
                return Drop("pt_net", "the student's frozen teacher")
            for tree, label in others.items():
                if name.startswith(tree):
                    return Drop(label, "not the weights asked for")
            if name == "step":
                return Drop("step", "kept as the report's step")
            if name.startswith("opt_state/"):
                return Drop("opt_state", "state of the training run")
            return None

        return rule


def choose(names: Sequence[str], ema: bool | str, where: str) -> Choice:
    """Choose among the online and averaged weights.

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
    label = _label(emas, ema, has_student, where)
    if label is None and ema and not has_student and "opt_state" in _tops(names):
        raise CheckpointError(
            f"{where}: a training state without EMA weights; pass ema=False to take the online ones"
        )
    if label is None:
        label = _ONLINE
    if label not in trees:
        raise CheckpointError(
            f"{where}: no online weights (params); pass ema with one of {emas} as text"
        )
    root, is_student = _network_root(names, trees[label])
    alone = label == _ONLINE and not emas and not is_student
    weights = "the only ones in the file (params)" if alone else _in_words(label)
    return Choice(root=root, weights=weights, is_student=is_student, trees=trees)


def _in_words(label: str) -> str:
    return {_ONLINE: "online", _OLD_EMA: "EMA"}.get(label, f"EMA {label}")


def _trees(names: Sequence[str], where: str) -> dict[str, str]:
    """Label of each parameter tree, and the path it stands under."""
    tops = _tops(names)
    if not tops or not tops <= _STATE_KEYS:
        raise CheckpointError(
            f"{where}: top keys {sorted(tops)[:6]}, but those of a MiniT2I training state are "
            f"needed ({', '.join(sorted(_STATE_KEYS))}); give the checkpoint as the official code "
            "saved it"
        )
    trees: dict[str, str] = {top: f"{top}/" for top in (_ONLINE, _OLD_EMA) if top in tops}
    for name in names:
        top, *rest = name.split("/", 2)
        if top == _EMA and len(rest) == 2:
            trees[rest[0]] = f"{top}/{rest[0]}/"
    return trees


def _tops(names: Sequence[str]) -> set[str]:
    return {name.split("/", 1)[0] for name in names}


def _network_root(names: Sequence[str], tree: str) -> tuple[str, bool]:
    """Path of the network in a tree, whether below ``net`` or not, and whether it is a student."""
    inside = [name for name in names if name.startswith(tree)]
    root = f"{tree}net/" if any(name.startswith(f"{tree}net/") for name in inside) else tree
    return root, any(name.startswith(f"{root}{STUDENT_MARK}/") for name in inside)


def _label(emas: list[str], ema: bool | str, has_student: bool, where: str) -> str | None:
    """The EMA to take, or None for the online weights."""
    if isinstance(ema, str):
        if ema not in emas:
            raise UsageError(f"{where}: no EMA {ema!r}; this checkpoint has {emas or 'none'}")
        return ema
    return emas[-1] if ema and emas and not has_student else None
