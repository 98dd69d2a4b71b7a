"""Real engines by TensorRT-RTX, which builds without a GPU: kernels, cache, refusals."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

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
from minit2i_deploy.export.tensorrt import (
    BuildLibrary,
    build_bundle,
    plan_bundle,
)
from tests.helpers.engine_bundles import FORMS, demo_bundle
from tests.helpers.tensorrt_builds import ADAPTER, HALF, OPTIONS, TARGETS, copy_of, outcomes


def request(capability: int, **changes: Any) -> EngineRequest:
    library = BuildLibrary.open("tensorrt_rtx")
    values: dict[str, Any] = {"library": library.name, "library_version": library.version}
    device = Device(capability=capability, name="a GPU")
    return EngineRequest(**{**values, "device": device, **changes})


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
    # text stream after its attention, and the patches are embedded by two.
    if precision != "fp32":
        assert records["transformer"].audit.gemms[precision] == 8 * depth - 2 + 2


def test_an_engine_is_for_its_gpus_and_no_other() -> None:
    bundle = demo_bundle(*HALF)
    outcomes(HALF)
    for capability in (86, 89, 120):
        engine = require_engine(
            bundle, "transformer", request(capability, sizes={"batch": 2, "branches": 1})
        )
        assert engine.record.key.precision == "fp16"
    reasons = {
        "this GPU is sm90": request(90),
        "accepts batch from 1 to 2": request(89, sizes={"batch": 3}),
        "but 1.0 is installed": request(89, library_version="1.0"),
    }
    for text, needs in reasons.items():
        search = find_engine(bundle, "transformer", needs)
        assert search.engine is None
        assert len(search.reasons) == 1 and text in search.reasons[0]


def test_current_engines_are_not_built_again(tmp_path: Path) -> None:
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
    shares: list[float] = []
    (again,) = build_bundle(
        bundle, ADAPTER, force=True, progress=lambda share, label="": shares.append(share)
    )
    assert again.built and again.reason == "forced"
    assert len(shares) > 20 and shares == sorted(shares) and shares[-1] == 1.0


def test_a_refittable_engine_is_for_one_gpu(tmp_path: Path) -> None:
    """Without a GPU it fails for a single target as well; with one, this still does."""
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

def interrupt(share, label=""):
    if not came:
        came.append(share)
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
    with pytest.raises(RuntimeFailure, match=r"0 of 2 .* 2 are required; no engine of transformer"):
        build_bundle(bundle, floor)
    assert list(cached_engines(bundle)) == []
    outcomes(form)
    # One of an earlier build, without a floor, is there and stays.
    with pytest.raises(RuntimeFailure, match=r"0 of 2 .* of an earlier build stays") as refused:
        build_bundle(demo_bundle(*form), floor)
    assert "written" not in str(refused.value)
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
