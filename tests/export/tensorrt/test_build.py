"""Real engines by TensorRT-RTX, which builds without a card: census, cache, refusals."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.engines.cache import (
    Device,
    EngineRequest,
    cached_engines,
    engine_lock,
    find_engine,
    read_engine,
    require_engine,
)
from minit2i_deploy.engines.key import BuildFlags
from minit2i_deploy.engines.sidecar import PLAN_FILE
from minit2i_deploy.errors import BundleError, Minit2iError, RuntimeFailure, UsageError
from minit2i_deploy.export.quantize.graph.model_graph import write_graph
from minit2i_deploy.export.quantize.graph.rewrite import quantize_graph
from minit2i_deploy.export.quantize.schemes import find_scheme
from minit2i_deploy.export.tensorrt import (
    BuildLibrary,
    BuildOptions,
    Built,
    Outcome,
    build_bundle,
    build_engine,
    plan_bundle,
)
from tests.helpers.cli_runs import run
from tests.helpers.engine_bundles import FORMS, block_pair, demo_bundle, narrow_pair

TARGETS = ("sm120", "sm86", "sm89")
OPTIONS = BuildOptions(library="tensorrt_rtx", targets=TARGETS, max_batch=2)
HALF = FORMS[0]
# The smallest graph, for what is the same for all.
ADAPTER = dataclasses.replace(OPTIONS, graphs=("text_adapter",))


@functools.cache
def outcomes(form: tuple[str, int, int]) -> tuple[Outcome, ...]:
    return build_bundle(demo_bundle(*form), OPTIONS)


def copy_of(form: tuple[str, int, int], folder: Path, *, engines: bool = False) -> Bundle:
    """A copy that may be written into, with or without what ``outcomes`` built."""
    if engines:
        outcomes(form)
    ignored = None if engines else shutil.ignore_patterns("engines")
    shutil.copytree(demo_bundle(*form).path, folder, ignore=ignored)
    return Bundle.open(folder)


def request(capability: int, **changes: Any) -> EngineRequest:
    library = BuildLibrary.open("tensorrt_rtx")
    values: dict[str, Any] = {"library": library.name, "library_version": library.version}
    device = Device(capability=capability, name="a card")
    return EngineRequest(**{**values, "device": device, **changes})


def build_graph(graph: Path, precision: str, target: str, **flags: bool) -> Built:
    return build_engine(
        BuildLibrary.open("tensorrt_rtx"),
        graph,
        graph.with_suffix(".plan"),
        sizes={"n": (1, 1, 4), "batch": (1, 1, 1), "branches": (1, 2, 2)},
        targets=(target,),
        flags=BuildFlags(**flags),
        precision=precision,
    )


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0])
def test_every_graph_builds_for_ampere_ada_and_blackwell(form: tuple[str, int, int]) -> None:
    precision, _, depth = form
    records = {item.engine.record.key.graph: item.engine.record for item in outcomes(form)}
    assert list(records) == ["text_encoder", "text_adapter", "transformer"]
    for item in outcomes(form):
        assert item.built and item.reason == "none was built"
        assert item.engine.record.key.targets == TARGETS
        assert (item.engine.record.device_memory_bytes or 0) > 0
        assert (item.engine.record.host_memory_bytes or 0) > 0
        assert read_engine(demo_bundle(*form), item.engine.record.key) == item.engine
    attentions = {"text_encoder": 2, "text_adapter": 2, "transformer": depth}
    for name, record in records.items():
        audit = record.audit
        # No product in another type than the graph's: no islands of fp32.
        assert set(audit.gemms) == {"fp32" if name == "text_encoder" else precision}
        fused = 0 if "fp32" in audit.gemms else attentions[name]
        assert (audit.attention, audit.attention_fused) == (attentions[name], fused)
        assert audit.softmax_unfused == attentions[name] - fused
    # qkv, out and two of a SwiGLU (w1 and w3 in one) in each stream; the last block leaves the
    # text stream after its attention.
    if precision != "fp32":
        assert records["transformer"].audit.gemms[precision] == 8 * depth - 2


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("variant", ["b-16", "l-16"])
def test_two_blocks_at_full_width_stay_fused(variant: str, precision: str) -> None:
    """L/16's heads are 52 wide, which the library pads inside its kernels."""
    graph, config = block_pair(variant, precision)
    audit = build_graph(graph, precision, "sm89").audit
    assert (audit.attention, audit.attention_fused) == (2, 2)
    assert audit.softmax_unfused == 0
    assert audit.gemms == {precision: 14}
    assert config.head_dim == {"b-16": 64, "l-16": 52}[variant]


