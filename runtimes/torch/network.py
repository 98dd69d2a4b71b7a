"""A bundle's weights as torch modules on one device.

The weights are read from the graphs' data files, which are safetensors files under the canonical
names (docs/reference/bundle.md), so neither the source checkpoint nor the onnx package is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError, require
from minit2i_deploy.model.build import network_from_config
from minit2i_deploy.model.step import Step
from minit2i_deploy.model.t5 import T5Config, T5Encoder
from minit2i_deploy.runtimes.guard import Guard
from minit2i_deploy.runtimes.torch.gpu import merge_products, on_device
from minit2i_deploy.runtimes.torch.row_graphs import RowGraphs, StepCall, record_cuda_graph
from minit2i_deploy.runtimes.torch.trajectory import TorchTrajectory, step_call, to_numpy
from minit2i_deploy.solvers.step_inputs import StepInputs

_FEED_FORWARD: Final = "gated-gelu"
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchNetwork:
    """Text encoder, text adapter and step; the encoder is read when it is first used.

    Args:
        bundle: an open bundle.
        device: a torch device.
        precision: of adapter and denoiser, or None for the bundle's.
        compile: compile the step at its first use.
        one_graph: record all rows of an image as one CUDA graph.

    Raises:
        UsageError: the device is not there, or records no CUDA graph.
        RuntimeFailure: the weights cannot be read, or are of a precision that is not for torch.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str,
        precision: str | None,
        compile: bool,
        one_graph: bool = False,
    ) -> None:
        self.device = _open_device(device)
        if one_graph and self.device.type != "cuda":
            raise UsageError(f"device {device!r} records no CUDA graph; one_graph is for cuda")
        self.bundle = bundle
        self._encoder: T5Encoder | None = None
        bounds = bundle.manifest.side_bounds
        net = network_from_config(
            bundle.manifest.model,
            _network_weights(bundle),
            None if bounds is None else bounds[1],
        )
        stored = bundle.manifest.graphs["transformer"].precision
        with on_device(self.device, "read the weights"):
            net = net.to(device=self.device, dtype=_DTYPES[precision or stored])
            if self.device.type == "cuda":
                merge_products(net.denoiser)
        self.adapter = net.text_adapter
        step = Step(net.denoiser)
        self.step: StepCall = (
            step_call(step, self.device, records=not one_graph) if compile else step
        )
        record = partial(record_cuda_graph, self.device)
        self.graphs = RowGraphs(self.step, record) if one_graph else None

    @torch.no_grad()
    def encode(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Int64 [n, tokens] twice to float32 [n, tokens, width]."""
        with on_device(self.device, "encoded texts"):
            if self._encoder is None:
                self._encoder = _open_encoder(self.bundle).to(self.device)
            return to_numpy(self._encoder(self._put(ids), self._put(mask)))

    @torch.no_grad()
    def adapt(
        self, context: np.ndarray, mask: np.ndarray, conditions: np.ndarray | None
    ) -> np.ndarray:
        """Arrays as in ``protocol.Runtime.adapt``."""
        dtype = self.adapter.mask_token.dtype
        with on_device(self.device, "adapted tokens"):
            scalars = () if conditions is None else self._put(conditions).unbind(1)
            return to_numpy(self.adapter(self._put(context).to(dtype), self._put(mask), *scalars))

    def start(self, x: np.ndarray, inputs: StepInputs, guard: Guard) -> TorchTrajectory:
        """x as in ``protocol.Runtime.start``; the guard is the runtime's."""
        with on_device(self.device, "started images"):
            return TorchTrajectory(self.step, self._put(x), inputs, guard, self.graphs)

    @torch.no_grad()
    def step_batch(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The step graph's inputs by name, in its order, to the next x and h."""
        with on_device(self.device, "computed a step"):
            x, h = self.step(*(self._put(array) for array in inputs.values()))
            return to_numpy(x), to_numpy(h)

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.device)


def _open_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used: {reason}") from error
    return device


def _network_weights(bundle: Bundle) -> dict[str, np.ndarray]:
    """Weights of adapter and denoiser, where they are floating-point numbers."""
    if bundle.manifest.quantization is not None:
        raise RuntimeFailure(
            f"{bundle.path}: runtime torch does not run quantized weights; choose another runtime, "
            "or the bundle this one was made from"
        )
    tensors = read_weights(bundle, "text_adapter") | read_weights(bundle, "transformer")
    stored = bundle.manifest.graphs["transformer"].precision
    if stored not in _DTYPES:
        raise RuntimeFailure(
            f"{bundle.path}: graph transformer is {stored}, which runtime torch does not run; it "
            f"runs {', '.join(_DTYPES)}"
        )
    return tensors


def read_weights(bundle: Bundle, graph: str) -> dict[str, np.ndarray]:
    """The float32 weights beside one graph, in the network's own layout, heads without pads.

    Raises:
        RuntimeFailure: the data file is no safetensors file.
    """
    safetensors = require("safetensors", "checkpoints")
    path = bundle.data_path(graph)
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
