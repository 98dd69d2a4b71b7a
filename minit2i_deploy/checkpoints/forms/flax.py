"""Flax checkpoints, base model or few-step student, as one msgpack file or an Orbax folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from minit2i_deploy.checkpoints.assemble import (
    COPY,
    HWIO_TO_OIHW,
    TRANSPOSE,
    Axes,
    Drop,
    Rule,
    Target,
    canonical_target,
)
from minit2i_deploy.checkpoints.checkpoint import Checkpoint
from minit2i_deploy.checkpoints.containers.container import Container, StateContainer
from minit2i_deploy.checkpoints.containers.msgpack_file import MsgpackFile
from minit2i_deploy.checkpoints.containers.orbax_folder import OrbaxFolder
from minit2i_deploy.checkpoints.form import NOT_SELECTED, Form, ReadOptions, read_weights
from minit2i_deploy.checkpoints.forms.flax_config import infer_config
from minit2i_deploy.checkpoints.forms.flax_trees import STATE_KEYS, Selection, select_tree

_UNFINISHED: Final = ".orbax-checkpoint-tmp"

# Last two parts of a Flax path: the name they become and how the axes turn.
_LEAVES: Final[dict[tuple[str, str], tuple[str, Axes]]] = {
    ("_flax_linear", "kernel"): (".weight", TRANSPOSE),
    ("_flax_linear", "bias"): (".bias", COPY),
    ("_flax_rmsnorm", "kernel"): (".weight", COPY),
    ("_flax_param", "param_tensor"): ("", COPY),
    ("proj1", "kernel"): (".proj1.weight", HWIO_TO_OIHW),
    ("proj2", "kernel"): (".proj2.weight", HWIO_TO_OIHW),
    ("proj2", "bias"): (".proj2.bias", COPY),
}
_LAYER: Final = re.compile(r"layers_(0|[1-9][0-9]*)")


class MsgpackForm(Form):
    """A training state or parameters in one file."""

    description = "a Flax msgpack file"

    def sniff(self, path: Path, head: bytes | None) -> bool:
        """A msgpack map whose first key is one of a training state's."""
        return head is not None and _first_msgpack_key(head) in STATE_KEYS

    def read(self, path: Path, options: ReadOptions) -> Checkpoint:
        """Read one parameter tree of the file."""
        return _read(MsgpackFile(path), "flax-msgpack", path, [path], options)


class OrbaxForm(Form):
    """The same as a folder that Orbax wrote."""

    description = "a Flax Orbax folder"

    def sniff(self, path: Path, head: bytes | None) -> bool:
        """A folder with _METADATA that Orbax has finished."""
        return head is None and (path / "_METADATA").is_file() and _UNFINISHED not in path.name

    def refusal(self, path: Path, head: bytes | None) -> str | None:
        """Orbax renames a folder when it is complete."""
        if head is not None or _UNFINISHED not in path.name:
            return None
        return "an Orbax checkpoint that was not finished; give a finished one"

    def read(self, path: Path, options: ReadOptions) -> Checkpoint:
        """Read one parameter tree of the folder."""
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return _read(OrbaxFolder(path), "flax-orbax", path, files, options)


def flax_rule(name: str) -> Target | Drop | None:
    """``double_blocks/layers_0/img_qkv/_flax_linear/kernel``, below ``net``.

    Source: minit2i-jax models/mmjit.py and models/mean_flow.py.
    """
    parts = name.split("/")
    if len(parts) < 3 or tuple(parts[-2:]) not in _LEAVES:
        return None
    path, (holder, leaf) = parts[:-2], parts[-2:]
    # Only the patch embedding is convolutional; under another path the name is foreign.
    if holder in ("proj1", "proj2") and path != ["img_embedder"]:
        return None
    suffix, axes = _LEAVES[holder, leaf]
    return canonical_target(".".join(_torch_part(part) for part in path) + suffix, axes)


def _read(
    container: StateContainer, form: str, path: Path, files: list[Path], options: ReadOptions
) -> Checkpoint:
    selection = select_tree(container.names, options.ema, str(path))
    rule = _rule(selection)
    shapes = _target_shapes(container, rule)
    config = infer_config(shapes, options.image_size, options.prompt_length, str(path))
    return read_weights(
        container,
        rule,
        config,
        form=form,
        path=path,
        weights=selection.weights,
        files=files,
        step=container.step(),
    )


def _rule(selection: Selection) -> Rule:
    """Map the selected network; drop the other trees, the optimizer and the teacher by name."""

    def rule(name: str) -> Target | Drop | None:
        if name.startswith(selection.root):
            return flax_rule(name.removeprefix(selection.root))
        if selection.teacher is not None and name.startswith(selection.teacher):
            return Drop("pt_net", "the student's frozen teacher")
        for tree, label in selection.others.items():
            if name.startswith(tree):
                return Drop(label, NOT_SELECTED)
        if name == "step":
            return Drop("step", "stored as the report's step")
        if name.startswith("opt_state/"):
            return Drop("opt_state", "state of the training run")
        return None

    return rule


def _target_shapes(container: Container, rule: Rule) -> dict[str, tuple[int, ...]]:
    """Canonical name to shape, of the arrays that the rule maps."""
    shapes = {}
    for name in container.names:
        target = rule(name)
        if isinstance(target, Target):
            shapes[target.name] = target.turn(container.leaf(name).shape)
    return shapes


def _torch_part(part: str) -> str:
    layer = _LAYER.fullmatch(part)
    return layer[1] if layer else part


def _first_msgpack_key(head: bytes) -> str | None:
    """First key of a map, if the bytes begin one with a short string as key."""
    if not head:
        return None
    # Bytes before the first key: map 16, map 32, or a fixmap of 1 to 15 entries.
    skip = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else 0)
    if not skip or len(head) <= skip or not 0xA0 <= head[skip] <= 0xBF:
        return None
    start = skip + 1
    return head[start : start + head[skip] - 0xA0].decode("utf-8", "replace")
