"""A folder for transformers' ``AutoModel``: config.json with ``auto_map`` beside safetensors.

Such folders bring code of their own, which is not run here. What they agree on are the network's
parameter names, behind a prefix of that code's; the rest is read off the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.checkpoints.assemble import (
    Drop,
    Rule,
    Target,
    canonical_target,
    without_wrappers,
)
from minit2i_deploy.checkpoints.checkpoint import Checkpoint
from minit2i_deploy.checkpoints.containers.safetensors_file import SafetensorsFiles
from minit2i_deploy.checkpoints.form import (
    ReadOptions,
    check_prompt_length,
    check_single_weights,
    read_weights,
)
from minit2i_deploy.checkpoints.forms.flax_config import infer_config
from minit2i_deploy.checkpoints.forms.huggingface import HuggingFaceForm, weight_files
from minit2i_deploy.checkpoints.forms.official_config import PUBLISHED_WEIGHTS
from minit2i_deploy.checkpoints.json_file import read_json
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import CheckpointError

_MARK: Final = "auto_map"
# A parameter that every network of the family has; what stands before it is the prefix.
_FIRST: Final = "img_embedder.proj1.weight"
_FIXED: Final = {"compat_checkpoint_arch": False, "prediction": "x"}


class AutoModelForm(HuggingFaceForm):
    """A transformers folder with code of its own, around the official parameter names."""

    description = "a transformers AutoModel folder"

    def sniff(self, path: Path, head: bytes | None) -> bool:
        """What the parent recognizes, where the configuration names code and a weight is ours."""
        if not super().sniff(path, head):
            return False
        folder = path if head is None else path.parent
        return _MARK in read_json(folder / "config.json") and any(
            name.endswith(_FIRST) for name in SafetensorsFiles(weight_files(path)[1]).names
        )

    def counts_inside_folder(self, path: Path) -> bool:
        """A shard alone is not a model."""
        return path.is_dir()

    def refusal(self, path: Path, head: bytes | None) -> str | None:
        """None: the parent's form says it."""
        return None

    def read(self, path: Path, options: ReadOptions) -> Checkpoint:
        """Read the weights; sizes that leave no trace in them are the configuration's."""
        folder, files = weight_files(path)
        where, container = folder / "config.json", SafetensorsFiles(files)
        values, rule = read_json(where), _rule_behind(_prefix(container, path))
        shapes = {
            target.name: container.leaf(name).shape
            for name in container.names
            if isinstance(target := rule(without_wrappers(name)), Target)
        }
        sizes = (
            values.get("image_size", options.image_size),
            values.get("prompt_length", options.prompt_length),
        )
        config = infer_config(shapes, *sizes, str(path))
        config = _as_configured(config, values, str(where))
        check_prompt_length(path, options, config)
        check_single_weights(path, options)
        return read_weights(
            container,
            rule,
            config,
            form="auto-model",
            path=path,
            weights=PUBLISHED_WEIGHTS,
            files=files,
            text_encoder=values.get("llm"),
        )


def _prefix(container: SafetensorsFiles, path: Path) -> str:
    names = [without_wrappers(name) for name in container.names]
    prefixes = sorted({name.removesuffix(_FIRST) for name in names if name.endswith(_FIRST)})
    if len(prefixes) != 1:
        raise CheckpointError(
            f"{path}: {len(prefixes)} networks, behind {', '.join(map(repr, prefixes))}; save the "
            "one to read alone"
        )
    return prefixes[0]


def _rule_behind(prefix: str) -> Rule:
    def rule(name: str) -> Target | Drop | None:
        return canonical_target(name.removeprefix(prefix)) if name.startswith(prefix) else None

    return rule


def _as_configured(config: ModelConfig, values: Mapping[str, Any], where: str) -> ModelConfig:
    """The configuration of the shapes with the file's sizes, where the two agree otherwise.

    Raises:
        CheckpointError: names the first value that the weights contradict.
    """
    fields = config.to_dict() | _FIXED
    image_size = values.get("image_size", config.image_size)
    for name, expected in (fields | {"image_size": image_size}).items():
        actual = values.get(name, expected)
        is_near = name == "mlp_ratio" and abs(actual - expected) < 1e-3
        if actual != expected and not is_near:
            raise CheckpointError(
                f"{where}: {name} is {actual!r}, but the weights are those of a network with "
                f"{expected!r}; copy the folder again"
            )
    return ModelConfig.from_dict(config.to_dict() | {"image_size": image_size})
