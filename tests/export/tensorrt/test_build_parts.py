"""Parts of the TensorRT build that need no engine library: stand-ins take its place."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.engines.key import PORTABLE
from minit2i_deploy.engines.sidecar import NO_AUDIT, Audit
from minit2i_deploy.errors import (
    UsageError,
)
from minit2i_deploy.export.tensorrt.audit import audit_layers, describe_audit, shortfall
from minit2i_deploy.export.tensorrt.build_options import BuildOptions, sizes_for
from minit2i_deploy.export.tensorrt.build_phases import Phases, stoppable
from minit2i_deploy.export.tensorrt.capabilities import check_targets
from minit2i_deploy.export.tensorrt.library_log import LibraryLog
from minit2i_deploy.export.tensorrt.memory_estimate import expected_memory_bytes, weights_bytes
from minit2i_deploy.progress import no_progress
from tests.helpers.bundles import write_bundle

LOG = """Layers:
Name: __mye1_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata:
Name: __myl_CastMulMeanAddSqrtDivMulCastMul_myl0_1, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [-1,64], Strides: [64,1], Datatype: Half, Format: (Linear) Row major linear format }], Constants: [], Outputs: [], TacticName: __myl_CastMulMean_0x7ff0fc1a, StreamId: 0, Metadata: [ONNX Layer: n]
Name: __myl_FcAdd_myl0_2, LayerType: runtime_fusion, Inputs: [ { Name: a, Dimensions: [-1,64], Strides: [64,1], Datatype: Half, Format: (Linear) x }], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: [ONNX Layer: m]
Name: node_linear_myl0_3, LayerType: gemm, Inputs: [ { Name: s, Dimensions: [1], Strides: [1], Datatype: Float, Format: (Linear) x }, { Name: a, Dimensions: [-1,64], Strides: [64,1], Datatype: FP8, Format: (Linear) x }], Constants: [], Outputs: [ { Name: y, Dimensions: [-1,64], Strides: [64,1], Datatype: Half, Format: (Linear) x }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata:
Name: _gemm_mha_v2_myl0_4, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [-1,4,64], Strides: [64,1], Datatype: Half, Format: (Linear) x }], Constants: [], Outputs: [], TacticName: _gemm_mha_v2_0xc5, StreamId: 0, Metadata:
Name: wait_1, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata:
Name: __myl_MaxrSubExpSumDivMul_myl0_5, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [-1,4,64], Strides: [64,1], Datatype: Float, Format: (Linear) x }], Constants: [], Outputs: [], TacticName: __myl_MaxrSubExpSumDivMul_0xfc, StreamId: 0, Metadata:

I/O Tensors:
Name: x, IOMode: Input, DataType: Float, Dimensions: [-1,64], Location: Device
"""  # noqa: E501


def test_the_log_of_a_build_is_counted() -> None:
    audit = audit_layers(LOG, "log", attention=2)
    assert audit == Audit(
        source="log",
        attention=2,
        attention_fused=1,
        softmax_unfused=1,
        gemms={"fp16": 1, "fp8": 1},
        norms=1,
        kernels=5,
    )
    assert (
        describe_audit(audit)
        == "attention fused 1/2, 1 unfused softmax, GEMMs 1 fp16, 1 fp8, 5 kernels"
    )


@pytest.mark.parametrize("field", ["Format/Datatype", "Datatype"])
def test_the_inspectors_json_is_counted(field: str) -> None:
    """The type's field is named so until TensorRT 10 and from 11 on."""

    def layer(name: str, kind: str, tactic: str, type_: str) -> dict[str, Any]:
        tensor = {"Name": "a", "Dimensions": [-1, 64], field: type_}
        return {"Name": name, "LayerType": kind, "TacticName": tactic, "Inputs": [tensor]}

    text = json.dumps(
        {
            "Layers": [
                layer("_gemm_mha_v2_myl3_7", "kgen", "_gemm_mha_v2_0x1", "Half"),
                layer("node_1_myl3_8", "gemm", "sm90_xmma_gemm_bf16bf16", "BFloat16"),
                layer("linear", "CaskGemm", "cutlass_gemm_tf32", "Float"),
                layer("q_myl", "kgen", "__myl_RounCast_0xgemm", "Half"),
                layer("qlinear", "gemm", "i8816gemm", "Int8"),
            ],
            "Bindings": ["x"],
        }
    )
    audit = audit_layers(text, "inspector", attention=1)
    assert (audit.attention_fused, audit.softmax_unfused) == (1, 0)
    assert audit.gemms == {"bf16": 1, "fp32": 1, "int8": 1}
    assert audit.kernels == 5


@pytest.mark.parametrize(
    "text", ["", "Layers:\n", "{", "{}", '{"Layers": 3}', '{"Layers": []}', "[1]", "no layers"]
)
def test_a_library_without_a_listing_is_unknown(text: str) -> None:
    audit = audit_layers(text, "inspector", attention=3)
    assert audit == NO_AUDIT
    assert describe_audit(audit) == "kernels unknown"
    assert "does not list its kernels" in (shortfall(audit, 1.0) or "")


def test_names_alone_are_read_as_well() -> None:
    """The inspector of an engine without detailed verbosity lists names."""
    audit = audit_layers('{"Layers": ["_gemm_mha_v2_myl0_1", "other"]}', "inspector", 1)
    assert (audit.attention_fused, audit.kernels) == (1, 2)


