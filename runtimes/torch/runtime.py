"""PyTorch: the bundle's weights in the network of ``minit2i_deploy.model``, eager or compiled.

The weights are read from the graphs' data files, which are safetensors files under the canonical
names (docs/reference/bundle.md), so neither the source checkpoint nor the onnx package is needed.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError, require
from minit2i_deploy.model.build import network_from_config
from minit2i_deploy.model.step import Step
from minit2i_deploy.model.t5 import T5Config, T5Encoder
from minit2i_deploy.runtimes.base import ClosableRuntime, check_conditions, check_encoder
from minit2i_deploy.runtimes.torch.trajectory import TorchTrajectory, step_call, to_numpy

_FEED_FORWARD: Final = "gated-gelu"
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime(ClosableRuntime):
    """The bundle in PyTorch.

    Args:
        bundle: an open bundle.
        device: a torch device, for example "cpu" or "cuda:0".
        precision: "fp32", "bf16" or "fp16" of adapter and denoiser; None is the bundle's. The
            text encoder and the state stay fp32.
        compile: compile the step at its first use, once for each number of branches and batch; on
            a GPU it is replayed as a CUDA graph.

    Raises:
        UsageError: the device is not there, or an unknown precision.
        RuntimeFailure: the weights cannot be read.
    """

    name = "torch"

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        precision: str | None = None,
        compile: bool = False,
    ) -> None:
        if precision is not None and precision not in _DTYPES:
            raise UsageError(
                f"precision {precision!r} is unknown; choose one of {', '.join(_DTYPES)}"
            )
        try:
            self.device = torch.device(device)
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"device {device!r} cannot be used: {reason}") from error
        self.bundle = bundle
        self._encoder: T5Encoder | None = None
        if bundle.manifest.quantization is not None:
            raise RuntimeFailure(
                f"{bundle.path}: quantised weights are not for runtime torch; take another runtime,"
                " or the bundle it was made from"
            )
        tensors = read_weights(bundle, "text_adapter") | read_weights(bundle, "transformer")
        stored = bundle.manifest.graphs["transformer"].precision
        if stored not in _DTYPES:
            raise RuntimeFailure(
                f"{bundle.path}: precision {stored} is not for runtime torch; it runs "
                f"{', '.join(_DTYPES)}"
            )
        net = network_from_config(bundle.config, tensors)
        net = net.to(device=self.device, dtype=_DTYPES[precision or stored])
        self._adapter = net.text_adapter
        self._step = step_call(Step(net.denoiser), self.device) if compile else Step(net.denoiser)

    @torch.no_grad()
    def encode(
        self,
        input_ids: Int64[np.ndarray, "n tokens"],
        attention_mask: Int64[np.ndarray, "n tokens"],
    ) -> Float32[np.ndarray, "n tokens width"]:
        """Run the text encoder; arguments and result as in ``protocol.Runtime``."""
        self._check_open()
        if self._encoder is None:
            encoder = _open_encoder(self.bundle).to(self.device)
            check_encoder(self.bundle.path, self.name, partial(self._encode, encoder))
            self._encoder = encoder
        return self._encode(self._encoder, input_ids, attention_mask)

    def _encode(self, encoder: T5Encoder, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return to_numpy(encoder(self._put(ids), self._put(mask)))

    @torch.no_grad()
    def adapt(
        self,
        context: Float32[np.ndarray, "n length width"],
        mask: Int64[np.ndarray, "n length"],
        conditions: Float32[np.ndarray, "n 4"] | None = None,
    ) -> Float32[np.ndarray, "n adapted hidden"]:
        """Run the text adapter; arguments and result as in ``protocol.Runtime``."""
        self._check_open()
        dtype = self._adapter.mask_token.dtype
        check_conditions(self.bundle.config, conditions)
        told = () if conditions is None else self._put(conditions).unbind(1)
        return to_numpy(self._adapter(self._put(context).to(dtype), self._put(mask), *told))

    def start(
        self,
        x: Float32[np.ndarray, "batch 3 height width"],
        tokens: Float32[np.ndarray, "branches batch adapted hidden"],
    ) -> TorchTrajectory:
        """Put a start state and the branches' tokens on the device; h is zero."""
        self._check_open()
        return TorchTrajectory(self._step, self._put(x), self._put(tokens))

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.device)

    def _free(self) -> None:
        del self._adapter, self._step
        self._encoder = None


def read_weights(bundle: Bundle, graph: str) -> dict[str, np.ndarray]:
    """The float32 weights beside one graph, in the network's own layout, heads without pads.

    Raises:
        RuntimeFailure: the data file is no safetensors file.
    """
    safetensors = require("safetensors", "checkpoints")
    path = Path(f"{bundle.graph_path(graph)}.data")
    padding = bundle.manifest.head_padding if graph != "text_encoder" else None
    tensors = {}
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            transposed = set(json.loads((stored.metadata() or {}).get("transposed", "[]")))
            for name in stored.keys():
                if name.startswith("_constant."):
                    continue
                value = stored.get_tensor(name).to(torch.float32)
                weight = (value.T.contiguous() if name in transposed else value).numpy()
                tensors[name] = weight if padding is None else padding.unpad(name, weight)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise RuntimeFailure(f"{path}: weights cannot be read ({error})") from error
    return tensors


def _open_encoder(bundle: Bundle) -> T5Encoder:
    path = bundle.graph_path("text_encoder").parent / "config.json"
    tensors = {k: torch.from_numpy(v) for k, v in read_weights(bundle, "text_encoder").items()}
    tensors.pop("encoder.embed_tokens.weight", None)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["feed_forward_proj"] != _FEED_FORWARD:
            raise ValueError(f"feed_forward_proj is not {_FEED_FORWARD}")
        names = T5Config.__dataclass_fields__
        config = T5Config(**{name: values[name] for name in names if name in values})
        with torch.device("meta"):
            encoder = T5Encoder(config)
        encoder.load_state_dict(tensors, strict=True, assign=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RuntimeFailure(
            f"{path}: not a T5 encoder that runtime torch can run ({reason}); use onnxruntime"
        ) from error
    return encoder.eval().requires_grad_(False)


__all__ = ["TorchRuntime", "TorchTrajectory", "read_weights"]
