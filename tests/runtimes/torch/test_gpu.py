"""What the torch runtime does for a GPU, as far as a CPU can show it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.generate import generate
from minit2i_deploy.model.layers import SwiGLU
from minit2i_deploy.runtimes.torch import gpu, network
from minit2i_deploy.runtimes.torch.gpu import ATTENTION, MergedSwiGLU, merge_products, on_device
from minit2i_deploy.runtimes.torch.runtime import TorchRuntime
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.tiny_bundle import tiny_bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


def test_merged_products_compute_what_two_do() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(SwiGLU(48, 80), SwiGLU(48, 80)).double()
    x = torch.randn(2, 5, 48, dtype=torch.float64)
    expected = net(x)
    merge_products(net)
    assert all(isinstance(part, MergedSwiGLU) for part in net)
    # Measured 2.2e-16 of the largest value.
    assert (net(x) - expected).abs().max() <= 1e-15 * expected.abs().max()


def test_images_are_the_same_with_merged_products(bundle: Bundle) -> None:
    table = solver_table("euler", steps=3)
    images = []
    for merged in (False, True):
        with TorchRuntime(bundle) as runtime:
            if merged:
                merge_products(runtime._network.step.denoiser)  # type: ignore[union-attr]
            images.append(generate(bundle, runtime, "red", table=table, seed=2).x)
    # Measured 1.2e-6.
    assert np.abs(images[1] - images[0]).max() <= 1e-5 * np.abs(images[0]).max()


def test_attention_on_a_gpu_tries_cudnn_first(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, orders = gpu.sdpa_kernel, []

    def spy(order: Any, set_priority: bool = False) -> Any:
        orders.append((tuple(order), set_priority))
        return plain(order, set_priority)

    monkeypatch.setattr(gpu, "sdpa_kernel", spy)
    q = torch.randn(1, 2, 8, 16)
    with on_device(torch.device("cuda"), "attended"):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    with on_device(torch.device("cpu"), "attended"):
        pass
    assert orders == [(ATTENTION, True)]
    assert ATTENTION[0] == torch.nn.attention.SDPBackend.CUDNN_ATTENTION


def full(*arguments: Any, **options: Any) -> Any:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"
    )


@pytest.mark.parametrize("stage", ["open", "encode", "row"])
def test_too_little_memory_is_one_line(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    doing = {"open": "read the weights", "encode": "encoded texts", "row": "computed row 2"}[stage]
    expected = re.compile(f"^torch on cpu: CUDA out of memory, while it {doing}; use .*memory")
    if stage == "open":
        monkeypatch.setattr(torch.nn.Module, "to", full)
        with pytest.raises(RuntimeFailure, match=expected):
            TorchRuntime(bundle)
        return
    with TorchRuntime(bundle) as runtime:
        if stage == "encode":
            monkeypatch.setattr(network, "_open_encoder", full)
            with pytest.raises(RuntimeFailure, match=expected):
                runtime.encode(np.array([[3, 1]]), np.ones((1, 2), np.int64))
            return
        table = solver_table("euler", steps=3)
        step, calls = runtime._network.step, []

        def second_fails(*arguments: Any) -> Any:
            calls.append(1)
            return full() if len(calls) == 2 else step(*arguments)

        runtime._network.step = second_fails
        with pytest.raises(RuntimeFailure, match=expected):
            generate(bundle, runtime, "red", table=table)
