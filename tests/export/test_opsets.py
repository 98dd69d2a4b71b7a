"""Graphs are stamped with no newer operators than they use, so that older engines open them."""

from __future__ import annotations

import onnx
import onnx_ir
import pytest

torch = pytest.importorskip("torch")

from minit2i_deploy.bundle.bundle import Bundle  # noqa: E402
from minit2i_deploy.export.choices import CHOICES, TEXT_ENCODER_OPSET, Choice  # noqa: E402
from minit2i_deploy.export.graphs.modules import network_dtype, step_signature  # noqa: E402
from minit2i_deploy.export.graphs.onnx_export import to_onnx  # noqa: E402
from minit2i_deploy.export.graphs.onnxruntime_heads import use_onnxruntime_heads  # noqa: E402
from minit2i_deploy.model.mmjit import MMJiT  # noqa: E402
from minit2i_deploy.model.step import Step  # noqa: E402
from tests.helpers.bundles import CONFIG  # noqa: E402
from tests.helpers.least_opset import least_opset  # noqa: E402
from tests.helpers.tiny_bundle import tiny_bundle  # noqa: E402

# One of each kind of graph that the choices by engine lead to.
KINDS = {
    (choice.opset, choice.precision, choice.only_for): choice
    for rows in CHOICES.values()
    for choice in rows.values()
}


@pytest.mark.parametrize("choice", KINDS.values(), ids=lambda choice: choice.line()[:40])
def test_the_step_graph_of_every_choice(choice: Choice) -> None:
    net = MMJiT(CONFIG).eval().to(network_dtype(choice.precision))
    if choice.only_for is not None:
        use_onnxruntime_heads(net)
    model = to_onnx(Step(net.denoiser).eval(), step_signature(CONFIG), choice.opset)
    _check_stamp(onnx_ir.to_proto(model))


@pytest.mark.parametrize("graph", ["text_encoder", "text_adapter", "transformer"])
def test_the_graphs_of_a_bundle(graph: str) -> None:
    bundle = Bundle.open(tiny_bundle())
    model = onnx.load(bundle.graph_path(graph), load_external_data=False)
    _check_stamp(model)
    info = bundle.manifest.graphs[graph]
    assert info.opset == model.opset_import[0].version
    assert info.opset == (TEXT_ENCODER_OPSET if graph == "text_encoder" else 23)


def _check_stamp(model: onnx.ModelProto) -> None:
    stamp = next(item.version for item in model.opset_import if not item.domain)
    # The exporter writes no operators of before 18.
    assert stamp == max(18, least_opset(model))
    assert model.ir_version == (8 if stamp == 18 else 10)
