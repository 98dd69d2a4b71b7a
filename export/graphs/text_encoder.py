"""The T5 text encoder: opened from its folder and exported unchanged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minit2i_deploy.bundle.names import HUB_DATA_SUFFIX
from minit2i_deploy.checkpoints import text_encoder
from minit2i_deploy.checkpoints.lora_text_encoder import (
    TextEncoderAdapter,
    merge_into_text_encoder,
)
from minit2i_deploy.errors import require
from minit2i_deploy.export.graphs.modules import text_encoder_signature
from minit2i_deploy.export.graphs.onnx_export import Signature, to_onnx
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE, write_graph


def open_text_encoder(folder: Path, width: int) -> Any:
    """Load the encoder; see ``checkpoints.text_encoder.open_text_encoder``.

    Args:
        folder: a T5 or T5 encoder in Hugging Face form.
        width: size of the encoder's output that the network takes.

    Raises:
        UsageError: it is not a T5, or has another width.
        CheckpointError: weights are missing, unknown or cannot be read.
    """
    transformers = require("transformers", "export")
    return text_encoder.open_text_encoder(
        folder, width, transformers.T5EncoderModel.from_pretrained
    )


def merge_adapters(encoder: Any, adapters: Sequence[TextEncoderAdapter], folder: Path) -> None:
    """Merge adapters into an open encoder, in place.

    Args:
        encoder: from ``open_text_encoder``.
        adapters: of ``Checkpoint.text_adapters``.
        folder: that the encoder was read from, for messages.

    Raises:
        CheckpointError: one was trained on another text encoder.
    """
    # Views of the parameters: what is added to them is added to the encoder.
    tensors = {name: value.numpy() for name, value in encoder.state_dict().items()}
    merge_into_text_encoder(tensors, adapters, str(folder))


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
    write_graph(model, encoder, folder, _same_name, f"{GRAPH_FILE}{HUB_DATA_SUFFIX}")
    values = encoder.config.to_dict()
    values.pop("_name_or_path", None)  # a path of this machine
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    return signature


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