def test_an_engine_is_found_for_its_cards_and_no_other() -> None:
    bundle = demo_bundle(*HALF)
    outcomes(HALF)
    for capability in (86, 89, 120):
        found = require_engine(
            bundle, "transformer", request(capability, sizes={"batch": 2, "branches": 1})
        )
        assert found.record.key.precision == "fp16"
    reasons = {
        "this GPU is sm90": request(90),
        "accepts batch from 1 to 2": request(89, sizes={"batch": 3}),
        "but 1.0 is installed": request(89, library_version="1.0"),
    }
    for words, needs in reasons.items():
        search = find_engine(bundle, "transformer", needs)
        assert search.engine is None
        assert len(search.reasons) == 1 and words in search.reasons[0]


def test_what_is_current_is_kept(tmp_path: Path) -> None:
    bundle = copy_of(HALF, tmp_path / "bundle", engines=True)
    assert [item.built for item in build_bundle(bundle, OPTIONS)] == [False] * 3
    assert all(item.current for item in plan_bundle(bundle, OPTIONS))
    plan = next(cached_engines(bundle)).folder / PLAN_FILE
    before = plan.read_bytes()
    plan.write_bytes(before[:-7])
    planned = [item for item in plan_bundle(bundle, OPTIONS) if not item.current]
    assert len(planned) == 1 and "bytes, expected" in planned[0].reason


def test_a_graph_that_changed_is_built_again(tmp_path: Path) -> None:
    bundle = copy_of(HALF, tmp_path / "bundle", engines=True)
    path = bundle.graph_path("text_adapter")
    model = onnx.load(path, load_external_data=False)
    model.doc_string = "another graph"
    onnx.save(model, path)
    write_manifest(bundle.path, bundle.manifest)
    bundle = Bundle.open(bundle.path)
    planned = plan_bundle(bundle, OPTIONS)
    assert [item.current for item in planned] == [True, False, True]
    assert planned[1].reason == "the graph changed"
    assert find_engine(bundle, "text_adapter", request(89)).engine is None


def test_progress_runs_to_the_end_and_force_builds_again(tmp_path: Path) -> None:
    bundle = copy_of(HALF, tmp_path / "bundle", engines=True)
    seen: list[float] = []
    (again,) = build_bundle(
        bundle, ADAPTER, force=True, progress=lambda share, label="": seen.append(share)
    )
    assert again.built and again.reason == "forced"
    assert len(seen) > 20 and seen == sorted(seen) and seen[-1] == 1.0


def test_a_refittable_engine_is_for_one_card(tmp_path: Path) -> None:
    """Without a card it fails for a single target as well; with one, this still does."""
    bundle = copy_of(HALF, tmp_path / "bundle")
    options = dataclasses.replace(ADAPTER, flags=BuildFlags(refit=True))
    with pytest.raises(RuntimeFailure, match="--target native"):
        build_bundle(bundle, options)
    assert not (bundle.path / "engines").exists()


INTERRUPTED = """
import signal, sys
from pathlib import Path
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.export.tensorrt import BuildOptions, build_bundle

came = []

def interrupt(share, words=""):
    if not came:
        came.append(words)
        signal.raise_signal(signal.SIGINT)

# A shell's background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
options = BuildOptions(
    library="tensorrt_rtx", targets=("sm89",), graphs=("text_adapter",), max_batch=2
)
try:
    build_bundle(Bundle.open(Path(sys.argv[1])), options, progress=interrupt)
except KeyboardInterrupt:
    print("stopped")
"""


