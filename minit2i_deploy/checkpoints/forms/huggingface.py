"""The Hub release's transformer: config.json beside safetensors, one file or shards."""

from __future__ import annotations

from pathlib import Path

from minit2i_deploy.checkpoints.assemble import Drop, Target, canonical_target
from minit2i_deploy.checkpoints.checkpoint import Checkpoint
from minit2i_deploy.checkpoints.containers.safetensors_file import SafetensorsFiles
from minit2i_deploy.checkpoints.form import (
    Form,
    ReadOptions,
    check_prompt_length,
    check_single_weights,
    read_weights,
)
from minit2i_deploy.checkpoints.forms.official_config import PUBLISHED_WEIGHTS, config_from_hub
from minit2i_deploy.checkpoints.json_file import read_json
from minit2i_deploy.errors import CheckpointError


class HuggingFaceForm(Form):
    """A transformer folder of the Hub release, or one safetensors file of it."""

    description = "a Hugging Face folder (config.json beside safetensors)"

    def sniff(self, path: Path, head: bytes | None) -> bool:
        """A folder with config.json and safetensors, or a safetensors file in one."""
        if head is not None:
            return _is_safetensors(head) and (path.parent / "config.json").is_file()
        return (path / "config.json").is_file() and bool(_safetensors_in(path))

    def counts_inside_folder(self, path: Path) -> bool:
        """A shard alone is not a model, and neither is the text encoder beside one."""
        return path.is_dir() and "architectures" not in read_json(path / "config.json")

    def refusal(self, path: Path, head: bytes | None) -> str | None:
        """Weights without their configuration, or the other way round."""
        if head is None:
            lonely = (path / "config.json").is_file()
            text = "config.json without safetensors weights beside it; copy the folder again"
            return text if lonely else None
        if not _is_safetensors(head):
            return None
        if (path.parent / "adapter_config.json").is_file():
            return "a LoRA adapter; give the base checkpoint here and this as lora"
        return "no config.json beside it; put the transformer's config.json there"

    def read(self, path: Path, options: ReadOptions) -> Checkpoint:
        """Read the weights under the configuration beside them."""
        folder, files = weight_files(path)
        values = read_json(folder / "config.json")
        config = config_from_hub(values, str(folder / "config.json"))
        check_prompt_length(path, options, config)
        check_single_weights(path, options)
        return read_weights(
            SafetensorsFiles(files),
            hub_rule,
            config,
            form="huggingface",
            path=path,
            weights=PUBLISHED_WEIGHTS,
            files=files,
            text_encoder=values.get("llm"),
        )


def hub_rule(name: str) -> Target | Drop | None:
    """``model.net.double_blocks.0.img_qkv.weight``.

    Source: minit2i-torch diffusers/pipeline.py.
    """
    prefix = "model.net."
    return canonical_target(name.removeprefix(prefix)) if name.startswith(prefix) else None


def weight_files(path: Path) -> tuple[Path, list[Path]]:
    """The folder of a configuration, and the weight file or shards that belong to it."""
    return (path.parent, [path]) if path.is_file() else (path, _shards(path))


def _is_safetensors(head: bytes) -> bool:
    """The format's first field is the length of the JSON header that follows."""
    header_bytes = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= header_bytes < 2**31


def _safetensors_in(folder: Path) -> list[Path]:
    """safetensors files directly in a folder, shards among them."""
    return sorted(file for file in folder.glob("*.safetensors") if file.is_file())


def _shards(folder: Path) -> list[Path]:
    """The one weight file of a folder, or those that its index names."""
    files = _safetensors_in(folder)
    # diffusers puts the name of a variant before the suffix: X.safetensors.index.fp16.json.
    indices = sorted(folder.glob("*.safetensors.index*.json"))
    if len(indices) == 1:
        return _indexed_files(indices[0])
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        raise CheckpointError(
            f"{folder}: {len(files)} weight files ({names}) and {len(indices)} indices, expected "
            "one file or one index; give the path of one file"
        )
    return files


def _indexed_files(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: no weight_map; copy the folder again")
    files = []
    for name in sorted(set(map(str, weight_map.values()))):
        file = index.parent / name
        # A name with a path in it would read outside the folder.
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(
                f"{index}: names the shard {name!r}, but there is no file of that name beside "
                "it; copy the folder again"
            )
        files.append(file)
    return files