@pytest.mark.parametrize(
    "fused, floor, short",
    [(17, 1.0, False), (16, 1.0, True), (16, 0.9, False), (16, 16, False), (16, 17, True)],
)
def test_the_floor_is_a_share_or_a_number(fused: int, floor: float, short: bool) -> None:
    audit = Audit(source="log", attention=17, attention_fused=fused, gemms={}, kernels=50)
    assert (shortfall(audit, floor) is not None) == short


def test_the_first_error_is_the_reason() -> None:
    log = LibraryLog()
    log.add(
        "ERROR",
        "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:15: run_passes] Cannot"
        " compile for target(s) sm75. In compileGraph at /_src/x/codeGenerator.cpp:2012)",
    )
    log.add("ERROR", "[check.cpp::f::250] Error Code 1: Cuda Runtime (error 35)")
    assert log.reason() == "Cannot compile for target(s) sm75."
    assert LibraryLog().reason() == "it gave no reason"


def test_what_is_heard_is_sorted_and_bounded() -> None:
    log = LibraryLog()
    for index in range(200):
        log.add("ERROR", f"error {index} " + "x" * 500)
        log.add("WARNING", "careful")
        log.add("VERBOSE", "chatter")
    log.add("INFO", "Total Activation Memory: 1000 bytes")
    log.add("INFO", "Total Device Persistent Memory: 24 bytes")
    log.add("VERBOSE", LOG)
    assert len(log.errors) == len(log.warnings) == 50
    assert log.reason().startswith("error 0 ") and len(log.reason()) == 300
    assert log.scratch_bytes == 1024
    assert log.layers == LOG


def test_progress_of_nested_phases_never_goes_back() -> None:
    shares: list[float] = []
    phases = Phases(lambda share, label="": shares.append(share))
    phases.begin("outer", 2)
    phases.begin("inner", 4)
    for step in range(1, 5):
        assert phases.step("inner", step)
    phases.end("inner")
    phases.step("outer", 1)
    phases.begin("inner", 0)
    phases.step("inner", 1)
    phases.step("never begun", 3)
    phases.end("inner")
    phases.step("outer", 2)
    phases.finish()
    assert shares == sorted(shares)
    assert shares[:4] == [0.125, 0.25, 0.375, 0.5] and shares[-1] == 1.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_wish_and_comes_again_at_the_end(number: int) -> None:
    phases, came = Phases(no_progress), []
    before = signal.signal(number, lambda signum, frame: came.append(signum))
    try:
        with stoppable(phases):
            assert phases.step("x", 1)
            signal.raise_signal(number)
            assert not phases.step("x", 2)
            assert came == []
        assert came == [number]
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    "library, targets, precision",
    [
        ("tensorrt_rtx", ("sm75", "sm120"), "fp16"),
        ("tensorrt_rtx", (PORTABLE,), "fp8"),
        ("tensorrt_rtx", ("sm80", "sm121"), "bf16"),
        ("tensorrt_rtx", ("sm89",), "fp8"),
        ("tensorrt", ("native:sm90:NVIDIA H200",), "fp8"),
        ("tensorrt", ("native:sm75:T4",), "fp32"),
    ],
)
def test_targets_that_can_are_let_through(
    library: str, targets: tuple[str, ...], precision: str
) -> None:
    check_targets(library, targets, precision)


@pytest.mark.parametrize(
    "library, targets, precision, text",
    [
        ("tensorrt_rtx", ("sm90",), "fp16", "no target sm90"),
        ("tensorrt_rtx", ("sm87",), "fp16", "no target sm87"),
        ("tensorrt_rtx", ("sm89", "sm86"), "fp8", "sm86 has no fp8, which needs sm89"),
        ("tensorrt_rtx", ("sm75",), "bf16", "sm75 has no bf16, which needs sm80"),
        ("tensorrt_rtx", ("sm75",), "fp32", "no fp32 matrices on sm75"),
        ("tensorrt_rtx", ("native:sm90:NVIDIA H200",), "fp16", "no target sm90"),
        ("tensorrt", ("native:sm80:NVIDIA A100",), "fp8", "has no fp8, which needs sm89"),
    ],
)
def test_targets_that_cannot_are_refused_before_the_build(
    library: str, targets: tuple[str, ...], precision: str, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        check_targets(library, targets, precision)


@pytest.mark.parametrize(
    "values, text",
    [
        ({"library": "cudnn"}, "cudnn"),
        ({"graphs": ("vae",)}, "vae"),
        ({"graphs": ()}, "missing"),
        ({"batch": 0}, "got 0 and 0"),
        ({"batch": 4, "max_batch": 2}, "got 4 and 2"),
        ({"max_batch": 257}, "257"),
        ({"branches": (2, 1)}, "branches"),
        ({"texts": 0}, "texts"),
        ({"targets": ("native", "sm89")}, "native excludes others"),
        ({"require_fused": -1.0}, "require fused"),
    ],
)
def test_options_outside_their_rules_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        BuildOptions(**{"library": "tensorrt_rtx", **values})


def test_sizes_and_memory_of_a_bundles_graph(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bundle"))
    options = BuildOptions(library="tensorrt_rtx", batch=2, max_batch=4)
    # The stand-in's graphs have the one free size.
    assert sizes_for(bundle, "transformer", options) == {"batch": (1, 2, 4)}
    with pytest.raises(UsageError, match="free sizes batch"):
        sizes_for(bundle, "text_encoder", options)
    files = bundle.path / "transformer"
    on_disk = sum((files / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert weights_bytes(bundle, "transformer") == on_disk
    # Measured on a quiet machine: B/16's 485 MB took 1.33 GB and L/16's 1742 MB 3.43 GB.
    assert expected_memory_bytes(bundle, "transformer") >= 450_000_000 + int(1.82 * on_disk)