def test_a_build_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    bundle = copy_of(HALF, tmp_path / "bundle")
    # In a process of its own, as it happens.
    words = [sys.executable, "-c", INTERRUPTED, str(bundle.path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
    assert not (bundle.path / "engines").exists()


def test_another_build_of_the_same_engine_is_named(tmp_path: Path) -> None:
    bundle = copy_of(HALF, tmp_path / "bundle")
    (planned,) = plan_bundle(bundle, ADAPTER)
    with engine_lock(bundle, planned.key):
        with pytest.raises(Minit2iError, match=f"process {os.getpid()} is writing it"):
            build_bundle(bundle, ADAPTER)


def test_a_build_below_the_floor_writes_nothing(tmp_path: Path) -> None:
    form = FORMS[2]
    floor = dataclasses.replace(OPTIONS, graphs=("transformer",), require_fused=1.0)
    bundle = copy_of(form, tmp_path / "bundle")
    with pytest.raises(RuntimeFailure, match="0 of 2 attentions are fused, but 2 are required"):
        build_bundle(bundle, floor)
    assert list(cached_engines(bundle)) == []
    outcomes(form)
    with pytest.raises(RuntimeFailure, match="0 of 2 attentions"):
        build_bundle(demo_bundle(*form), floor)
    assert build_bundle(demo_bundle(*HALF), dataclasses.replace(OPTIONS, require_fused=4))


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    bundle = copy_of(HALF, tmp_path / "bundle")
    bundle.graph_path("text_adapter").write_bytes(b"not a graph")
    write_manifest(bundle.path, bundle.manifest)
    bundle = Bundle.open(bundle.path)
    with pytest.raises(BundleError, match=r"model\.onnx: tensorrt_rtx .* cannot read this graph"):
        build_bundle(bundle, ADAPTER)
    assert list(cached_engines(bundle)) == []


def test_a_timing_cache_is_none_of_rtx(tmp_path: Path) -> None:
    bundle = copy_of(HALF, tmp_path / "bundle")
    options = dataclasses.replace(ADAPTER, timing_cache=tmp_path / "cache")
    with pytest.raises(UsageError, match="timing-cache"):
        build_bundle(bundle, options)


def _save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], data: list[Any]
) -> Path:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, data)
    imports = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def _attention_graph(path: Path, element: int) -> Path:
    """One Attention of 2 heads of 64 over 32 tokens."""
    info = [
        helper.make_tensor_value_info(name, element, ["n", 2, 32, 64]) for name in ("q", "k", "v")
    ]
    out = helper.make_tensor_value_info("y", element, ["n", 2, 32, 64])
    return _save(path, [helper.make_node("Attention", ["q", "k", "v"], ["y"])], info, [out], [])


def test_attention_without_a_kernel_is_taken_apart_in_fp32_or_when_allowed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    full = _attention_graph(tmp_path / "full.onnx", TensorProto.FLOAT)
    assert build_graph(full, "fp32", "sm89").audit.attention_fused == 0
    half = build_graph(
        _attention_graph(tmp_path / "half.onnx", TensorProto.FLOAT16), "fp16", "sm89"
    )
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
    return _save(path, nodes, [x], [y], data)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantized_products_are_counted_by_their_type(tmp_path: Path, precision: str) -> None:
    graph = _quantized_graph(tmp_path / "model.onnx", precision)
    assert build_graph(graph, precision, "sm89").audit.gemms == {precision: 1}
    if precision == "fp8":
        with pytest.raises(RuntimeFailure, match=r"target.*sm86.*fp8"):
            build_graph(graph, precision, "sm86")


@pytest.mark.parametrize("name", ["int8", "fp8", "fp8-attention"])
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


