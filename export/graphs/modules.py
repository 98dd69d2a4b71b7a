"""Inputs and outputs of the three graphs, and the torch module of the text adapter's.

States and tokens are float32 at every edge, whatever precision the network computes in.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from minit2i_deploy.bundle.image_sizes import FREE_AXES
from minit2i_deploy.bundle.manifest import TensorInfo
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.export.choices import check_precision
from minit2i_deploy.export.graphs.onnx_export import Patches, Signature
from minit2i_deploy.model import TextAdapter
from minit2i_deploy.solvers.row import GRAPH_COLUMNS
from minit2i_deploy.solvers.table import CONDITION_COLUMNS

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class AdapterGraph(nn.Module):
    """The text adapter with float32 edges."""

    def __init__(self, text_adapter: TextAdapter) -> None:
        super().__init__()
        self.text_adapter = text_adapter

    def forward(self, context: Tensor, mask: Tensor, conditions: Tensor | None = None) -> Tensor:
        """float32 [n, L, width], int64 [n, L], a student's float32 [n, 4] -> [n, L', hidden]."""
        dtype = self.text_adapter.mask_token.dtype
        columns = () if conditions is None else conditions.unbind(1)
        tokens: Tensor = self.text_adapter(context.to(dtype), mask, *columns)
        return tokens.to(torch.float32)


def network_dtype(precision: str) -> torch.dtype:
    """The torch type of one of ``choices.PRECISIONS``.

    Raises:
        UsageError: another precision.
    """
    check_precision(precision)
    return DTYPES[precision]


def canonical_name(name: str) -> str:
    """Name in checkpoints of a parameter of AdapterGraph or Step."""
    return name.split(".", 1)[1]


def text_encoder_signature(width: int) -> Signature:
    """ids and mask, int64 [n, tokens] -> last_hidden_state float32 [n, tokens, width]."""
    return Signature(
        inputs={"input_ids": _int64("n", "tokens"), "attention_mask": _int64("n", "tokens")},
        outputs={"last_hidden_state": _float32("n", "tokens", width)},
    )


def text_adapter_signature(config: ModelConfig) -> Signature:
    """context float32 [n, L, width], mask int64 [n, L] -> tokens float32 [n, L', hidden].

    A few-step student's also takes conditions float32 [n, 4], ``table.CONDITION_COLUMNS``.
    """
    length = config.prompt_length
    inputs = {
        "context": _float32("n", length, config.txt_input_size),
        "mask": _int64("n", length),
    }
    if config.student is not None:
        inputs["conditions"] = _float32("n", len(CONDITION_COLUMNS))
    return Signature(
        inputs=inputs,
        outputs={"tokens": _float32("n", config.num_text_tokens, config.hidden_size)},
    )


def step_signature(config: ModelConfig, sides: tuple[int, int] | None = None) -> Signature:
    """The inputs of ``model.step.Step``, in its order -> x_next, h_next.

    With ``sides``, the least and the most pixels, height and width are free.
    """
    size = config.image_shape[1:] if sides is None else FREE_AXES
    image = _float32("batch", config.in_channels, *size)
    return Signature(
        inputs={
            "x": image,
            "h": image,
            "tokens": _float32("sequences", config.num_text_tokens, config.hidden_size),
            "image": _int64("sequences"),
            "sequence": _int64("branches", "batch"),
            "weights": _float32("branches", "batch"),
            "row": _float32("batch", len(GRAPH_COLUMNS)),
            "known": image,
            "known_mask": _float32("batch", 1, *size),
        },
        outputs={"x_next": image, "h_next": image},
        patches=None if sides is None else Patches.of(sides, config.patch_size),
    )


def _float32(*shape: int | str) -> TensorInfo:
    return TensorInfo(dtype="float32", shape=shape)


def _int64(*shape: int | str) -> TensorInfo:
    return TensorInfo(dtype="int64", shape=shape)
