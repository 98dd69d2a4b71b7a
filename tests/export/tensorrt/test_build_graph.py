"""Engines of single graphs by TensorRT-RTX: kernels of attention and of quantized products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from minit2i_deploy.engines.key import BuildFlags
from minit2i_deploy.errors import BundleError, RuntimeFailure, UsageError
from minit2i_deploy.export.quantize import (
    QuantizableGraph,
    find_scheme,
    match_any,
    quantize_graph,
    write_graph,
)
from minit2i_deploy.export.tensorrt import BuildLibrary, build_engine
from minit2i_deploy.export.tensorrt.capabilities import check_targets
from tests.helpers.engine_bundles import block_pair, looped_trio, narrow_pair
from tests.helpers.tensorrt_builds import attention_graph, build_graph, save_graph


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("variant", ["b-16", "l-16"])
def test_two_blocks_at_full_width_stay_fused(variant: str, precision: str) -> None:
    """L/16's heads are 52 wide, which the library pads inside its kernels."""
    graph, config = block_pair(variant, precision)
    audit = build_graph(graph, precision, "sm89").audit
    assert (audit.attention, audit.attention_fused) == (2, 2)
    assert audit.softmax_unfused == 0
    # Two of them are the patch embedding's.
    assert audit.gemms == {precision: 16}
    assert config.head_dim == {"b-16": 64, "l-16": 52}[variant]


def test_every_pass_of_a_loop_stays_fused() -> None:
    """Exclusive attention reads what the fused kernel writes."""
    graph, num_attentions = looped_trio("fp16")
    audit = build_graph(graph, "fp16", "sm89").audit
    assert (audit.attention, audit.attention_fused) == (num_attentions, num_attentions) == (4, 4)
    assert audit.softmax_unfused == 0


def test_attention_without_a_kernel_is_decomposed_in_fp32_or_if_allowed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    full = attention_graph(tmp_path / "full.onnx", TensorProto.FLOAT)
    assert build_graph(full, "fp32", "sm89").audit.attention_fused == 0
    half = build_graph(attention_graph(tmp_path / "half.onnx", TensorProto.FLOAT16), "fp16", "sm89")
    assert (half.audit.attention, half.audit.attention_fused) == (1, 1)
    with pytest.raises(RuntimeFailure, match="--allow-unfused"):
        build_graph(full, "fp16", "sm89")
    assert build_graph(full, "fp16", "sm89", allow_unfused=True).audit.softmax_unfused == 1
    # The library says the error on its own as well; the command line holds that back.
    assert "dedicated kernel" in capfd.readouterr().err


def _quantized_graph(path: Path, precision: str) -> Path:
    """x fp16 [n, 128, 256] times W [256, 256], both through Q/DQ."""
    if precision == "fp8":
        # 0x38 is 1.0 in E4M3.
        kind, weight, zero = TensorProto.FLOAT8E4M3FN, b"\x38" * 256**2, b"\0"
        data = [
            helper.make_tensor("w", kind, [256, 256], weight, raw=True),
            helper.make_tensor("z", kind, [], zero, raw=True),
        ]
    else:
        values = np.arange(256**2, dtype=np.int64).reshape(256, 256) % 255 - 127
        data = [
            numpy_helper.from_array(values.astype(np.int8), "w"),
            numpy_helper.from_array(np.array(0, np.int8), "z"),
        ]
    data.append(numpy_helper.from_array(np.array(0.02, np.float16), "s"))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n", 128, 256])
        for name in ("x", "y")
    )
    return save_graph(path, nodes, [x], [y], data)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantized_products_are_counted_by_their_type(tmp_path: Path, precision: str) -> None:
    graph = _quantized_graph(tmp_path / "model.onnx", precision)
    assert build_graph(graph, precision, "sm89").audit.gemms == {precision: 1}
    if precision == "fp8":
        with pytest.raises(RuntimeFailure, match=r"target.*sm86.*fp8"):
            build_graph(graph, precision, "sm86")


@pytest.mark.parametrize("name", ["int8", "fp8-attention"])
def test_quantized_blocks_keep_their_attention_fused(tmp_path: Path, name: str) -> None:
    """Silent fusion loss would show here: Q/DQ beside attention and, in the last one, before it."""
    scheme = find_scheme(name)
    step = QuantizableGraph.read(narrow_pair(1)[0])
    scales = {site.name: 0.03 for site in step.sites}
    write_graph(quantize_graph(step, scheme.transformer, scales), tmp_path)
    audit = build_graph(tmp_path / "model.onnx", scheme.precision, "sm89").audit
    assert (audit.attention, audit.attention_fused, audit.softmax_unfused) == (2, 2, 0)
    # The final layer alone, or with it the w2 of an int8 graph, stays in half precision.
    assert set(audit.gemms) <= {scheme.precision, "fp16"}
    assert audit.gemms[scheme.precision] >= 10


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_a_quantized_loop_keeps_its_attention_fused(tmp_path: Path, name: str) -> None:
    """Each pass has scales of its own, and exclusive attention after the kernel."""
    scheme = find_scheme(name)
    graph, num_attentions = looped_trio("fp16")
    step = QuantizableGraph.read(graph)
    scales = {site.name: 0.03 for site in step.sites}
    write_graph(quantize_graph(step, scheme.transformer, scales), tmp_path)
    audit = build_graph(tmp_path / "model.onnx", scheme.precision, "sm89").audit
    assert (audit.attention, audit.attention_fused) == (num_attentions, num_attentions) == (4, 4)
    assert audit.softmax_unfused == 0
    # Of three blocks, one of which runs twice.
    assert audit.gemms[scheme.precision] >= 20


@pytest.mark.parametrize(
    ("name", "products"), [("nvfp4", "fp4"), ("nvfp4-weights", "fp16"), ("mxfp8", "fp16")]
)
def test_blocks_with_ranges_are_built_for_blackwell(
    tmp_path: Path, name: str, products: str
) -> None:
    """The library multiplies NVFP4 by its own kernels; MXFP8 it rounds to and computes in fp16.

    The network is 208 wide and reads 568 channels in w2: neither is made of blocks of 32.
    """
    scheme = find_scheme(name)
    step = QuantizableGraph.read(narrow_pair(1)[0])
    scales = {site.name: 2.0**-8 for site in step.sites}
    exclude = match_any(step.linears, scheme.transformer.exclude)
    write_graph(quantize_graph(step, scheme.transformer, scales, exclude=exclude), tmp_path)
    audit = build_graph(tmp_path / "model.onnx", scheme.precision, "sm120").audit
    assert (audit.attention, audit.attention_fused, audit.softmax_unfused) == (2, 2, 0)
    assert set(audit.gemms) == {products, "fp16"}
    assert audit.gemms[products] >= 10
    with pytest.raises(UsageError, match=f"sm89 has no {scheme.precision}, which needs sm100"):
        check_targets("tensorrt_rtx", ("sm89",), scheme.precision)


def test_a_free_size_that_nobody_named_is_refused(tmp_path: Path) -> None:
    graph = _quantized_graph(tmp_path / "model.onnx", "int8")
    with pytest.raises(BundleError, match="free size 'n'"):
        build_engine(
            BuildLibrary.open("tensorrt_rtx"),
            graph,
            tmp_path / "plan",
            sizes={"batch": (1, 1, 1)},
            targets=("sm89",),
            flags=BuildFlags(),
            precision="int8",
        )