def test_the_command_builds_plans_and_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = copy_of(HALF, tmp_path / "bundle")
    words = ["build", bundle.path, "--engine", "tensorrt-rtx", "--target", "sm86", "sm89"]
    words += ["--graph", "text_adapter"]
    plan = run(capsys, *words, "--plan")
    assert plan.code == 0 and "none was built" in plan.out and "text_adapter" in plan.out
    built = run(capsys, *words, "--json")
    assert (built.code, built.err) == (0, "")
    (record,) = json.loads(built.out)
    assert record["built"] and record["key"]["targets"] == ["sm86", "sm89"]
    again = run(capsys, *words)
    assert "current" in again.out and "attention fused 2/2" in again.out
    (planned,) = json.loads(run(capsys, *words, "--plan", "--json").out)["engines"]
    assert planned["build"] is False
    shown = run(capsys, "inspect", bundle.path)
    (line,) = (line for line in shown.out.splitlines() if "sm86 sm89" in line)
    assert line.endswith("current")
    plan_file = next(cached_engines(bundle)).folder / PLAN_FILE
    plan_file.write_bytes(plan_file.read_bytes()[:-1])
    (engine,) = json.loads(run(capsys, "inspect", bundle.path, "--json").out)["engines"]
    assert "bytes, expected" in engine["state"]


@pytest.mark.parametrize(
    "words, code, text",
    [
        (["--engine", "tensorrt-rtx", "--target", "sm90"], 2, "no target sm90"),
        (["--engine", "tensorrt-rtx", "--batch", "3", "--max-batch", "2"], 2, "max batch 2"),
        (
            ["--engine", "tensorrt-rtx", "--require-fused", "1"],
            2,
            "or an integer of at least 2, got '1'",
        ),
        (
            ["--engine", "tensorrt-rtx", "--require-fused", "most"],
            2,
            "expected all, a share such as 90%",
        ),
        (
            ["--engine", "tensorrt-rtx", "--branches", "two"],
            2,
            "expected LEAST,MOST such as 1,2, got 'two'",
        ),
        (["--engine", "tensorrt-rtx", "--optimization-level", "9"], 2, "0 to 5"),
        (["--engine", "tensorrt-rtx", "--wait", "-1"], 2, "--wait: expected at least 0, got -1"),
        (["--engine", "tensorrt-rtx", "--wait", "nan"], 2, "--wait: expected at least 0, got nan"),
        (
            ["--engine", "tensorrt-rtx", "--timing-cache", "c"],
            2,
            "--timing-cache requires --engine",
        ),
        (["--engine", "onnxruntime"], 2, "invalid choice"),
        (["--engine", "tensorrt"], 1, "pip install 'minit2i-deploy[tensorrt]'"),
    ],
)
def test_wrong_use_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str
) -> None:
    done = run(capsys, "build", demo_bundle(*HALF).path, *words)
    assert done.code == code
    assert text in done.error


def test_only_one_line_is_said_of_a_failed_build(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The library writes to the file descriptor itself."""
    bundle = copy_of(FORMS[2], tmp_path / "bundle")
    _attention_graph(bundle.graph_path("text_adapter"), TensorProto.FLOAT)
    value = onnx.load(bundle.graph_path("text_adapter")).graph.input[0]
    shape = ("n", *(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:]))
    info = bundle.manifest.graphs["text_adapter"]
    tensor = dataclasses.replace(next(iter(info.outputs.values())), shape=shape)
    # Said to be fp16, so that nothing allows its attention to be taken apart.
    info = dataclasses.replace(
        info, precision="fp16", inputs=dict.fromkeys("qkv", tensor), outputs={"y": tensor}
    )
    graphs = {**bundle.manifest.graphs, "text_adapter": info}
    write_manifest(bundle.path, dataclasses.replace(bundle.manifest, graphs=graphs))
    done = run(
        capfd, "build", bundle.path, "--engine", "tensorrt-rtx", "--target", "sm89",
        "--graph", "text_adapter",
    )  # fmt: skip
    assert done.code == 1
    assert "--allow-unfused" in done.error
