"""The T5 text encoder: opened from its folder and exported unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from minit2i_deploy.errors import CheckpointError, UsageError, require
from minit2i_deploy.export.graphs.modules import text_encoder_signature
from minit2i_deploy.export.graphs.onnx_export import Signature, to_onnx
from minit2i_deploy.export.graphs.weights_file import write_graph


def open_text_encoder(folder: Path, width: int) -> Any:
    """Load the encoder in float32, whatever its file holds: T5 overflows in half precision.

    Args:
        folder: a T5 or T5 encoder in Hugging Face form.
        width: size of the encoder's output that the network takes.

    Raises:
        UsageError: it is not a T5, or has another width.
        CheckpointError: weights are missing or cannot be read.
    """
    transformers = require("transformers", "export")
    config = _read_config(folder)
    if config.get("model_type") != "t5":
        raise UsageError(
            f"{folder}: expected a T5, got model_type {config.get('model_type')!r}; pass the text"
            " encoder that the network was trained with"
        )
    if config.get("d_model") != width:
        raise UsageError(
            f"{folder}: this T5 is {config.get('d_model')} wide but the checkpoint takes {width};"
            " pass the text encoder that the network was trained with"
        )
    try:
        encoder, info = transformers.T5EncoderModel.from_pretrained(
            str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # the library raises whatever its readers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{folder}: the text encoder cannot be read ({reason})") from error
    missing = sorted(info["missing_keys"]) + sorted(str(k) for k in info["mismatched_keys"])
    if missing:
        # transformers only warns, and fills them with random numbers.
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors are missing or of another shape, first {missing[0]};"
            " download the folder again"
        )
    return encoder.eval().requires_grad_(False)


def write_text_encoder(encoder: Any, folder: Path, opset: int) -> Signature:
    """Write config.json and the graph, in a form that optimum opens.

    Args:
        encoder: from ``open_text_encoder``.
        folder: of the bundle, for this graph.
        opset: of the graph.
    """
    signature = text_encoder_signature(encoder.config.d_model)
    onnx_config = _onnx_config(encoder.config)
    assert set(onnx_config.inputs) == set(signature.inputs)
    folder.mkdir(parents=True, exist_ok=True)
    with onnx_config.patch_model_for_export(encoder):
        model = to_onnx(encoder, signature, opset)
    write_graph(model, encoder, folder, _same_name)
    values = encoder.config.to_dict()
    values.pop("_name_or_path", None)  # a path of this machine
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    return signature


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON; download it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a JSON object; download it again")
    return values


def _onnx_config(config: Any) -> Any:
    configs = require("optimum.exporters.onnx.model_configs", "export")

    class MaskedT5EncoderConfig(configs.T5EncoderOnnxConfig):  # type: ignore[misc,name-defined]
        """optimum's own lists input_ids alone, so padding would be attended to."""

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            axes = {0: "batch_size", 1: "sequence_length"}
            return {"input_ids": axes, "attention_mask": axes}

    return MaskedT5EncoderConfig(config, task="feature-extraction")


def _same_name(name: str) -> str:
    return name
