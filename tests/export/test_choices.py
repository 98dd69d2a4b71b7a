"""Choices by engine: complete, told apart by their reasons, and true of the graphs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from minit2i_deploy.errors import UsageError  # noqa: E402
from minit2i_deploy.export.choices import (  # noqa: E402
    CHOICES,
    DECOMPOSED,
    FUSED,
    ONNXRUNTIME_OPERATOR,
    OPSETS,
    TARGETS,
    choose,
)
from minit2i_deploy.export.graphs.modules import DTYPES, step_signature  # noqa: E402
from minit2i_deploy.export.graphs.onnx_export import to_onnx  # noqa: E402
from minit2i_deploy.model.mmjit import MMJiT  # noqa: E402
from minit2i_deploy.model.step import Step  # noqa: E402
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS  # noqa: E402
from tests.helpers.bundles import CONFIG  # noqa: E402

EVERY = [choice for rows in CHOICES.values() for choice in rows.values()]


def test_every_engine_has_choices_with_reasons() -> None:
    assert TARGETS == ("cpu", "web", "openvino", "cuda", "tensorrt", "tensorrt-rtx")
    assert {choice.opset for choice in EVERY} == set(OPSETS)
    for target, rows in CHOICES.items():
        for precision, choice in rows.items():
            assert (choice.target, choice.precision) == (target, precision)
            assert precision in DTYPES and len(choice.reason) > 20
            assert choice.reason in choice.line() and "\n" not in choice.line()
            # Only onnxruntime's CUDA kernels leave a width of heads to the graph.
            assert choice.head_multiple == (8 if target == "cuda" else 1)


@pytest.mark.parametrize("name", ["cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx"])
def test_no_choice_is_one_that_the_provider_refuses(name: str) -> None:
    assert set(CHOICES[name]) <= set(PROVIDERS[name].runs)


def test_the_default_is_the_fastest_exact_enough_one() -> None:
    actual = {target: (choose(target).opset, choose(target).precision) for target in TARGETS}
    assert actual == {
        "cpu": (23, "fp32"), "web": (23, "fp32"), "openvino": (18, "fp32"), "cuda": (23, "fp16"),
        "tensorrt": (23, "fp16"), "tensorrt-rtx": (23, "fp16"),
    }  # fmt: skip
    # What no other engine runs, and what TensorRT-RTX refuses: float32 Attention.
    assert {c.attention for c in EVERY if c.only_for is not None} == {ONNXRUNTIME_OPERATOR}
    assert (choose("cpu").only_for, choose("cpu", "fp16").only_for) == ("cpu", None)
    assert (choose("cuda").only_for, choose("cuda", "bf16").only_for) == ("cuda", None)
    assert choose("web").only_for == "cpu"
    assert choose("tensorrt-rtx", "fp32").attention == DECOMPOSED


@pytest.mark.parametrize(
    ("target", "precision", "message"),
    [
        ("tpu", None, "unknown target 'tpu'; choose one of cpu, web, openvino"),
        ("cpu", "bf16", "cpu has no kernels for bf16; choose one of fp32"),
        ("openvino", "int4", "choose one of fp32, fp16"),
    ],
)
def test_what_does_not_run_is_refused(target: str, precision: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose(target, precision)


@pytest.mark.parametrize("opset", OPSETS)
def test_the_form_of_attention_is_what_the_opset_gives(opset: int) -> None:
    step = Step(MMJiT(CONFIG).eval().denoiser).eval()
    kinds = [node.op_type for node in to_onnx(step, step_signature(CONFIG), opset).graph]
    choices = [choice for choice in EVERY if choice.opset == opset and choice.only_for is None]
    (form,) = {choice.attention for choice in choices}
    fused = CONFIG.depth_double if form == FUSED else 0
    assert kinds.count("Attention") == fused
    assert kinds.count("Softmax") == CONFIG.depth_double - fused
