"""What every engine calls fp32 is float32, on whatever processor the tests run.

Libraries may take TF32, bf16 tiles or other fast math in place of it, and two engines that share
them agree with each other all the same. So each is compared with the network in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.weight_replacement import network_tensors, write_with_weights
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import MissingDependencyError, RuntimeFailure
from minit2i_deploy.model.build import network_from_config
from minit2i_deploy.model.loop import run_row
from minit2i_deploy.model.step import Step
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.step_probe import Probe, answers, graph_errors, make_probe
from tests.checkpoints.test_lora import write_adapter
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.tiny_bundle import tiny_bundle

# Measured on a Xeon with AVX-512, VNNI, bf16 and AMX: adapter 4e-7, step 1.0e-6, with torch's
# kernels of AVX-512 and of AVX2. TF32 has 2^-11 and bf16 2^-9 in each product.
BOUND = 5e-6
ENGINES: list[tuple[str, dict[str, Any]]] = [
    ("torch", {}),
    ("onnxruntime", {"threads": 1}),
    ("onnxruntime", {"provider": "openvino"}),
    ("openvino", {}),
]


@pytest.fixture(scope="module", params=["the checkpoint", "a merged adapter"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Probe, dict[str, np.ndarray]]:
    """A bundle, inputs of its graphs, and what the network makes of them in float64."""
    bundle = Bundle.open(tiny_bundle())
    if request.param == "a merged adapter":
        folder = tmp_path_factory.mktemp("float64")
        # A hundredth of the size that write_adapter gives by itself: that one drives activations
        # to 8e4, where one rounding of the weights moves the image by 7e-6 in float64 already.
        write_adapter(folder / "lora", lora_alpha=0.05)
        merged = load_checkpoint(hub_folder(), lora=folder / "lora")
        (folder / "bundle").mkdir()
        bundle = write_with_weights(
            bundle, folder / "bundle", merged.tensors, bundle.manifest.provenance
        )
    with open_runtime(bundle, "torch") as runtime:
        probe = make_probe(bundle, runtime)
    return bundle, probe, exact_answers(bundle, probe)


@torch.no_grad()
def exact_answers(bundle: Bundle, probe: Probe) -> dict[str, np.ndarray]:
    """``step_probe.answers`` of the network in float64."""
    net = network_from_config(bundle.config, network_tensors(bundle)).double()
    context, x, tokens, weights, row = (
        torch.from_numpy(array).double()
        for array in (probe.context, probe.x, probe.tokens, probe.row.weights, probe.row.values)
    )
    adapted = net.text_adapter(context, torch.from_numpy(probe.mask))
    after = run_row(Step(net.denoiser), x, torch.zeros_like(x), tokens, weights, row)[0]
    return {"text_adapter": adapted.numpy(), "transformer": after.numpy()}


@pytest.mark.parametrize(("name", "options"), ENGINES, ids=str)
def test_fp32_is_float32(
    name: str, options: dict[str, Any], case: tuple[Bundle, Probe, dict[str, np.ndarray]]
) -> None:
    bundle, probe, exact = case
    try:
        runtime = open_runtime(bundle, name, **options)
    except (MissingDependencyError, RuntimeFailure) as error:
        pytest.skip(f"not on this machine: {error}")
    with runtime:
        errors = graph_errors(answers(runtime, probe), exact)
    assert set(errors) == {"text_adapter", "transformer"}
    assert max(errors.values()) <= BOUND, errors
